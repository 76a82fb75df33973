"""`batchinfer backup` and `batchinfer restore`: everything that is kept, out of and into a database."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchinfer.cli.local import HOME, load
from batchinfer.cli.output import JSON, UNANSWERED, emit, remark, say
from batchinfer.domain.backups import COPY, LIST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchinfer.domain.backups import Manifest, Report

_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))


@click.command("backup")
@_FOLDER
@HOME
@click.option("--check", "only_check", is_flag=True, help="Make none: read the newest one there, byte for byte.")
@click.option("--blobs", type=click.Choice([COPY, LIST]), default=COPY, show_default=True,
              help="Copy the files that jobs refer to, or only name them.")  # fmt: skip
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
              help="Longest time for the rows.")  # fmt: skip
@click.option("--keep", type=click.IntRange(1), help="Remove older backups of the folder beyond so many.")
@JSON
def make_backup(
    folder: Path,
    home: Path | None,
    only_check: bool,
    blobs: str,
    max_minutes: float,
    keep: int | None,
    as_json: bool,
) -> None:
    """Write everything into a folder of backups, while the service works: rows, files, settings without secrets."""
    from batchinfer.services import backups
    from batchinfer.stack.offline import open_database

    if only_check:
        with _bar() as report:
            found = backups.check(folder, report)
        _show(found.place, found.manifest, "whole", as_json)
        return
    with open_database(load(home)) as settings, _bar() as report:
        found = backups.back_up(settings, folder, blobs=blobs, max_minutes=max_minutes, keep=keep, report=report)
    _show(found.place, found.manifest, "made", as_json)
    if found.removed and not as_json:
        say(f"Removed {found.removed:,} older.")
    if lost := len(found.manifest.blobs.lost):
        remark(
            f"{lost:,} files should be in the store and are not, or are damaged; manifest.json names them. "
            "Look at the disk of the home."
        )
        sys.exit(UNANSWERED)


@click.command("restore")
@_FOLDER
@HOME
@click.option("--accept-missing", is_flag=True, help="Go on without the files that the backup only names.")
@JSON
def restore_backup(folder: Path, home: Path | None, accept_missing: bool, as_json: bool) -> None:
    """Fill an empty database and home from the newest backup of a folder, or from a backup; all of it, or nothing."""
    from batchinfer.services.restoring import restore
    from batchinfer.stack.offline import open_database

    asked = load(home)
    place = None if asked.database_url else asked.home
    with open_database(asked, make=True) as settings, _bar() as report:
        found = restore(settings, folder, database_folder=place, accept_missing=accept_missing, report=report)
    _show(found.place, found.manifest, "restored", as_json, requeued=found.requeued, files=found.files)


def _show(place: Path, manifest: Manifest, what: str, as_json: bool, **more: int) -> None:
    blobs = manifest.blobs
    if as_json:
        emit(
            {
                "state": what, "backup": str(place), "taken_at": manifest.taken_at, "version": manifest.version,
                "revision": manifest.revision, "rows": manifest.rows, "blobs": blobs.mode, "blob_count": blobs.count,
                "blob_bytes": blobs.bytes, "removed": len(blobs.removed), "lost": len(blobs.lost), **more,
            }
        )  # fmt: skip
        return
    held = "" if blobs.mode == COPY else ", named only"
    say(f"{place}: {what}. Of {manifest.taken_at}, by {manifest.version} (schema {manifest.revision}).")
    say(f"{manifest.rows:,} rows; {blobs.count:,} files, {blobs.bytes >> 20:,} MiB{held}.")
    if more.get("requeued"):
        say(f"{more['requeued']:,} were being worked on and wait again.")


@contextmanager
def _bar() -> Iterator[Report]:
    """A bar on stderr for what is under way."""
    from batchinfer.client.progress import Bar, open_console

    with Bar(open_console()) as bar:
        yield lambda what, done, total: bar.show(done, total, f"{what}  {done >> 20:,} of {total >> 20:,} MiB")
