"""Revisions of models over HTTP: fetched, looked at and taken away. `models` makes them known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api import revision_schemas as schemas
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_error
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import ModelPath, RevisionPath
from batchinfer.api.state import current
from batchinfer.api.submission import read_body
from batchinfer.domain.registry import RevisionState, parse_prune
from batchinfer.observe.clock import to_unix
from batchinfer.services import registry

if TYPE_CHECKING:
    from batchinfer.store.revisions import Revision

routes = APIBlueprint(
    "revisions",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "models"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_ALL = "/models/<path:model>/revisions"
_ONE = f"{_ALL}/<revision>"


@routes.post(
    "/models/prune", operation_id="prune_models", request_body=schemas.PRUNE,
    responses={200: schemas.PrunedList, **refusals(413)},
)  # fmt: skip
def prune_models() -> Response:
    """Take away the files of revisions that nobody needs; `dry_run` says what would go, and what that frees."""
    caller().require("fetch")
    asked = parse_prune(read_body())
    found = registry.prune(
        current().context, caller(), model=asked.model, revision=asked.revision, dry_run=asked.dry_run
    )
    data = [schemas.PrunedBody(model=one.model, revision=one.revision, bytes=one.size_bytes, kept=one.kept)
            for one in found]  # fmt: skip
    freed = sum(one.bytes for one in data if one.kept is None)
    return reply(schemas.PrunedList(data=data, freed_bytes=freed, dry_run=asked.dry_run))


@routes.get(_ALL, operation_id="list_revisions", responses={200: schemas.RevisionList})
def list_revisions(path: ModelPath) -> Response:
    """The revisions of a model, newest first: what is here, what is on its way, and what failed."""
    found = registry.list_revisions(current().context, caller(), path.model)
    return reply(schemas.RevisionList(data=[show_to_caller(one) for one in found]))


@routes.get(_ONE, operation_id="get_revision", responses={200: schemas.RevisionBody})
def get_revision(path: RevisionPath) -> Response:
    """One revision; the first six digits of its hash or more are enough."""
    return reply(show_to_caller(registry.get_revision(current().context, caller(), path.model, path.revision)))


@routes.post(f"{_ONE}/fetch", operation_id="fetch_revision", responses={200: schemas.RevisionBody})
def fetch_revision(path: RevisionPath) -> Response:
    """Have a CPU worker bring its files; one that was cut short goes on where it stopped. Twice is as once."""
    return reply(show_to_caller(registry.fetch(current().context, caller(), path.model, path.revision)))


@routes.post(
    f"{_ONE}/verify", operation_id="verify_revision", responses={200: schemas.RevisionBody, **refusals(409)}
)  # fmt: skip
def verify_revision(path: RevisionPath) -> Response:
    """Have a CPU worker read its files again and hold them to their SHA-256; `checked_at` or `error` say how it went.
    Twice, while it is under way, is as once."""
    return reply(show_to_caller(registry.verify(current().context, caller(), path.model, path.revision)))


@routes.post(f"{_ONE}/cancel", operation_id="cancel_fetch", responses={200: schemas.RevisionBody})
def cancel_fetch(path: RevisionPath) -> Response:
    """End a fetch, or a verify; what has come is kept for the next one. Twice is as once."""
    return reply(show_to_caller(registry.cancel_fetch(current().context, caller(), path.model, path.revision)))


def show_to_caller(revision: Revision) -> schemas.RevisionBody:
    """A revision as whoever asks may see it."""
    return show_revision(revision, whole="fetch" in caller().scopes)


def show_revision(revision: Revision, *, whole: bool = True) -> schemas.RevisionBody:
    """A revision as users see it; where its files come from is for those who may fetch."""
    return schemas.RevisionBody.model_validate(
        {
            "id": revision.revision,
            "model": revision.model,
            "status": revision.state,
            "source": revision.source if whole else {"kind": revision.source.get("kind")},
            "bytes": revision.size_bytes,
            "files": [{"name": one["name"], "bytes": one["size"], "sha256": one["sha256"]} for one in revision.files],
            "facts": revision.facts,
            "progress": _show_progress(revision) if _is_under_way(revision) else None,
            "error": show_error(revision.error),
            "created_at": to_unix(revision.created_at),
            "fetched_at": to_unix(revision.fetched_at),
            "checked_at": to_unix(revision.checked_at),
            "verified_at": to_unix(revision.verified_at),
            "pruned_at": to_unix(revision.pruned_at),
        }
    )


def _is_under_way(revision: Revision) -> bool:
    """Whether its files are fetched, or read again, or will be."""
    return revision.state == RevisionState.FETCHING or revision.progress is not None


def _show_progress(revision: Revision) -> dict[str, Any]:
    told = revision.progress or {}
    rate, left = int(told.get("bytes_per_s") or 0), max(0, revision.size_bytes - revision.fetched_bytes)
    return {
        "bytes": revision.fetched_bytes, "total_bytes": revision.size_bytes, "bytes_per_s": rate,
        "left_s": -(-left // rate) if rate else None, "file": told.get("file") or None,
    }  # fmt: skip
