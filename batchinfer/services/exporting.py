"""A CPU worker writes the output and error files of a batch whose lines have all ended, page by page.

What a lost worker had written is written anew; the files are there with the batch's last state, in one transaction.
"""

from __future__ import annotations

import heapq
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from batchinfer.domain.batch_answers import show_line, show_unread
from batchinfer.domain.batch_lines import find_custom_id
from batchinfer.domain.batches import find_end
from batchinfer.domain.ids import BATCH, new_id, show_id
from batchinfer.domain.runs import DOCUMENTS
from batchinfer.domain.userfiles import BATCH_OUTPUT, LONGEST_EXPIRY_S
from batchinfer.errors import BatchinferError
from batchinfer.services.findings import iterate_lines
from batchinfer.services.finishing import finish_run
from batchinfer.services.reading import load_source
from batchinfer.services.selecting import find_selection
from batchinfer.store import batch_items, batches, endings, files, jobs, userfiles
from batchinfer.store.files import PLAIN, Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.batches import Held
    from batchinfer.store.claims import Claim
    from batchinfer.store.session import Transaction

#: Lines that are read in one transaction.
_PAGE_LINES = 500


def export_batch(
    ctx: Context,
    claim: Claim,
    scratch: Path,
    insist: Callable[[Callable[[], bool]], bool],
    wanted: Callable[[], bool],
) -> bool:
    """Write the files of a batch and end it. False: nobody wants them any more. Raises Unavailable.

    A batch of documents is a run, which is ended in its own way.
    """
    with ctx.db.transaction() as tx:
        held = batches.load_batches(tx, [claim.subject_id]).get(claim.subject_id)
    if held is not None and held.batch.endpoint == DOCUMENTS:
        return finish_run(ctx, claim, scratch, insist, wanted)
    paths, merged = [scratch / f"{claim.id}-{name}" for name in ("output", "error")], 0
    try:
        with paths[0].open("wb") as output, paths[1].open("wb") as errors:
            for shown in _show_lines(ctx, claim):
                if not wanted():
                    return False
                _write(output if shown.good else errors, shown.text)
                merged += not shown.own
        blobs = [_keep(ctx, claim, path) for path in paths]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    return insist(lambda: finish_export(ctx, claim, output=blobs[0], errors=blobs[1], merged=merged))


@dataclass(frozen=True)
class _Shown:
    """A line of a file to be written: of which line of the input, for which of the two files, of which batch."""

    number: int
    good: bool
    text: dict[str, Any]
    own: bool = True


def _write(file: IO[bytes], line: dict[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def _show_lines(ctx: Context, claim: Claim) -> Iterator[_Shown]:
    """Every line of the batch in the order of its file; of a retry that merges, with those of the batches before it."""
    with ctx.db.transaction() as tx:
        held = batches.load_batches(tx, [claim.subject_id])[claim.subject_id]
        chain = batch_items.list_chain(tx, claim.subject_id)
    lines = _show_jobs(ctx, held, chain)
    if held.lines_read < held.batch.counts.total:
        lines = heapq.merge(lines, _show_unread(ctx, claim, held, chain), key=lambda shown: shown.number)
    return lines


def _show_jobs(ctx: Context, held: Held, chain: list[UUID]) -> Iterator[_Shown]:
    last = 0
    while True:
        with ctx.db.transaction() as tx:
            page = jobs.list_lines(tx, chain, after=last, limit=_PAGE_LINES)
        for found in page:
            good, text = show_line(found.job, found.custom_id, held.batch.endpoint)
            yield _Shown(found.line, good, text, found.own)
            last = found.line
        if len(page) < _PAGE_LINES:
            return


def _show_unread(ctx: Context, claim: Claim, held: Held, chain: list[UUID]) -> Iterator[_Shown]:
    """The lines that the batch's end came before: no job was made of them."""
    _, source = load_source(ctx, claim)
    selection = find_selection(ctx, held)
    with ctx.db.transaction() as tx:
        taken = batch_items.list_taken(tx, chain)
    with suppress(BatchinferError), ctx.blobs.open(source.tenant_id, source.blob) as file:
        for number, raw in iterate_lines(file, ctx.settings.max_body_bytes):
            if number not in taken and selection.takes(number):
                yield _Shown(number, False, show_unread(new_id(), find_custom_id(raw, number)))


def _keep(ctx: Context, claim: Claim, path: Path) -> Blob | None:
    """The file in the blob store; None where nothing is in it."""
    size_bytes = path.stat().st_size
    return Blob(ctx.blobs.put_file(claim.tenant_id, path), size_bytes, PLAIN) if size_bytes else None


def finish_export(ctx: Context, claim: Claim, *, output: Blob | None, errors: Blob | None, merged: int = 0) -> bool:
    """Give the batch its files and its last state. False where the fence refused."""
    with ctx.db.transaction() as tx:
        held = batches.hold_batch(tx, lease_id=claim.lease_id, claim=claim)
        if held is None:
            return False
        batch = held.batch
        files.record_blobs(tx, claim.tenant_id, [blob for blob in (output, errors) if blob])
        output_id, error_id = (_insert(tx, held, *one) for one in ((output, "output"), (errors, "error")))
        batches.end_batch(
            tx, batch.id, find_end(batch), output_file_id=output_id, error_file_id=error_id, merged=merged
        )
        endings.finish(tx, lease_id=claim.lease_id, claim=claim)
    ctx.bell.ring([claim.subject_id])
    return True


def _insert(tx: Transaction, held: Held, blob: Blob | None, name: str) -> UUID | None:
    if blob is None:
        return None
    file = userfiles.insert_file(
        tx,
        new_id(),
        held.batch.tenant_id,
        filename=f"{show_id(BATCH, held.batch.id)}_{name}.jsonl",
        purpose=BATCH_OUTPUT,
        blob=blob.sha256,
        size_bytes=blob.size_bytes,
        expires_s=held.options.get("output_expires_s", LONGEST_EXPIRY_S),
    )
    return file.id
