"""A CPU worker closes a document of a run whose jobs have all ended: its outcome, its place in the ledger, and that the
pictures of its pages are kept no longer. In mode merged the answers of its pages become one more job before that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.domain.batches import BatchState
from batchinfer.domain.documents import Outcome, find_outcome
from batchinfer.domain.jobs import JobState
from batchinfer.domain.pipelines import Mode
from batchinfer.domain.rendering import plan_pipeline
from batchinfer.domain.review import may_be_drawn, parse_sample
from batchinfer.errors import BadDocument
from batchinfer.services import holding, pumping, sealing
from batchinfer.services.ingesting import list_originals
from batchinfer.services.page_jobs import build_merged_job, get_run
from batchinfer.services.plans import read_pipeline
from batchinfer.services.rendering import store_page_jobs
from batchinfer.services.sweeping import ERASE_WAIT_S
from batchinfer.store import batches, documents, endings, ledger
from batchinfer.store import closing as store
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from batchinfer.domain.pipelines import Pipeline
    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim
    from batchinfer.store.documents import Rendering
    from batchinfer.store.jobs import NewJob
    from batchinfer.store.session import Transaction


def close_document(
    ctx: Context, claim: Claim, insist: Callable[[Callable[[], bool]], bool], wanted: Callable[[], bool]
) -> bool:
    """Close it, or make the job that puts its pages together. False: nobody wants it any more.

    Raises Failure where its run can no longer be read.
    """
    return wanted() and insist(lambda: _close(ctx, claim))


def _close(ctx: Context, claim: Claim) -> bool:
    """Done in one transaction, fenced: safe to repeat. False where the fence refused."""
    tally = Tally()
    sealed: list[UUID] = []
    ended: list[UUID] = []
    left: list[NewJob] = []
    with ctx.db.transaction() as tx:
        document = documents.hold_rendering(tx, lease_id=claim.lease_id, claim=claim)
        if document is None:
            return False
        run = document.run
        if run is not None and document.stage == "queued":
            pipeline = read_pipeline(ctx, run)
            counts = store.count_jobs(tx, document.id)
            if _waits_for_merging(tx, document, pipeline, counts):
                ended, left = _merge(tx, document, pipeline, tally)
            else:
                sealed = _end(ctx, tx, document, pipeline, counts, tally)
        # The queue row goes first: what ends the last job may have to put another one.
        endings.finish(tx, lease_id=claim.lease_id, claim=claim)
        tally.add(tx)
    ctx.bell.ring(ended)
    for job in left:
        ctx.announcer.announce(job.model, job.job_class, [job.id])
    holding.hold_back(ctx, tally.stopped)
    if run is not None:
        ctx.announcer.announce_cpu([*sealed, run.id])
        pumping.pump(ctx, run.id)
    return True


def _waits_for_merging(tx: Transaction, document: Rendering, pipeline: Pipeline, counts: dict[JobState, int]) -> bool:
    """Whether all its pages were read as far as they can be, and their answers are still to be put together."""
    goes_on = document.run is not None and document.run.status == BatchState.IN_PROGRESS
    if pipeline.mode is not Mode.MERGED or document.error is not None or not goes_on:
        return False
    return counts.get(JobState.SUCCEEDED, 0) > 0 and not store.is_merged(tx, document.id)


def _merge(tx: Transaction, document: Rendering, pipeline: Pipeline, tally: Tally) -> tuple[list[UUID], list[NewJob]]:
    run = get_run(document)
    answers = store.list_answers(tx, document.id)
    line = batches.open_lines(tx, run.id, lines=1) + 1
    made = build_merged_job(
        document, pipeline, [text for _, text in answers], line=line, pages=[page for page, _ in answers]
    )
    store.add_job(tx, document.id)
    return store_page_jobs(tx, document, [made], tally)


def _end(
    ctx: Context,
    tx: Transaction,
    document: Rendering,
    pipeline: Pipeline,
    counts: dict[JobState, int],
    tally: Tally,
) -> list[UUID]:
    """Answers the shards that are full by it."""
    run = get_run(document)
    missing = _count_missing(ctx, document, pipeline)
    outcome = find_outcome(counts, missing=missing, error=document.error, max_failed_share=pipeline.max_failed_share)
    if outcome is Outcome.COMPLETED:
        ledger.enter(tx, document)
    gone = store.let_pages_go(tx, document, _list_sampled(tx, document))
    names = [*gone.names, *list_originals(document)]
    store.let_go(tx, document.tenant_id, names, wait_s=ERASE_WAIT_S)
    batches.open_lines(tx, run.id, opened=-1)
    number = store.count_closed(tx, run.id, outcome, page_bytes=gone.size_bytes)
    store.mark_closed(tx, document.id, outcome, number=number, missing=missing)
    how = {Outcome.CANCELLED: "cancelled", Outcome.EXPIRED: "expired"}.get(outcome, "failed")
    # Also with none missing: it is looked whether all of the run is over.
    tally.count_line(run.id, **({how: missing} if missing else {}))
    return sealing.queue_full_shards(tx, run.id)


def _list_sampled(tx: Transaction, document: Rendering) -> list[UUID]:
    """Its jobs that may come into the sample of the run: people will want to see their pages as they were."""
    run = get_run(document)
    size = parse_sample(run.spec.get("sample")).size
    held = batches.load_batches(tx, [run.id]).get(run.id) if size else None
    if held is None:
        return []
    ended = held.batch.counts.completed
    return [one for one in store.list_jobs(tx, document.id) if may_be_drawn(run.id, one, size=size, ended=ended)]


def _count_missing(ctx: Context, document: Rendering, pipeline: Pipeline) -> int:
    """Lines that it was given and that no job was made of, as its rendering ended half way."""
    if document.first_line is None or document.pages is None:
        return 0
    try:
        planned = len(plan_pipeline(pipeline, ctx.settings).cut(document.pages))
    except BadDocument:  # a limit was lowered meanwhile
        return 0
    merged = 1 if pipeline.mode is Mode.MERGED and document.jobs > planned else 0
    return max(0, planned + merged - document.jobs)
