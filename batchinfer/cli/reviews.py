"""What a run brought: `batchinfer runs report|review|sample|seal` and `batchinfer goldens`, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchinfer.cli.output import JSON, emit, remark, say, show_text
from batchinfer.cli.remote import remote, show_time
from batchinfer.cli.runs import runs
from batchinfer.client.progress import make_plain

if TYPE_CHECKING:
    from batchinfer.client import Client
    from batchinfer.client.reviews import Accuracy, SamplePage

_KEYS = "y right, n wrong, g right and golden, s skip, q quit"
_VERDICTS = {"y": "right", "g": "right", "n": "wrong"}


@click.command("report")
@click.argument("run_id")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page to this file.")
@JSON
@remote
def show_report(client: Client, run_id: str, html: Path | None, as_json: bool) -> None:
    """How a run went, or goes: what was read, what failed and why, how right it was."""
    if html is not None:
        client.reviews.download_report(run_id, html)
        remark(f"The page is {html}.")
    report = client.reviews.report(run_id)
    if as_json:
        emit(report)
    elif html is None:
        _tell(report)


def _tell(report: dict[str, Any]) -> None:
    say(f"{report['run_id']}  {report['state']}  {make_plain(report['name'] or '')}")
    if report["cause"]:
        say(f"cause      {report['cause'].get('code')}: {make_plain(str(report['cause'].get('message') or ''))}")
    for name in ("documents", "pages"):
        counts = {word: number for word, number in report[name].items() if word not in ("total", "bytes") and number}
        said = ", ".join(f"{number:,} {word.replace('_', ' ')}" for word, number in counts.items())
        say(f"{name:<10} {report[name]['total']:,}: {said or 'none ended'}")
    rate = report["pages_per_second"]
    say(f"speed      {rate or 0:,.2f} pages/s in {report['seconds']:,.0f} s")
    say(f"tokens     {report['tokens']['input']:,} in, {report['tokens']['output']:,} out")
    for cause in report["failures"]:
        first = cause["examples"][0]
        where = make_plain(first["name"] or "") + (f", page {first['page']}" if first["page"] else "")
        say(f"failed     {cause['count']:,} {cause['of']}: {cause['code']} ({where}: {make_plain(first['message'])})")
    accuracy = report["accuracy"]
    if accuracy and accuracy["judged"]:
        say(f"right      {_describe(accuracy)}")


def _describe(accuracy: dict[str, Any]) -> str:
    low, high, share = (100 * accuracy[name] for name in ("low", "high", "share"))
    return (
        f"{accuracy['right']:,} of {accuracy['judged']:,} judged pages, {share:.1f} % "
        f"({low:.1f} to {high:.1f} % with 95 % confidence)"
    )


@click.command("seal")
@click.argument("run_id")
@JSON
@remote
def seal_run(client: Client, run_id: str, as_json: bool) -> None:
    """Write what could not be written to the sinks of a run, once they work again."""
    sealed = client.reviews.seal(run_id)
    if as_json:
        emit(sealed)
    else:
        say(f"{sealed['id']}  {sealed['status']}")


@click.command("sample")
@click.argument("run_id")
@click.option("--size", type=click.IntRange(min=0), help="Draw pages until there are so many.")
@JSON
@remote
def show_sample(client: Client, run_id: str, size: int | None, as_json: bool) -> None:
    """The random sample of a run's pages."""
    if size is not None:
        client.reviews.draw(run_id, size)
    for page in client.reviews.list(run_id):
        if as_json:
            emit(page.as_dict())
        else:
            say(f"{page.number:>5}  {page.verdict or '-':<5}  {page.id}  {_name(page)}")


@click.command("review")
@click.argument("run_id")
@remote
def review_run(client: Client, run_id: str) -> None:
    """Judge the pages of a run's sample, one key a page, those that nobody has judged. Ctrl-C ends it at any time."""
    seen = 0
    for page in client.reviews.list(run_id, verdict="none"):
        seen += 1
        say(f"\n{page.number}. {_name(page)}{'' if page.outcome == 'ok' else f' [{page.outcome}]'}")
        if page.picture:
            say(f"   {client.url.rstrip('/').removesuffix('/v1')}{page.picture}")
        say(show_text(page.answer or "(no answer is kept)"))
        if not _judge(client, run_id, page):
            return
        _tell_accuracy(client.reviews.accuracy(run_id))
    remark("Nothing is left to be judged." if seen else "No page waits to be judged. `runs sample --size` draws more.")


def _judge(client: Client, run_id: str, page: SamplePage) -> bool:
    """One page by one key. False: enough for now."""
    while True:
        click.echo(f"[{_KEYS}] ", nl=False, err=True)
        key = click.getchar().lower()
        click.echo(key if key.isprintable() else "", err=True)
        if key in _VERDICTS:
            client.reviews.judge(run_id, page.id, _VERDICTS[key])
            if key == "g":
                remark(f"{client.reviews.keep_golden(run_id, page.id).id} is kept.")
            return True
        if key in "sq":
            return key == "s"
        if key in ("\x03", "\x04", ""):
            raise KeyboardInterrupt


def _tell_accuracy(accuracy: Accuracy | None) -> None:
    if accuracy is not None and accuracy.judged:
        remark(_describe(accuracy.as_dict()))


def _name(page: SamplePage) -> str:
    return make_plain(page.name or "a document") + (f", page {page.page}" if page.page else "")


#: What `batchinfer runs` has beside the verbs of runs themselves.
VERBS = (show_report, review_run, show_sample, seal_run)
for _verb in VERBS:
    runs.add_command(_verb)


@click.group()
def goldens() -> None:
    """Golden prompts: pages whose right answer is known."""


@goldens.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@JSON
@remote
def list_goldens(client: Client, limit: int, as_json: bool) -> None:
    """The newest golden prompts."""
    for golden in client.goldens.list(limit=limit):
        if as_json:
            emit(golden.as_dict())
        else:
            first = make_plain(golden.answer.splitlines()[0][:60]) if golden.answer else ""
            say(f"{golden.id}  {show_time(golden.created_at)}  {make_plain(golden.model)}  {first}")


@goldens.command("export")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@remote
def export_goldens(client: Client, path: Path) -> None:
    """Write all golden prompts to a file: a line of JSON each, with its picture."""
    client.goldens.export(path)
    remark(f"The golden prompts are in {path}.")


@goldens.command("delete")
@click.argument("golden_id")
@remote
def delete_golden(client: Client, golden_id: str) -> None:
    """Forget a golden prompt."""
    client.goldens.delete(golden_id)
