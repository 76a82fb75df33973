"""Usage over HTTP: what results used, by day, model, key and schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.lists import read_cursor
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import UsageQuery
from batchinfer.api.schemas import UsageBody, UsageNumbers, UsageRowBody
from batchinfer.api.state import current
from batchinfer.domain.fields import read_word
from batchinfer.domain.ids import KEY as KEY_PREFIX
from batchinfer.domain.ids import SCHEDULE, show_id
from batchinfer.domain.usage import GROUPS
from batchinfer.services import usage
from batchinfer.store.usage import COUNTERS

if TYPE_CHECKING:
    from batchinfer.domain.usage import UsageRow

routes = APIBlueprint(
    "usage",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "usage"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.get("/usage", operation_id="get_usage", responses={200: UsageBody})
def get_usage(query: UsageQuery) -> Response:
    """Tokens, pictures and device-seconds of results, by whole days of UTC; the last 30 unless said otherwise."""
    words = query.group_by.split(",") if query.group_by else []
    groups = [read_word(word, "group_by", GROUPS) for word in words]
    report = usage.read_usage(
        current().context,
        caller(),
        groups=groups,
        since=query.since,
        until=query.until,
        model=query.model,
        key_id=read_cursor(KEY_PREFIX, query.key, "key"),
    )
    return reply(
        UsageBody(
            since=report.since.isoformat(),
            until=report.until.isoformat(),
            group_by=groups,
            data=[_show_row(row) for row in report.rows],
            total=UsageNumbers.model_validate(_show_numbers(report.total)),
        )
    )


def _show_row(row: UsageRow) -> UsageRowBody:
    return UsageRowBody.model_validate(
        {
            "day": row.day.isoformat() if row.day else None,
            "model": row.model,
            "key": show_id(KEY_PREFIX, row.key_id) if row.key_id else None,
            "schedule": show_id(SCHEDULE, row.schedule_id) if row.schedule_id else None,
            **_show_numbers(row),
        }
    )


def _show_numbers(row: UsageRow | None) -> dict[str, Any]:
    numbers = {name: getattr(row, name) if row else 0 for name in COUNTERS}
    return {**numbers, "device_seconds": numbers.pop("device_us") / 1e6}
