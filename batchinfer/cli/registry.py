"""`batchinfer models register|fetch|revisions|prune|verify`: the files of models, next to the database."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from batchinfer.cli.local import HOME, context, operator
from batchinfer.cli.output import FAILED, INTERRUPTED, JSON, emit, err, remark, say

if TYPE_CHECKING:
    from batchinfer.client import Client
    from batchinfer.errors import NotFound
    from batchinfer.services.context import Context
    from batchinfer.store.revisions import Revision

_POLL_S = 0.5
_SHORT = 12


@click.command("register")
@HOME
@click.argument("source", metavar="DIR|REPO|URI")
@click.option("--name", help="What jobs call it; the last part of the source if left out.")
@click.option("--revision", help="Of a hub: a commit's hash, a branch or a tag; the first branch if left out.")
@click.option("--modelscope", is_flag=True, help="REPO is of ModelScope, not of Hugging Face.")
@JSON
def register_model(
    home: Path | None, source: str, name: str | None, revision: str | None, modelscope: bool, as_json: bool
) -> None:
    """Make a model known: a folder, a repository of a hub, or s3://bucket/folder. Nothing of its weights is read."""
    from batchinfer.domain.registry import parse_register
    from batchinfer.services import registry

    place = read_source(source, revision, modelscope=modelscope)
    wanted = name or re.split(r"[/:]", source.rstrip("/"))[-1]
    with context(home) as ctx:
        made = registry.register(ctx, operator(), parse_register({"name": wanted, "source": place}))
    if as_json:
        _emit(made)
        return
    say(f"{made.model} is known, revision {made.revision}: {len(made.files)} files, {decimal(made.size_bytes)}.")
    for label, value in describe_facts(made.facts):
        say(f"  {label}: {value}")
    if made.state in ("registered", "failed"):
        remark(f"Fetch it with `batchinfer models fetch {made.model} {made.revision[:_SHORT]}`.")


def read_source(source: str, revision: str | None, *, modelscope: bool) -> dict[str, Any]:
    """What a source on the command line means: something with `://` is a bucket, a folder that is there is one, all
    else a repository."""
    if "://" in source:
        return {"kind": "bucket", "uri": source}
    folder = Path(source).expanduser().absolute()
    if not modelscope and (source.startswith(("/", ".", "~")) or (folder / "config.json").is_file()):
        return {"kind": "folder", "path": str(folder)}
    asked = {"revision": revision} if revision else {}
    return {"kind": "modelscope" if modelscope else "huggingface", "repo": source, **asked}


def describe_facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts that people look for, each with its label."""
    image = facts.get("image") or {}
    shown = {
        "architecture": facts.get("architecture"),
        "context": f"{facts['context_tokens']:,} tokens" if facts.get("context_tokens") else None,
        "pictures": ", ".join(f"{name} {value}" for name, value in image.items()) or None,
        "chat template": (facts.get("chat_template") or {}).get("file"),
        "weights": decimal(facts["weights_bytes"]) if facts.get("weights_bytes") else None,
        "licence": facts.get("licence"),
    }
    return [(label, str(value)) for label, value in shown.items() if value]


@click.command("fetch")
@HOME
@click.argument("model")
@click.argument("revision", required=False)
@click.option("--detach", is_flag=True, help="Do not wait for the end.")
@click.option("--cancel", is_flag=True, help="End the fetch; what has come is kept for the next one.")
@JSON
def fetch_model(home: Path | None, model: str, revision: str | None, detach: bool, cancel: bool, as_json: bool) -> None:
    """Have a CPU worker bring the files of a revision, the newest if left out; goes on where an earlier one stopped.

    Ends with 1 where it fails. Interrupted, the fetch goes on.
    """
    from batchinfer.services import registry

    with context(home) as ctx:
        chosen = _find(ctx, model, revision)
        if cancel:
            found = registry.cancel_fetch(ctx, operator(), model, chosen.revision)
        else:
            found = registry.fetch(ctx, operator(), model, chosen.revision)
            if not detach:
                try:
                    found = _watch(ctx, found)
                except KeyboardInterrupt:
                    remark("It goes on without you. `batchinfer models fetch` shows it again, `--cancel` ends it.")
                    sys.exit(INTERRUPTED)
    if as_json:
        _emit(found)
    else:
        say(f"{found.model} {found.revision[:_SHORT]} is {found.state}{f': {found.path}' if found.path else ''}.")
    if found.state == "failed":
        err.print(f"[red]{_escape((found.error or {}).get('message', ''))}[/red]")
        sys.exit(FAILED)


def _watch(ctx: Context, revision: Revision) -> Revision:
    """Show how far a fetch is until it has ended."""
    from batchinfer.services import registry

    bar = Progress(TextColumn("  "), BarColumn(bar_width=32), DownloadColumn(), TextColumn("{task.description}",
                   markup=False), console=err, transient=True)  # fmt: skip
    task, said = bar.add_task("waiting for a CPU worker", total=revision.size_bytes or None), ""
    with bar:
        while revision.state == "fetching":
            bar.update(task, completed=revision.fetched_bytes, description=describe_progress(revision))
            trouble = (revision.error or {}).get("message", "")
            if trouble and trouble != said:
                bar.console.print(f"  {_escape(trouble)}")
            said = trouble
            time.sleep(_POLL_S)
            revision = registry.get_revision(ctx, operator(), revision.model, revision.revision)
    return revision


def describe_progress(revision: Revision) -> str:
    """Rate, time left and the file that comes, for example `81.2 MB/s  1 min 20 s left  model.safetensors`."""
    from batchinfer.client.progress import show_duration

    told = revision.progress
    if not told:
        return "waiting for a CPU worker"
    rate = told.get("bytes_per_s") or 0
    left = f"{show_duration(max(0, revision.size_bytes - revision.fetched_bytes) / rate)} left" if rate else ""
    return "  ".join(part for part in (f"{decimal(rate)}/s" if rate else "", left, told.get("file") or "") if part)


@click.command("revisions")
@HOME
@click.argument("model")
@JSON
def list_revisions(home: Path | None, model: str, as_json: bool) -> None:
    """The revisions of a model, newest first: what is here, what is on its way, what failed and why."""
    from batchinfer.services import registry

    with context(home) as ctx:
        found = registry.list_revisions(ctx, operator(), model)
    for one in found:
        if as_json:
            _emit(one)
            continue
        when = one.created_at.isoformat(timespec="seconds")
        where = one.source.get("repo") or one.source.get("uri") or one.source.get("path") or ""
        say(f"{one.revision}  {one.state:<10} {decimal(one.size_bytes):>9}  {when}  {where}")
        if one.error:
            say(f"  {one.error.get('message', '')}")


@click.command("prune")
@HOME
@click.argument("model", required=False)
@click.argument("revision", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
def prune_models(
    home: Path | None, model: str | None, revision: str | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Take away the files of revisions that nobody needs; never of one that is served, rolled back to or loaded."""
    from batchinfer.services import registry

    with context(home) as ctx:
        found = registry.prune(ctx, operator(), model=model, revision=revision, dry_run=True)
        going = [one for one in found if one.kept is None]
        if going and not dry_run:
            if not yes:
                total = decimal(sum(one.size_bytes for one in going))
                click.confirm(f"Take away {len(going)} revisions and free {total}?", abort=True, err=True)
            found = registry.prune(ctx, operator(), model=model, revision=revision)
    for one in found:
        if as_json:
            emit({"model": one.model, "revision": one.revision, "bytes": one.size_bytes, "kept": one.kept})
            continue
        what = f"stays ({one.kept.replace('_', ' ')})" if one.kept else ("would go" if dry_run else "gone")
        say(f"{one.model} {one.revision[:_SHORT]}  {decimal(one.size_bytes):>9}  {what}")
    if not as_json:
        freed = decimal(sum(one.size_bytes for one in found if one.kept is None))
        say(f"{'It would free' if dry_run else 'Freed'} {freed}.")


def verify_known(
    home: Path | None, model: str, revision: str | None, program: list[str], options: list[str], *, quiet: bool
) -> int | None:
    """Read the files of a known revision again, then run `program` on its folder, and note the outcome: its status.

    None where the service does not run or knows no such model. Raises Conflict where the files have changed.
    """
    from batchinfer.errors import NotFound, StartError, Unavailable
    from batchinfer.services import registry

    try:
        with context(home) as ctx:
            chosen = _find(ctx, model, revision, ("fetched", "verified"))
            if not quiet:
                remark(f"Reading {decimal(chosen.size_bytes)} of {chosen.model} {chosen.revision[:_SHORT]}.")
            checked = registry.check_files(ctx, operator(), model, chosen.revision)
            if not quiet:
                remark(f"{len(checked.files)} files are what they were.")
            status = subprocess.run([*program, checked.path, *options], check=False).returncode
            if status == 0:
                registry.mark_verified(ctx, operator(), checked)
            return status
    except (StartError, Unavailable, NotFound):
        if revision is not None:
            raise
        return None


def verify_remotely(client: Client, model: str, revision: str | None, *, as_json: bool) -> int:
    """Have a CPU worker of the service read the files of a revision again, the newest that is here if none is named,
    and wait for it. Answers the exit status: 1 where they have changed. Raises NotFound, Conflict."""
    if revision is None:
        known = client.models.revisions(model)
        here = [one for one in known if one.status in ("fetched", "verified")]
        if not known:
            raise _make_none(model)
        revision = (here or known)[0].id
    begun = client.models.verify(model, revision)
    found = client.models.wait_fetched(model, begun.id, poll_s=_POLL_S)
    if as_json:
        emit(found.as_dict())
    elif found.error is None:
        say(f"{len(found.files)} files of {found.model} {found.id[:_SHORT]} are what they were.")
    else:
        err.print(f"[red]{_escape(found.error.message)}[/red]")
    return FAILED if found.error is not None else 0


def _find(ctx: Context, model: str, revision: str | None, states: tuple[str, ...] = ()) -> Revision:
    """The revision that was named, else the newest, of those in `states` where there are any. Raises NotFound."""
    from batchinfer.services import registry

    if revision is not None:
        return registry.get_revision(ctx, operator(), model, revision)
    known = registry.list_revisions(ctx, operator(), model)
    if not known:
        raise _make_none(model)
    return next((one for one in known if one.state in states), known[0])


def _make_none(model: str) -> NotFound:
    from batchinfer.errors import NotFound

    return NotFound(f"The model '{model[:100]}' has no revisions. Register it first.", code="revision_not_found")


def _emit(revision: Revision) -> None:
    from batchinfer.api.revisions import show_revision

    emit(show_revision(revision).model_dump(mode="json"))


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
