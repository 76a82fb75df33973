"""`batchinfer runs`: read documents once, and watch how far that is, over HTTP. A run needs nobody who watches."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchinfer.cli.declarations import read_declarations
from batchinfer.cli.output import JSON, UNANSWERED, emit, remark, say
from batchinfer.cli.remote import remote, show_time
from batchinfer.client.progress import Bar, Meter, describe, make_plain, open_console

if TYPE_CHECKING:
    from batchinfer.client import Client, Run
    from batchinfer.client.nouns import RunDocument

YAML = click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
_LIMIT = click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)


@click.group()
def runs() -> None:
    """Runs: documents of a folder or bucket, read once."""


@runs.command("start")
@YAML
@click.option("--watch", is_flag=True, help="Watch it to its end.")
@click.option("--preview", is_flag=True, help="Only say what it would do: how much is new, unchanged, read again.")
@JSON
@remote
def start_run(client: Client, path: Path, watch: bool, preview: bool, as_json: bool) -> None:
    """Begin a run that a YAML file declares."""
    declared = read_declarations(path)
    if len(declared) != 1:
        raise click.ClickException(f"{path.name}: it declares {len(declared)} runs. Put each into a file of its own.")
    with declared[0].naming_lines():
        if preview:
            found = client.runs.preview(declared[0].value)
            emit(found) if as_json else say(make_plain(str(found["reason"]), 400))
            return
        run = client.runs.start(declared[0].value)
    if watch:
        remark(f"{run.id} has begun.")
        follow(client, run, as_json=as_json)
    else:
        show_run(run, as_json=as_json)


@runs.command("list")
@click.option("--schedule", help="Only those of this schedule, by id or name.")
@_LIMIT
@JSON
@remote
def list_runs(client: Client, schedule: str | None, limit: int, as_json: bool) -> None:
    """The newest runs."""
    schedule_id = client.schedules.find(schedule).id if schedule else None
    for run in client.runs.list(schedule_id=schedule_id, limit=limit):
        show_run(run, as_json=as_json)


@runs.command("show")
@click.argument("run_id")
@JSON
@remote
def show_one(client: Client, run_id: str, as_json: bool) -> None:
    """One run as it stands."""
    run = client.runs.get(run_id)
    show_run(run, as_json=as_json)
    if not as_json:
        _tell_more(run)


@runs.command("watch")
@click.argument("run_id")
@JSON
@remote
def watch_run(client: Client, run_id: str, as_json: bool) -> None:
    """Watch a run to its end; ends with 3 where not all of it was read. Ctrl-C leaves it running."""
    follow(client, client.runs.get(run_id), as_json=as_json)


@runs.command("pause")
@click.argument("run_id")
@JSON
@remote
def pause_run(client: Client, run_id: str, as_json: bool) -> None:
    """Begin no more pages of a run; what is being read is read to its end."""
    show_run(client.runs.pause(run_id), as_json=as_json)


@runs.command("resume")
@click.argument("run_id")
@JSON
@remote
def resume_run(client: Client, run_id: str, as_json: bool) -> None:
    """Let a run go on that was paused, or that paused itself."""
    show_run(client.runs.resume(run_id), as_json=as_json)


@runs.command("cancel")
@click.argument("run_id")
@JSON
@remote
def cancel_run(client: Client, run_id: str, as_json: bool) -> None:
    """End what has not ended of a run; what it has read is kept."""
    show_run(client.runs.cancel(run_id), as_json=as_json)


@runs.command("retry")
@click.argument("run_id")
@click.option(
    "--code", "codes", multiple=True, help="Only documents with pages that failed for this; several for more."
)
@JSON
@remote
def retry_run(client: Client, run_id: str, codes: tuple[str, ...], as_json: bool) -> None:
    """Read documents of an ended run again that have pages which failed, as a new run with its settings."""
    show_run(client.runs.retry(run_id, codes), as_json=as_json)


@runs.command("documents")
@click.argument("run_id")
@click.option("--stage", help="Only those that are listed, queued, closed or skipped.")
@click.option("--outcome", help="Only those that are completed, completed_with_errors, failed, cancelled or expired.")
@_LIMIT
@JSON
@remote
def list_documents(
    client: Client, run_id: str, stage: str | None, outcome: str | None, limit: int, as_json: bool
) -> None:
    """The documents of a run, in the order in which they were listed."""
    for document in client.runs.list_documents(run_id, stage=stage, outcome=outcome, limit=limit):
        if as_json:
            emit(document.as_dict())
        else:
            say(_describe(document))


def _describe(document: RunDocument) -> str:
    counts = document.page_counts
    pages = f"{counts.get('ended', 0):,}/{counts.get('total', 0):,} pages"
    bad = f", {counts['failed']:,} failed" if counts.get("failed") else ""
    why = f"  {document.error.code}: {make_plain(document.error.message)}" if document.error else ""
    stands = document.outcome or document.stage
    return (
        f"{document.number:>7}  {document.id}  {stands:<21}  {make_plain(document.filename or '-')}  {pages}{bad}{why}"
    )


def follow(client: Client, run: Run, *, as_json: bool) -> None:
    """To its end, with a bar on stderr. Ends with 3 where not all of it was read."""
    try:
        with Bar(open_console()) as bar:
            ended = client.runs.wait(run.id, tell=_Teller(bar))
    except KeyboardInterrupt:
        context = click.get_current_context()
        where = [f"--{name}={value}" for name in ("url", "home") if (value := context.params.get(name)) is not None]
        again = shlex.join(["batchinfer", "runs", "watch", run.id, *where])
        remark(f"\nThe run goes on without you. To watch it again:\n  {again}")
        raise
    show_run(ended, as_json=as_json)
    if not as_json:
        _tell_more(ended)
    if not ended.succeeded:
        raise SystemExit(UNANSWERED)


@dataclass
class _Teller:
    """Tells a bar how a run stands. Its total grows while documents are rendered."""

    bar: Bar

    def __post_init__(self) -> None:
        self._meter, self._cause = Meter(), ""

    def __call__(self, run: Run) -> None:
        pages, documents = run.counts.pages, run.counts.documents
        if pages.total:
            self._meter.note(pages.ended)
        if run.cause is not None and run.cause.message != self._cause:
            self._cause = run.cause.message
            self.bar.say(f"{run.status}: {make_plain(run.cause.message)}")
        more = (
            f"{documents.closed:,}/{documents.listed - documents.skipped:,} documents",
            f"{pages.failed:,} failed" if pages.failed else "", run.status,
        )  # fmt: skip
        text = describe(self._meter, pages.ended, pages.total, "pages", *more)
        self.bar.show(pages.ended, pages.total, text if pages.total else run.status)


def show_run(run: Run, *, as_json: bool) -> None:
    """One line about a run, or its JSON."""
    if as_json:
        emit(run.as_dict())
        return
    pages, documents = run.counts.pages, run.counts.documents
    numbers = {
        "fallback": pages.fallback, "failed": pages.failed, "blank": pages.blank, "expired": pages.expired,
        "cancelled": pages.cancelled,
    }  # fmt: skip
    others = [f"{number:,} {word}" for word, number in numbers.items() if number]
    stands = ", ".join([f"{pages.ok:,} of {pages.total:,} pages read", *others])
    skipped = f", {documents.skipped:,} unchanged" if documents.skipped else ""
    when = show_time(run.instant or run.created_at)
    name = make_plain(run.name or "-")
    say(f"{run.id}  {run.status:<21}  {when}  {name}  {documents.listed:,} documents{skipped}; {stands}")


def _tell_more(run: Run) -> None:
    for name, place in run.files.items():
        say(f"{name:<10} {make_plain(place)}")
    if run.cause is not None:
        remark(f"{run.cause.code}: {make_plain(run.cause.message)}")
