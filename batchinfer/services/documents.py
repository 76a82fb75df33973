"""A user's verbs for documents: submit, get, list, cancel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchinfer.domain.documents import CANCELLED_CODE, DocumentState
from batchinfer.domain.ids import DOCUMENT, new_id, show_id
from batchinfer.errors import Conflict, NotFound
from batchinfer.services.context import Page
from batchinfer.services.files import list_there, store_uploads
from batchinfer.services.quotas import admit
from batchinfer.services.replay import take_key
from batchinfer.services.requests import build_page_prompt, find_expiry
from batchinfer.store import documents as store
from batchinfer.store import endings, files, queue
from batchinfer.store.claims import RENDER

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.documents import Document
    from batchinfer.domain.prompts import JobRequest
    from batchinfer.services.context import Caller, Context, Idempotency

_CANCELLED = {
    "message": "The document was cancelled.",
    "type": "invalid_request_error",
    "param": None,
    "code": CANCELLED_CODE,
}


def submit_document(
    ctx: Context, caller: Caller, request: JobRequest, media_type: str, idempotency: Idempotency | None = None
) -> Document:
    """Store a PDF or TIFF, the request's only upload; a CPU worker makes one job a page. Called by jobs.submit."""
    caller.require("submit")
    blobs = list_there(store_uploads(ctx, caller.tenant_id, request.uploads))
    document = store.NewDocument(
        id=new_id(),
        tenant_id=caller.tenant_id,
        model=request.model,
        job_class=request.job_class,
        filename=request.uploads[0].filename,
        media_type=media_type,
        blob=blobs[0].sha256,
        prompt=build_page_prompt(request),
        metadata=request.metadata,
        expires_at=None,
        key_id=caller.key_id,
    )
    with ctx.db.transaction() as tx:
        document = replace(document, expires_at=find_expiry(tx, request))
        take_key(ctx, tx, caller, idempotency, "document", document.id)
        admit(ctx, tx, caller.tenant_id, 1)
        files.record_blobs(tx, caller.tenant_id, blobs)
        store.insert_document(tx, document)
        entry = queue.Entry(
            document.id, RENDER, caller.tenant_id, document.model, document.job_class, document.expires_at
        )
        queue.enqueue(tx, [entry])
        stored = store.find_document(tx, caller.tenant_id, document.id)
    ctx.announcer.announce_cpu([document.id])
    return _require(stored)


def find_own(ctx: Context, caller: Caller, document_id: UUID) -> Document:
    """The caller's document, whatever its scopes. Raises NotFound."""
    with ctx.db.transaction() as tx:
        return _require(store.find_document(tx, caller.tenant_id, document_id))


def _require(document: Document | None) -> Document:
    if document is None:
        raise NotFound("No document with this id. It may have been removed after its time.", code="document_not_found")
    return document


def get_document(ctx: Context, caller: Caller, document_id: UUID) -> Document:
    """The document. Raises NotFound."""
    caller.require("read")
    return find_own(ctx, caller, document_id)


def list_page_ids(ctx: Context, caller: Caller, document_id: UUID) -> list[UUID]:
    """The ids of a document's page jobs, in page order. Empty for one that is not there."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return store.list_page_ids(tx, caller.tenant_id, document_id)


def list_documents(
    ctx: Context, caller: Caller, *, before: UUID | None = None, after: UUID | None = None, limit: int = 20
) -> Page[Document]:
    """Documents, newest first; the cursors are those of list_jobs."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = store.list_documents(tx, caller.tenant_id, before=before, after=after, limit=limit + 1)
    return Page.cut(found, limit, backwards=before is not None)


def cancel_document(ctx: Context, caller: Caller, document_id: UUID) -> Document:
    """End what has not ended of a document; finished pages stay.

    Raises NotFound, Conflict (code document_not_cancellable) where all of it had ended otherwise.
    """
    caller.require("cancel")
    with ctx.db.transaction() as tx:
        _require(store.find_document(tx, caller.tenant_id, document_id))
        # The rendering first: after that no page can be added, and the pages that are there are all of them.
        ended = endings.cancel(
            tx, caller.tenant_id, [document_id], kinds=[RENDER], actor=caller.actor, error=_CANCELLED
        )
        pages = store.list_live_pages(tx, caller.tenant_id, document_id)
        ended += endings.cancel(tx, caller.tenant_id, pages, actor=caller.actor)
        if ended:
            store.mark_document(tx, caller.tenant_id, document_id, _CANCELLED)
        document = _require(store.find_document(tx, caller.tenant_id, document_id))
    ctx.bell.ring([row.id for row in ended])
    held = [row.id for row in ended if row.held]
    if held:
        ctx.control.cancel_jobs(held)
    if not ended and document.state is not DocumentState.CANCELLED:
        raise Conflict(
            f"Document {show_id(DOCUMENT, document_id)} has already ended as {document.state}. Only a document that "
            "has not ended can be cancelled.",
            code="document_not_cancellable",
        )
    return document
