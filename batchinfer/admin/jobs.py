"""Jobs: a list that the address alone decides, newest first, paged by key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request, url_for

from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.jobs import JobState
from batchinfer.errors import BadRequest, NotFound
from batchinfer.services import documents, models
from batchinfer.store import pages

if TYPE_CHECKING:
    from uuid import UUID

ROWS = 50


@dataclass(frozen=True)
class Filters:
    """What the address asks for. `before` and `after` are the ends of the page that one comes from."""

    state: JobState | None
    model: str | None
    document_id: UUID | None
    before: UUID | None
    after: UUID | None

    def address(self, **changes: Any) -> str:
        """The address of the same list with changes; a page of its own starts again from the newest."""
        values: dict[str, Any] = {
            "state": self.state.value if self.state else None,
            "model": self.model,
            "document": ids.show_id(ids.DOCUMENT, self.document_id) if self.document_id else None,
        }
        return url_for("admin.show_jobs", **{name: value for name, value in (values | changes).items() if value})

    @property
    def narrowed(self) -> bool:
        """Whether anything but the newest jobs of all kinds is asked for."""
        return any((self.state, self.model, self.document_id, self.before, self.after))


def register(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/jobs", view_func=show_jobs)


def show_jobs() -> Response:
    """The list. Raises BadRequest for a filter that cannot be."""
    context, caller, filters = get_context(), get_caller(), read_filters()
    with context.db.transaction() as tx:
        rows, has_more = pages.list_rows(
            tx, caller.tenant_id, state=filters.state, model=filters.model, document_id=filters.document_id,
            before=filters.before, after=filters.after, limit=ROWS,
        )  # fmt: skip
        counts = pages.count_states(tx, caller.tenant_id, model=filters.model, document_id=filters.document_id)
    known = [model.name for model in models.list_models(context, caller)]
    return render_live(
        "jobs.html",
        "_jobs.html",
        filters=filters,
        rows=rows,
        counts=counts,
        document=_find_document(filters),
        models=known,
        first_model=known[0] if known else "docreader",
        newer=_turn(filters, "before", rows, has_more),
        older=_turn(filters, "after", rows, has_more),
    )


def read_filters() -> Filters:
    """The filters of the address. Raises BadRequest with the parameter."""
    given = request.args
    state = given.get("state") or None
    if state is not None and state not in {known.value for known in JobState}:
        words = ", ".join(known.value for known in JobState)
        raise BadRequest(f"state must be one of {words}, or left out for all.", param="state")
    return Filters(
        state=JobState(state) if state else None,
        model=given.get("model") or None,
        document_id=_read_id(ids.DOCUMENT, "document"),
        before=_read_id(ids.JOB, "before"),
        after=_read_id(ids.JOB, "after"),
    )


def _read_id(prefix: str, name: str) -> UUID | None:
    text = (request.args.get(name) or "").strip()
    if not text:
        return None
    try:
        return ids.parse_id(prefix, text)
    except NotFound as error:
        raise BadRequest(f"{name}: {error.message}", param=name) from None


def _find_document(filters: Filters) -> Any:
    if filters.document_id is None:
        return None
    return documents.get_document(get_context(), get_caller(), filters.document_id)


def _turn(filters: Filters, direction: str, rows: list[pages.JobRow], has_more: bool) -> str | None:
    """The address of the page beside this one; None where the list ends there."""
    if not rows:
        return None
    upwards = filters.before is not None and filters.after is None
    if direction == "before":
        exists = has_more if upwards else filters.after is not None
        return filters.address(before=ids.show_id(ids.JOB, rows[0].id)) if exists else None
    exists = True if upwards else has_more
    return filters.address(after=ids.show_id(ids.JOB, rows[-1].id)) if exists else None
