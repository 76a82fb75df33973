"""A CPU worker reads the input file of a batch: the whole of it is checked before the first line becomes a job.

Lines become jobs in groups, a transaction each that holds the batch; `lines_read` says where to go on after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from batchinfer.domain.batches import BatchState
from batchinfer.domain.ids import new_id
from batchinfer.domain.limits import Limits
from batchinfer.domain.reuse import parse_cache
from batchinfer.services.files import list_there, pin_files, store_uploads
from batchinfer.services.findings import Findings, LineForm, check_lines, iterate_lines, parse_one, refuse_file
from batchinfer.services.requests import build_prompt, find_expiry
from batchinfer.services.reusing import store_jobs
from batchinfer.services.selecting import find_selection
from batchinfer.services.userfiles import make_missing
from batchinfer.store import batches, endings, files, jobs, queue, userfiles
from batchinfer.store.claims import INFER, PREPARE
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from uuid import UUID

    from batchinfer.domain.batch_lines import Line
    from batchinfer.domain.userfiles import UserFile
    from batchinfer.services.context import Context
    from batchinfer.store.batches import Held
    from batchinfer.store.claims import Claim
    from batchinfer.store.files import Blob

#: Lines, and bytes of their text, that become jobs in one transaction.
GROUP_LINES, GROUP_BYTES = 500, 16 * 2**20


@dataclass(frozen=True)
class Ready:
    """A line whose files are stored."""

    line: Line
    #: None for one that is still to be fetched.
    blobs: list[Blob | None]


def read_batch(
    ctx: Context, claim: Claim, insist: Callable[[Callable[[], bool]], bool], wanted: Callable[[], bool]
) -> bool:
    """Check the file, then make its lines jobs; go on where an earlier worker stopped. False: nobody wants it any more.

    `insist` repeats a write until the database answers. Raises NotFound where the file is gone, Failure where its bytes
    are, Unavailable.
    """
    held, source = load_source(ctx, claim)
    if held.batch.status is BatchState.VALIDATING:
        findings = _check_source(ctx, held, source, wanted)
        if findings is None:
            return False
        if findings.errors:
            return insist(lambda: _refuse(ctx, claim, findings))
        if not insist(lambda: _begin(ctx, claim, findings)):
            return False
    with ctx.db.transaction() as tx:
        held = batches.load_batches(tx, [claim.subject_id])[claim.subject_id]
    for group in _group(ctx, held, source, wanted):
        if not insist(partial(save_lines, ctx, claim, group)):
            return False
    return wanted()


def load_source(ctx: Context, claim: Claim) -> tuple[Held, UserFile]:
    """The batch and its input file. Raises NotFound."""
    with ctx.db.transaction() as tx:
        held = batches.load_batches(tx, [claim.subject_id]).get(claim.subject_id)
        file_id = held.batch.input_file_id if held else None
        source = userfiles.find_source(tx, claim.tenant_id, file_id) if file_id else None
    if held is None or source is None:
        raise make_missing()
    return held, source


def _check_source(ctx: Context, held: Held, source: UserFile, wanted: Callable[[], bool]) -> Findings | None:
    most = ctx.settings.max_batch_bytes
    if source.size_bytes > most:
        findings = Findings()
        findings.add(refuse_file(most), None)
        return findings
    with ctx.blobs.open(source.tenant_id, source.blob) as file:
        return check_lines(ctx, _get_form(ctx, held), file, wanted)


def _get_form(ctx: Context, held: Held) -> LineForm:
    cache = parse_cache(held.options.get("cache"))
    return LineForm(held.batch.tenant_id, held.batch.endpoint, held.job_class, cache, find_selection(ctx, held))


def _begin(ctx: Context, claim: Claim, findings: Findings) -> bool:
    with ctx.db.transaction() as tx:
        if batches.hold_batch(tx, lease_id=claim.lease_id, claim=claim) is None:
            return False
        batches.begin_batch(tx, claim.subject_id, total=findings.total, model=findings.model)
    return True


def _refuse(ctx: Context, claim: Claim, findings: Findings) -> bool:
    with ctx.db.transaction() as tx:
        if batches.hold_batch(tx, lease_id=claim.lease_id, claim=claim) is None:
            return False
        batches.refuse_batch(tx, claim.subject_id, findings.errors)
        return endings.finish(tx, lease_id=claim.lease_id, claim=claim)


def _group(ctx: Context, held: Held, source: UserFile, wanted: Callable[[], bool]) -> Iterator[list[Ready]]:
    """The lines that are no jobs yet, their files stored, in groups."""
    limits, form, group, size_bytes, seen = Limits.of(ctx.settings), _get_form(ctx, held), [], 0, 0
    with ctx.blobs.open(source.tenant_id, source.blob) as file:
        for number, raw in iterate_lines(file, ctx.settings.max_body_bytes):
            if not form.selection.takes(number):
                continue
            seen += 1
            if seen <= held.lines_read:
                continue
            if not wanted():
                return
            ready = _store_files(ctx, held, parse_one(ctx, form, raw, number, limits))
            group.append(ready)
            size_bytes += max(0, len(raw) - sum(blob.size_bytes * 4 // 3 for blob in list_there(ready.blobs)))
            if len(group) >= GROUP_LINES or size_bytes >= GROUP_BYTES:
                yield group
                group, size_bytes = [], 0
    if group:
        yield group


def _store_files(ctx: Context, held: Held, line: Line) -> Ready:
    """The line with its pictures in the blob store, and no longer in memory."""
    uploads = pin_files(ctx, held.batch.tenant_id, line.job.uploads, deleted_too=True)
    blobs = store_uploads(ctx, held.batch.tenant_id, uploads)
    emptied = tuple(replace(upload, data=b"") for upload in uploads)
    return Ready(replace(line, job=replace(line.job, uploads=emptied)), blobs)


def save_lines(ctx: Context, claim: Claim, group: list[Ready]) -> bool:
    """Make the next lines jobs and announce them; the last ones end the reading. False: fenced, stop.

    `group` begins right behind the lines that an earlier call saved; called again with the same ones, nothing changes.
    """
    with ctx.db.transaction() as tx:
        held = batches.hold_batch(tx, lease_id=claim.lease_id, claim=claim)
        if held is None or held.batch.status is not BatchState.IN_PROGRESS:
            return False
        if jobs.find_last_line(tx, held.batch.id) >= group[-1].line.number:
            return True
        files.record_blobs(tx, claim.tenant_id, [blob for ready in group for blob in list_there(ready.blobs)])
        new = [_make_job(held, ready, find_expiry(tx, ready.line.job)) for ready in group]
        tally = Tally()
        ended = store_jobs(tx, new, tally)
        kinds = {job.id: PREPARE if ready.blobs else INFER for job, ready in zip(new, group, strict=True)}
        left = [job for job in new if job.id not in ended]
        paused = "paused_at" in held.batch.times
        queue.enqueue(
            tx,
            [
                queue.Entry(
                    job.id, kinds[job.id], job.tenant_id, job.model, job.job_class, job.expires_at, paused=paused
                )
                for job in left
            ],
        )
        lines_read = held.lines_read + len(group)
        batches.advance_batch(tx, held.batch.id, lines_read)
        if lines_read >= held.batch.counts.total:
            endings.finish(tx, lease_id=claim.lease_id, claim=claim)
        for job in new:
            tally.count(job.tenant_id, job.model, submitted=1)
        tally.add(tx)
    ctx.bell.ring(ended)
    _announce(ctx, left, kinds)
    return True


def _make_job(held: Held, ready: Ready, expires_at: datetime | None) -> jobs.NewJob:
    line, batch = ready.line, held.batch
    return jobs.NewJob(
        id=new_id(),
        tenant_id=batch.tenant_id,
        model=line.job.model,
        job_class=line.job.job_class,
        prompt=build_prompt(line.job, ready.blobs),
        metadata=line.job.metadata,
        expires_at=min(batch.expires_at, expires_at) if expires_at else batch.expires_at,
        batch_id=batch.id,
        line=line.number,
        custom_id=line.custom_id,
        key_id=held.key_id,
    )


def _announce(ctx: Context, new: list[jobs.NewJob], kinds: dict[UUID, str]) -> None:
    groups: dict[Any, list[UUID]] = {}
    for job in new:
        if kinds[job.id] == INFER:
            groups.setdefault((job.model, job.job_class), []).append(job.id)
    for (model, job_class), ids in groups.items():
        ctx.announcer.announce(model, job_class, ids)
    ctx.announcer.announce_cpu([job.id for job in new if kinds[job.id] == PREPARE])
