"""The source of a run: checked when it is declared, found again by whoever lists it, gone through by entry."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from batchinfer.domain.document_names import make_name, tell_apart
from batchinfer.domain.fields import join
from batchinfer.domain.ids import FILE, parse_id, show_id
from batchinfer.domain.source_dates import find_moment
from batchinfer.domain.sources import Entry, fill_source, parse_source
from batchinfer.errors import Failure, NotFound
from batchinfer.media import sources as media
from batchinfer.store import files, userfiles
from batchinfer.store.files import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.domain.sources import Source
    from batchinfer.domain.userfiles import UserFile
    from batchinfer.services.context import Context
    from batchinfer.store.manifests import Manifest


def check_source(ctx: Context, tenant_id: UUID, source: Source, at: str = "source") -> None:
    """Refuse a source that can be known to be wrong. Raises BadRequest, NotFound (code file_not_found)."""
    media.check_source(source, ctx.settings, at)
    if not source.files:
        return
    ids = []
    for number, text in enumerate(source.files):
        try:
            ids.append(parse_id(FILE, text))
        except NotFound as error:
            raise _make_missing(at, number) from error
    with ctx.db.transaction() as tx:
        there = userfiles.find_files(tx, tenant_id, ids)
    missing = next((number for number, file_id in enumerate(ids) if file_id not in there), None)
    if missing is not None:
        raise _make_missing(at, missing)


def _make_missing(at: str, number: int) -> NotFound:
    return NotFound(
        "There is no such file. It may have been deleted; upload it with POST /v1/files.",
        code="file_not_found",
        param=join(join(at, "files"), number),
    )


def find_source(manifest: Manifest) -> Source:
    """The source of a run that has begun, its dates filled in: always the same ones, whoever asks."""
    try:
        zone = ZoneInfo(manifest.timezone) if manifest.timezone else None
    except (ZoneInfoNotFoundError, ValueError):
        zone = None
    return fill_source(parse_source(manifest.spec["source"]), find_moment(manifest.moment, zone))


def fill_now(source: Source, now: datetime, timezone: str | None) -> Source:
    """The source as a run would have it that begins now."""
    return fill_source(source, find_moment(now, ZoneInfo(timezone) if timezone else None))


def iterate_entries(ctx: Context, tenant_id: UUID, source: Source, after: str | None = None) -> Iterator[Entry]:
    """What is in a source, from behind the `place` of an earlier entry on. Raises Failure, FetchFailed."""
    if source.files:
        yield from _iterate_files(ctx, tenant_id, source.files, int(after or 0))
    else:
        yield from media.iterate_source(source, ctx.settings, after)


def _iterate_files(ctx: Context, tenant_id: UUID, texts: Sequence[str], after: int) -> Iterator[Entry]:
    """Uploaded files, whose bytes are here already. At most some thousands."""
    ids = [parse_id(FILE, text) for text in texts]
    with ctx.db.transaction() as tx:
        there = userfiles.find_files(tx, tenant_id, ids)
        types = files.find_types(tx, tenant_id, sorted({file.blob for file in there.values()}))
    uris = [show_id(FILE, file_id) for file_id in ids]
    found = [there.get(file_id) for file_id in ids]
    names = tell_apart(make_name(file.filename if file else uri, uri) for file, uri in zip(found, uris, strict=True))
    for number, (uri, file, name) in enumerate(zip(uris, found, names, strict=True), 1):
        if number > after:
            yield _make_entry(uri, name, file, types, str(number))


def _make_entry(uri: str, name: str, file: UserFile | None, types: dict[str, str], place: str) -> Entry:
    if file is None:
        fault = Failure("The uploaded file is gone. Upload it again and name it in a new run.", code="source_not_found")
        return Entry(uri, name, None, None, None, place, fault.as_dict())
    kind = types.get(file.blob, PLAIN)
    return Entry(
        uri, name, file.size_bytes, file.blob, file.created_at, place, blob=file.blob,
        media_type="" if kind == PLAIN else kind,
    )  # fmt: skip
