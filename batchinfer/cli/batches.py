"""`batchinfer batches`: run a file of requests and watch it, over HTTP. A batch needs nobody who watches."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchinfer.cli.files import find_place
from batchinfer.cli.output import JSON, UNANSWERED, emit, remark, say
from batchinfer.cli.remote import read_pairs, remote, show_time
from batchinfer.client.progress import Bar, Meter, describe, make_plain, open_console
from batchinfer.domain.batches import ENDPOINTS, PRIORITIES

if TYPE_CHECKING:
    from batchinfer.client import Batch, Client

#: Faults of a file that are shown; all are in the JSON.
_FAULTS = 10
_OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for the output and error files; made where there is none.",
)
_CREATION = (
    click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False)),
    click.option("--endpoint", type=click.Choice(ENDPOINTS), default=ENDPOINTS[0], show_default=True),
    click.option("--window", default="24h", show_default=True, help="Time for all of it, 90m or 7d for example."),
    click.option("--priority", type=click.Choice(list(PRIORITIES)), help="Before which others; low if left out."),
    click.option("--metadata", multiple=True, metavar="NAME=TEXT", help="Yours; several times for more."),
)


def _creation(command: Any) -> Any:
    for option in reversed(_CREATION):
        command = option(command)
    return command


@click.group()
def batches() -> None:
    """Batches: files with a request a line."""


@batches.command("run")
@_creation
@_OUT
@JSON
@remote
def run_batch(client: Client, /, path: Path, out: Path, as_json: bool, **wishes: Any) -> None:
    """Upload a file, make a batch of it, watch it, and fetch its output and error files. Ctrl-C leaves it running."""
    out.mkdir(exist_ok=True)  # before the batch: where its files cannot be written, nothing is begun
    batch = _create(client, path, **wishes)
    remark(f"{batch.id} was made of {path.name}.")
    _follow(client, batch, out, as_json=as_json)


@batches.command("watch")
@click.argument("batch_id")
@_OUT
@JSON
@remote
def watch_batch(client: Client, batch_id: str, out: Path, as_json: bool) -> None:
    """Watch a batch to its end and fetch its files, as `run` does; also one that has ended."""
    batch = client.batches.get(batch_id)
    out.mkdir(exist_ok=True)
    _follow(client, batch, out, as_json=as_json)


@batches.command("create")
@_creation
@JSON
@remote
def create_batch(client: Client, /, path: Path, as_json: bool, **wishes: Any) -> None:
    """Upload a file and make a batch of it; do not watch."""
    _show(_create(client, path, **wishes), as_json=as_json)


@batches.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@JSON
@remote
def list_batches(client: Client, limit: int, as_json: bool) -> None:
    """The newest batches."""
    for batch in client.batches.list(limit=limit):
        _show(batch, as_json=as_json)


@batches.command("show")
@click.argument("batch_id")
@JSON
@remote
def show_batch(client: Client, batch_id: str, as_json: bool) -> None:
    """One batch as it stands."""
    batch = client.batches.get(batch_id)
    _show(batch, as_json=as_json)
    if not as_json:
        _tell_faults(batch)


@batches.command("cancel")
@click.argument("batch_id")
@JSON
@remote
def cancel_batch(client: Client, batch_id: str, as_json: bool) -> None:
    """End what has not ended of a batch; its files hold what has."""
    _show(client.batches.cancel(batch_id), as_json=as_json)


def _create(
    client: Client, path: Path, *, endpoint: str, window: str, priority: str | None, metadata: tuple[str, ...]
) -> Batch:
    pairs = read_pairs(metadata, "--metadata")
    file = client.files.upload(path)
    return client.batches.create(
        file.id, endpoint=endpoint, completion_window=window, priority=priority, metadata=pairs
    )


def _follow(client: Client, batch: Batch, out: Path, *, as_json: bool) -> None:
    """To the end, with a bar on stderr; then the files. Ends with 3 where not every line was answered."""
    try:
        with Bar(open_console()) as bar:
            ended = client.batches.wait(batch.id, tell=_Teller(bar))
    except KeyboardInterrupt:
        place = [] if out == Path() else ["--out", str(out)]
        context = click.get_current_context()
        where = [f"--{name}={value}" for name in ("url", "home") if (value := context.params.get(name)) is not None]
        again = shlex.join(["batchinfer", "batches", "watch", batch.id, *place, *where])
        remark(f"\nThe batch goes on without you. To watch it again and fetch its files:\n  {again}")
        raise
    files = _fetch(client, ended, out)
    if as_json:
        emit({"batch": ended.as_dict(), **{name: str(path) if path else None for name, path in files.items()}})
    else:
        _show(ended, as_json=False)
        for name, path in files.items():
            if path is not None:
                say(f"{name.removesuffix('_file'):<6} {path}")
        _tell_faults(ended)
    if not ended.succeeded:
        raise SystemExit(UNANSWERED)


@dataclass
class _Teller:
    """Tells a bar how a batch stands."""

    bar: Bar

    def __post_init__(self) -> None:
        self._meter = Meter()

    def __call__(self, batch: Batch) -> None:
        total, failed = batch.request_counts.total, batch.request_counts.failed
        if total:
            self._meter.note(batch.done)
        text = describe(self._meter, batch.done, total, "lines", f"{failed:,} failed" if failed else "", batch.status)
        self.bar.show(batch.done, total, text if total else batch.status)


def _fetch(client: Client, batch: Batch, out: Path) -> dict[str, Path | None]:
    """Download what the batch wrote; the path of each file, None where there is none."""
    places: dict[str, Path | None] = {}
    for name, file_id in (("output_file", batch.output_file_id), ("error_file", batch.error_file_id)):
        places[name] = find_place(client.files.get(file_id), out) if file_id else None
        if file_id and (place := places[name]):
            client.files.download(file_id, place)
    return places


def _show(batch: Batch, *, as_json: bool) -> None:
    if as_json:
        emit(batch.as_dict())
        return
    counts = batch.request_counts
    numbers = {"failed": counts.failed, "expired": batch.batchinfer.expired, "cancelled": batch.batchinfer.cancelled}
    others = [f"{number:,} {word}" for word, number in numbers.items() if number]
    stands = ", ".join([f"{counts.completed:,} of {counts.total:,} answered", *others])
    say(f"{batch.id}  {batch.status:<11}  {show_time(batch.created_at)}  {stands}")


def _tell_faults(batch: Batch) -> None:
    faults = batch.errors.data if batch.errors else ()
    for fault in faults[:_FAULTS]:
        where = f"line {fault.line}: " if fault.line is not None else ""
        remark(f"{where}{fault.code}: {make_plain(fault.message)}")
    if len(faults) > _FAULTS:
        remark(f"and {len(faults) - _FAULTS} more; --json shows all that are kept")
