"""`batchinfer files`: what was uploaded, and what batches wrote, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchinfer.cli.output import JSON, emit, say
from batchinfer.cli.remote import remote, show_time
from batchinfer.client.progress import make_plain
from batchinfer.domain.userfiles import BATCH, PURPOSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchinfer.client import Client, File

_DAY_S = 86_400


@click.group()
def files() -> None:
    """Files."""


@files.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--purpose", help="Only those of this purpose.")
@JSON
@remote
def list_files(client: Client, limit: int, purpose: str | None, as_json: bool) -> None:
    """The newest files."""
    for file in client.files.list(purpose=purpose, limit=limit):
        _show(file, as_json=as_json)


@files.command("show")
@click.argument("file_id")
@JSON
@remote
def show_file(client: Client, file_id: str, as_json: bool) -> None:
    """One file."""
    _show(client.files.get(file_id), as_json=as_json)


@files.command("upload")
@click.argument("paths", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, dir_okay=False))
@click.option("--purpose", type=click.Choice(PURPOSES), default=BATCH, show_default=True)
@click.option("--days", type=click.FloatRange(min=1 / 24, max=30), help="Days until it is deleted.")
@JSON
@remote
def upload_files(client: Client, paths: Sequence[str], purpose: str, days: float | None, as_json: bool) -> None:
    """Upload files and show their ids."""
    for path in paths:
        expires_s = None if days is None else round(days * _DAY_S)
        _show(client.files.upload(path, purpose, expires_s=expires_s), as_json=as_json)


@files.command("download")
@click.argument("file_id")
@click.argument("to", required=False, type=click.Path(path_type=Path))
@JSON
@remote
def download_file(client: Client, file_id: str, to: Path | None, as_json: bool) -> None:
    """Write a file's bytes to TO (a path, or a folder), else into this folder under its own name."""
    place = find_place(client.files.get(file_id), to)
    size = client.files.download(file_id, place)
    if as_json:
        emit({"id": file_id, "path": str(place), "bytes": size})
    else:
        say(f"{place}  {size:,} bytes")


@files.command("delete")
@click.argument("file_ids", nargs=-1, required=True, metavar="FILE_ID...")
@JSON
@remote
def delete_files(client: Client, file_ids: Sequence[str], as_json: bool) -> None:
    """Delete files. A batch that was made of one goes on."""
    for file_id in file_ids:
        client.files.delete(file_id)
        if as_json:
            emit({"id": file_id, "deleted": True})
        else:
            say(f"{file_id}  deleted")


def find_place(file: File, to: Path | None) -> Path:
    """Where a file is written: `to`, or under its own name in the folder `to`. The name is the service's word, and so
    only its last part counts."""
    if to is not None and not to.is_dir():
        return to
    name = Path(file.filename.replace("\\", "/")).name
    return (to or Path()) / (name if name not in {"", ".", ".."} else file.id)


def _show(file: File, *, as_json: bool) -> None:
    if as_json:
        emit(file.as_dict())
    else:
        name = make_plain(file.filename)
        say(f"{file.id}  {file.purpose:<12}  {show_time(file.created_at)}  {file.bytes:>13,} bytes  {name}")
