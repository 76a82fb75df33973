"""`batchinfer submit`: one prompt for files or folders, over HTTP."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchinfer.cli.output import JSON, UNANSWERED, emit, remark, say, show_text
from batchinfer.cli.remote import read_pairs, remote
from batchinfer.client.folders import find_files
from batchinfer.client.mapping import Outcome, concerns_all
from batchinfer.client.progress import make_plain
from batchinfer.client.sinks import write_jsonl
from batchinfer.domain.jobs import JobClass
from batchinfer.errors import BatchinferError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchinfer.client import Client


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(path_type=Path, exists=True))
@click.option("--prompt", required=True, help="What to do with each file.")
@click.option("--model", help="A name that the service lists; one that is ready if left out.")
@click.option("--system", help="A system message.")
@click.option("--max-tokens", type=click.IntRange(min=1))
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--class", "job_class", type=click.Choice([one.value for one in JobClass]), help="Who goes first.")
@click.option(
    "--metadata", multiple=True, metavar="NAME=TEXT", help="Comes back with the jobs; several times for more."
)
@click.option("--set", "fields", multiple=True, metavar="FIELD=JSON", help="Any other field of a job.")
@click.option("--wait", is_flag=True, help="Wait for the answers and print them in the order of the files.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the answers here as JSON lines.")
@click.option("--in-flight", type=click.IntRange(min=1), default=64, show_default=True, help="Files at once.")
@click.option("--retry-failed", is_flag=True, help="With --out: try again what an earlier run got no answer for.")
@JSON
@remote
def submit(
    client: Client, /, files: Sequence[Path], prompt: str, out: Path | None, wait: bool, as_json: bool, **wishes: Any
) -> None:
    """Submit FILES (pictures, PDF, TIFF, or folders of them), each with the prompt; without any, the prompt alone.

    Prints ids and ends, unless --wait or --out says to stay. With --out the same command again goes on where an
    earlier one was interrupted (FILE.state beside it says where) and does nothing twice. Ends with 3 where a file was
    refused or has no answer.
    """
    flow = {name: wishes.pop(name) for name in ("in_flight", "retry_failed")}
    options = _read_options(**wishes)
    paths = [path for file in files for path in (find_files(file)[0] if file.is_dir() else [file])]
    if files and not paths:
        raise click.BadParameter("no picture, PDF or TIFF is in there", param_hint="FILE")
    if not paths:
        good = _submit_text(client, prompt, options, wait=wait or out is not None, as_json=as_json)
    elif out is not None:
        good = _write_all(client, paths, prompt, out, as_json=as_json, **flow, **options)
    elif wait:
        outcomes = client.map(
            paths, prompt, ordered=True, progress=not sys.stdout.isatty(), in_flight=flow["in_flight"], **options
        )
        good = not sum(not _show(outcome, as_json=as_json) for outcome in outcomes)
    else:
        good = not sum(not _submit_file(client, path, prompt, options, as_json=as_json) for path in paths)
    if not good:
        raise SystemExit(UNANSWERED)


def _read_options(*, metadata: tuple[str, ...], fields: tuple[str, ...], **wishes: Any) -> dict[str, Any]:
    """The options of a job. Raises click.BadParameter."""
    options = {name: value for name, value in wishes.items() if value is not None}
    if metadata:
        options["metadata"] = read_pairs(metadata, "--metadata")
    for name, text in read_pairs(fields, "--set").items():
        try:
            options[name] = json.loads(text)
        except ValueError:
            raise click.BadParameter(
                f'{name} is no JSON; a text stands in quotes: {name}="..."', param_hint="--set"
            ) from None
    return options


def _submit_text(client: Client, prompt: str, options: dict[str, Any], *, wait: bool, as_json: bool) -> bool:
    job = client.submit(prompt, **options)
    if not wait:
        _tell_made("-", job.as_dict(), as_json=as_json)
        return True
    ended = client.wait(job)
    if as_json:
        emit(ended.as_dict())
    elif ended.succeeded:
        say(show_text(ended.as_dict()["result"]["text"]))
    else:
        remark(f"{ended.id}: {ended.status}. {make_plain(ended.error.message) if ended.error else ''}")
    return ended.succeeded


def _submit_file(client: Client, path: Path, prompt: str, options: dict[str, Any], *, as_json: bool) -> bool:
    """Submit one; False where it was refused, which is said. Raises what would befall every file."""
    try:
        made = client.submit(prompt, path, **options)
    except BatchinferError as error:
        if concerns_all(error):
            raise
        remark(f"{path}: {make_plain(error.message)}")
        if as_json:
            emit({"file": str(path), "id": None, "error": error.as_dict()})
        return False
    _tell_made(str(path), made.as_dict(), as_json=as_json)
    return True


def _tell_made(name: str, made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit({"file": None if name == "-" else name, **made})
    else:
        say(f"{made['id']}  {made['status']:<9}  {make_plain(name)}")


def _write_all(client: Client, paths: Sequence[Path], prompt: str, out: Path, *, as_json: bool, **options: Any) -> bool:
    """Into a file, with a bar; says whether every file of this run was answered."""
    state = out.with_name(f"{out.name}.state")
    told, bad = 0, 0
    try:
        for outcome in _write(client, paths, prompt, out, state, options):
            told, bad = told + 1, bad + (not outcome.succeeded)
            if not outcome.succeeded:
                remark(f"{make_plain(outcome.file)}: {outcome.status}. {_explain(outcome)}")
    except KeyboardInterrupt:
        remark(f"\n{told:,} files are in {out}; what was submitted goes on. The same command again does the rest.")
        raise
    if as_json:
        emit({"out": str(out), "files": len(paths), "told": told, "unanswered": bad})
    else:
        earlier = len(paths) - told
        say(f"{out}  {told:,} files, {bad:,} without an answer{f'; {earlier:,} done earlier' if earlier else ''}")
    return bad == 0


def _write(
    client: Client, paths: Sequence[Path], prompt: str, out: Path, state: Path, options: dict[str, Any]
) -> Iterator[Outcome]:
    return write_jsonl(client.map(paths, prompt, state=state, progress=True, **options), out)


def _show(outcome: Outcome, *, as_json: bool) -> bool:
    """Print one; says whether it was answered."""
    if as_json:
        emit(outcome.as_dict())
        return outcome.succeeded
    for number, text in enumerate(outcome.texts, 1):
        page = f" page {number}" if len(outcome.texts) > 1 else ""
        if text is not None:
            say(f"== {make_plain(outcome.file)}{page}\n{show_text(text)}")
    if not outcome.succeeded:
        remark(f"{make_plain(outcome.file)}: {outcome.status}. {_explain(outcome)}")
    return outcome.succeeded


def _explain(outcome: Outcome) -> str:
    error = outcome.as_dict()["error"]
    return make_plain(error["message"]) if error else ""
