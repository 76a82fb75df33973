"""Documents over HTTP: read, list, cancel. They are submitted as jobs are."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_document
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import DocumentPath, PageQuery
from batchinfer.api.schemas import DocumentBody, DocumentList
from batchinfer.api.state import current
from batchinfer.domain.ids import DOCUMENT, parse_id
from batchinfer.services import documents

routes = APIBlueprint(
    "documents",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "documents"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.get("/documents/<document_id>", operation_id="get_document", responses={200: DocumentBody})
def get_document(path: DocumentPath) -> Response:
    """A document: how many of its pages are in each state, and the jobs of its pages in order."""
    return _reply(path)


@routes.get("/documents", operation_id="list_documents", responses={200: DocumentList})
def list_documents(query: PageQuery) -> Response:
    """Documents, newest first; the ids of their jobs are in each document's own answer."""
    after = read_cursor(DOCUMENT, query.after)
    page = documents.list_documents(current().context, caller(), after=after, limit=query.limit)
    return reply(DocumentList(**show_page(page, show_document)))


@routes.post(
    "/documents/<document_id>/cancel",
    operation_id="cancel_document",
    responses={200: DocumentBody, **refusals(409)},
)
def cancel_document(path: DocumentPath) -> Response:
    """End what has not ended of a document; pages that are done stay."""
    documents.cancel_document(current().context, caller(), parse_id(DOCUMENT, path.document_id))
    return _reply(path)


def _reply(path: DocumentPath) -> Response:
    context, document_id = current().context, parse_id(DOCUMENT, path.document_id)
    document = documents.get_document(context, caller(), document_id)
    return reply(show_document(document, documents.list_page_ids(context, caller(), document_id)))
