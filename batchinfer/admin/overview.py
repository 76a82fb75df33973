"""Overview: what waits, what runs, what was done, who works, and what went wrong last."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchinfer.admin.charts import draw_minutes
from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain.jobs import JobState
from batchinfer.services import fleet, models
from batchinfer.store import pages

if TYPE_CHECKING:
    from flask import Blueprint, Response

#: Lines of the newest failures.
FAILURES = 6
CHART_MINUTES = 60


def register(blueprint: Blueprint) -> None:
    """Add the page."""
    blueprint.add_url_rule("/", view_func=show_overview)


def show_overview() -> Response:
    """The page."""
    context, caller = get_context(), get_caller()
    with context.db.transaction() as tx:
        failures, _ = pages.list_rows(tx, caller.tenant_id, state=JobState.FAILED, limit=FAILURES)
    overview = fleet.overview(context, caller)
    known = models.list_models(context, caller)
    return render_live(
        "overview.html",
        "_overview.html",
        overview=overview,
        workers=overview.workers,
        alive=[worker for worker in overview.workers if not worker.dead],
        silent_after_s=3 * context.settings.heartbeat_s,
        models=known,
        first_model=known[0].name if known else "docreader",
        chart=draw_minutes(overview.minutes, until=datetime.now(UTC), count=CHART_MINUTES),
        failures=failures,
    )
