"""A CPU worker renders a document: each page becomes a job, in transactions that hold the document.

Workers call these as `work.save_pages` and `work.finish_render`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.batches import BatchState
from batchinfer.domain.ids import new_id
from batchinfer.domain.rendering import plan_pipeline
from batchinfer.services import holding, pumping
from batchinfer.services.files import record_made
from batchinfer.services.page_jobs import PageJob, build_page_job, get_run
from batchinfer.services.plans import read_pipeline
from batchinfer.services.reusing import store_jobs
from batchinfer.store import batches, documents, endings, jobs, queue, settled
from batchinfer.store.claims import INFER
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim
    from batchinfer.store.documents import Rendering
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class PagePicture:
    """A rendered page in the blob store, in pixels. `number` is from 1."""

    number: int
    sha256: str
    media_type: str
    width: int
    height: int
    #: Nothing is on it.
    blank: bool = False
    #: Its small copy: {"sha256", "media_type", "width", "height"}.
    thumbnail: dict[str, Any] | None = None
    #: Why there is no picture of it; the fields above are empty then. Of a run alone: its other pages go on.
    error: dict[str, Any] | None = None

    def as_normal(self) -> dict[str, Any]:
        """As a prompt's image has it."""
        return {"sha256": self.sha256, "media_type": self.media_type, "width": self.width, "height": self.height}

    def list_blobs(self) -> list[tuple[str, str]]:
        """SHA-256 and media type of what was stored of it."""
        forms = [form for form in (self.as_normal(), self.thumbnail) if form and form["sha256"]]
        return [(form["sha256"], form["media_type"]) for form in forms]


def save_pages(ctx: Context, lease_id: UUID, claim: Claim, *, pages: Sequence[PagePicture], total: int) -> bool:
    """Make the jobs of the next pages of a document (of `total`), and announce them. False: fenced, stop rendering.

    Pages come in order, beginning after `Work.rendered`; those already saved are skipped. Of a run, pages of one prompt
    come together. Raises Failure where the run can no longer be read.
    """
    tally = Tally()
    with ctx.db.transaction() as tx:
        document = documents.hold_rendering(tx, lease_id=lease_id, claim=claim)
        if document is None or not _goes_on(document):
            return False
        new = [page for page in pages if page.number > document.rendered]
        record_made(ctx, tx, document.tenant_id, [blob for page in pages for blob in page.list_blobs()])
        made = _make_plain(document, new) if document.run is None else _make_run(ctx, tx, document, new, total)
        rendered = max([document.rendered, *(page.number for page in pages)])
        first_line = made[0].job.line - 1 if made and made[0].job.line is not None else None
        documents.advance_rendering(
            tx, document.id, rendered=rendered, pages=total, jobs=len(made), first_line=first_line
        )
        ended, left = store_page_jobs(tx, document, made, tally)
        tally.add(tx)
    ctx.bell.ring(ended)
    for job in left[:1]:
        ctx.announcer.announce(job.model, job.job_class, [job.id for job in left])
    holding.hold_back(ctx, tally.stopped)
    return True


def _goes_on(document: Rendering) -> bool:
    return document.run is None or document.run.status == BatchState.IN_PROGRESS


def store_page_jobs(
    tx: Transaction, document: Rendering, made: Sequence[PageJob], tally: Tally
) -> tuple[list[UUID], list[jobs.NewJob]]:
    """Store jobs, end those that have nothing to wait for, and queue the others. Answers the ended and the queued.

    The caller adds the tally.
    """
    ended = set(store_jobs(tx, [one.job for one in made if not one.blank and one.error is None], tally))
    ended |= _settle(tx, document, [one for one in made if one.blank or one.error is not None], tally)
    left = [one.job for one in made if one.job.id not in ended]
    paused = document.run is not None and document.run.paused
    queue.enqueue(
        tx,
        [
            queue.Entry(job.id, INFER, job.tenant_id, job.model, job.job_class, job.expires_at, paused=paused)
            for job in left
        ],
    )
    for one in made:
        tally.count(document.tenant_id, one.job.model, submitted=1)
    return sorted(ended), left


def _settle(tx: Transaction, document: Rendering, over: Sequence[PageJob], tally: Tally) -> set[UUID]:
    """Store and end the jobs of pages on which nothing is, and of those that could not be drawn."""
    if not over:
        return set()
    run = get_run(document)
    jobs.insert_jobs(tx, [one.job for one in over])
    revision = str(run.spec.get("resolved", {}).get("revision", ""))
    settled.end_blank(tx, document.tenant_id, [one.job.id for one in over if one.blank], revision=revision)
    settled.end_failed(tx, document.tenant_id, {one.job.id: one.error for one in over if one.error is not None})
    for one in over:
        job, good = one.job, one.error is None
        tally.count(job.tenant_id, job.model, **({"succeeded": 1} if good else {"failed": 1}))
        tally.count_line(run.id, **({"completed": 1} if good else {"failed": 1}))
        tally.count_page(document.id, run.id, ended=1, **({"blank": 1} if good else {"failed": 1}))
        if good:
            tally.count_usage(job.tenant_id, job.model, job.key_id, job.schedule_id, jobs=1)
    return {one.job.id for one in over}


def _make_run(
    ctx: Context, tx: Transaction, document: Rendering, pages: Sequence[PagePicture], total: int
) -> list[PageJob]:
    """The next jobs of a run's document, pages of one prompt together. With the first of them the document gets its
    lines, those of all its jobs."""
    run = get_run(document)
    pipeline = read_pipeline(ctx, run)
    prompts = plan_pipeline(pipeline, ctx.settings).cut(total)
    there = {page.number: page for page in pages}
    first = document.first_line
    if first is None:
        first = batches.open_lines(tx, run.id, lines=len(prompts))
    return [
        build_page_job(
            document, pipeline, [there[number] for number in numbers], line=first + 1 + index, total=total
        )
        for index, numbers in enumerate(prompts)
        if all(number in there for number in numbers)
    ]  # fmt: skip


def _make_plain(document: Rendering, pages: Sequence[PagePicture]) -> list[PageJob]:
    return [PageJob(_page_job(document, page)) for page in pages]


def _page_job(document: Rendering, page: PagePicture) -> jobs.NewJob:
    image = {"sha256": page.sha256, "media_type": page.media_type, "normal": page.as_normal()}
    return jobs.NewJob(
        id=new_id(),
        tenant_id=document.tenant_id,
        model=document.model,
        job_class=document.job_class,
        prompt={**document.prompt, "images": [image]},
        metadata=document.metadata,
        expires_at=document.expires_at,
        document_id=document.id,
        page=page.number,
        key_id=document.key_id,
    )


def finish_render(ctx: Context, lease_id: UUID, claim: Claim, *, pages: int | None = None) -> bool:
    """All pages of the document are saved; `pages` is how many the file has. False when the fence refused."""
    with ctx.db.transaction() as tx:
        document = documents.hold_rendering(tx, lease_id=lease_id, claim=claim)
        if document is None:
            return False
        if pages is not None and document.pages is None:
            documents.advance_rendering(tx, document.id, rendered=document.rendered, pages=pages)
        finished = endings.finish(tx, lease_id=lease_id, claim=claim)
    if finished and document.run is not None:
        ctx.announcer.announce_cpu([claim.id])
        pumping.pump(ctx, document.run.id)
    return finished
