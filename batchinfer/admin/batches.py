"""Batches: a list that the address alone decides, newest first, paged by key; a run over documents is one of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request, url_for

from batchinfer.admin import batch_words
from batchinfer.admin.language import find_zone
from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.batches import BatchState
from batchinfer.domain.progress import PACE_MINUTES, measure_progress, own_pace
from batchinfer.errors import BadRequest, NotFound
from batchinfer.observe.clock import utc_now
from batchinfer.services import models
from batchinfer.store import pages_batches

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.progress import Progress
    from batchinfer.store.pages_batches import BatchRow

ROWS = 25
#: Words of the filter: the API's, and `paused` for those in progress of which nothing more begins.
STATES = (*(state.value for state in BatchState), "paused")


@dataclass(frozen=True)
class Filters:
    """What the address asks for. `since` and `until` are days of the page's zone, the last one included."""

    state: str | None
    kind: str | None
    model: str | None
    since: date | None
    until: date | None
    before: UUID | None
    after: UUID | None

    def address(self, **changes: Any) -> str:
        """The address of the same list with changes; a page of its own starts again from the newest."""
        values: dict[str, Any] = {
            "state": self.state, "kind": self.kind, "model": self.model,
            "from": self.since.isoformat() if self.since else None,
            "to": self.until.isoformat() if self.until else None,
        }  # fmt: skip
        return url_for("admin.show_batches", **{name: value for name, value in (values | changes).items() if value})

    @property
    def narrowed(self) -> bool:
        """Whether anything but the newest batches of all kinds is asked for."""
        return any((self.state, self.kind, self.model, self.since, self.until, self.before, self.after))


def register(blueprint: Blueprint) -> None:
    """Add the page, and the words of all pages of batches."""
    batch_words.register(blueprint)
    blueprint.add_url_rule("/batches", view_func=show_batches)


def show_batches() -> Response:
    """The list. Raises BadRequest for a filter that cannot be."""
    context, caller, filters = get_context(), get_caller(), read_filters()
    with context.db.transaction() as tx:
        rows, has_more = pages_batches.list_rows(
            tx, caller.tenant_id, state=filters.state, kind=filters.kind, model=filters.model,
            since=_midnight(filters.since), until=_midnight(filters.until, days=1),
            before=filters.before, after=filters.after, limit=ROWS,
        )  # fmt: skip
        live = [row.batch.id for row in rows if row.batch.status is BatchState.IN_PROGRESS]
        retrying = pages_batches.count_retrying(tx, live)
        recent = pages_batches.sum_recent(tx, live, PACE_MINUTES)
    return render_live(
        "batches.html",
        "_batches.html",
        filters=filters,
        rows=[(row, _measure(row, retrying, recent)) for row in rows],
        states=STATES,
        kinds=pages_batches.KINDS,
        models=[model.name for model in models.list_models(context, caller)],
        newer=_turn(filters, "before", rows, has_more),
        older=_turn(filters, "after", rows, has_more),
    )


def _measure(row: BatchRow, retrying: dict[UUID, int], recent: dict[UUID, int]) -> Progress:
    batch, now = row.batch, utc_now()
    pace = own_pace(batch, recent.get(batch.id, 0), now)
    return measure_progress(batch, retrying=retrying.get(batch.id, 0), pace=pace, now=now)


def read_filters() -> Filters:
    """The filters of the address. Raises BadRequest with the parameter."""
    given = request.args
    return Filters(
        state=_read_word("state", STATES),
        kind=_read_word("kind", pages_batches.KINDS),
        model=given.get("model") or None,
        since=_read_day("from"),
        until=_read_day("to"),
        before=_read_id("before"),
        after=_read_id("after"),
    )


def _read_word(name: str, words: tuple[str, ...]) -> str | None:
    word = request.args.get(name) or None
    if word is not None and word not in words:
        raise BadRequest(f"{name} must be one of {', '.join(words)}, or left out for all.", param=name)
    return word


def _read_day(name: str) -> date | None:
    text = (request.args.get(name) or "").strip()
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise BadRequest(f"{name} must be a day such as 2026-01-31.", param=name) from None


def _read_id(name: str) -> UUID | None:
    text = (request.args.get(name) or "").strip()
    try:
        return ids.parse_id(ids.BATCH, text) if text else None
    except NotFound as error:
        raise BadRequest(f"{name}: {error.message}", param=name) from None


def _midnight(day: date | None, days: int = 0) -> datetime | None:
    """The beginning of a day in the page's zone, or so many days later."""
    if day is None:
        return None
    try:
        return datetime.combine(day + timedelta(days=days), datetime.min.time(), tzinfo=find_zone())
    except OverflowError:
        return None  # the last day that there is has none behind it


def _show_batch(batch_id: UUID) -> str:
    return ids.show_id(ids.BATCH, batch_id)


def _turn(filters: Filters, direction: str, rows: list[BatchRow], has_more: bool) -> str | None:
    """The address of the page beside this one; None where the list ends there."""
    if not rows:
        return None
    upwards = filters.before is not None and filters.after is None
    if direction == "before":
        exists = has_more if upwards else filters.after is not None
        return filters.address(before=_show_batch(rows[0].batch.id)) if exists else None
    exists = True if upwards else has_more
    return filters.address(after=_show_batch(rows[-1].batch.id)) if exists else None
