"""A CPU worker renders a document: each page becomes a job, in transactions that hold the document.

Workers call these as `work.save_pages` and `work.finish_render`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.ids import new_id
from batchinfer.services.files import record_made
from batchinfer.services.reusing import store_jobs
from batchinfer.store import documents, endings, jobs, queue
from batchinfer.store.claims import INFER
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim
    from batchinfer.store.documents import Rendering


@dataclass(frozen=True)
class PagePicture:
    """A rendered page in the blob store, in pixels. `number` is from 1."""

    number: int
    sha256: str
    media_type: str
    width: int
    height: int


def save_pages(ctx: Context, lease_id: UUID, claim: Claim, *, pages: Sequence[PagePicture], total: int) -> bool:
    """Make the jobs of the next pages of a document (of `total`), and announce them. False: fenced, stop rendering.

    Pages come in order, beginning after `Work.rendered`; those already saved are skipped.
    """
    with ctx.db.transaction() as tx:
        document = documents.hold_rendering(tx, lease_id=lease_id, claim=claim)
        if document is None:
            return False
        new = [_page_job(document, page) for page in pages if page.number > document.rendered]
        record_made(ctx, tx, document.tenant_id, [(page.sha256, page.media_type) for page in pages])
        tally = Tally()
        ended = store_jobs(tx, new, tally)
        left = [job for job in new if job.id not in ended]
        entries = [queue.Entry(job.id, INFER, job.tenant_id, job.model, job.job_class, job.expires_at) for job in left]
        queue.enqueue(tx, entries)
        rendered = max([document.rendered, *(page.number for page in pages)])
        documents.advance_rendering(tx, document.id, rendered=rendered, pages=total)
        tally.count(document.tenant_id, document.model, submitted=len(new))
        tally.add(tx)
    ctx.bell.ring(ended)
    ctx.announcer.announce(document.model, document.job_class, [job.id for job in left])
    return True


def _page_job(document: Rendering, page: PagePicture) -> jobs.NewJob:
    normal = {
        "sha256": page.sha256, "media_type": page.media_type, "width": page.width, "height": page.height
    }  # fmt: skip
    image = {"sha256": page.sha256, "media_type": page.media_type, "normal": normal}
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


def finish_render(ctx: Context, lease_id: UUID, claim: Claim) -> bool:
    """All pages of the document are saved. False when the fence refused."""
    with ctx.db.transaction() as tx:
        return endings.finish(tx, lease_id=lease_id, claim=claim)
