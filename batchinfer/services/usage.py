"""What a tenant used, as its counters say; nothing here reads done jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from batchinfer.domain.usage import UsageRow
from batchinfer.errors import BadRequest
from batchinfer.store import usage as store
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import date
    from uuid import UUID

    from batchinfer.services.context import Caller, Context

MOST_DAYS = 366
MOST_ROWS = 10_000
_USUAL_DAYS = 30


@dataclass(frozen=True)
class UsageReport:
    """Usage of the days `since` to `until`, both whole, by group, and all of it together."""

    since: date
    until: date
    rows: list[UsageRow]
    total: UsageRow | None


def read_usage(
    ctx: Context,
    caller: Caller,
    *,
    groups: Collection[str] = ("day",),
    since: date | None = None,
    until: date | None = None,
    model: str | None = None,
    key_id: UUID | None = None,
) -> UsageReport:
    """What was used by results of some days of UTC: the last 30 unless said otherwise.

    Raises BadRequest where `since` is behind `until`, the days are more than MOST_DAYS, or the rows over MOST_ROWS.
    """
    caller.require("read")
    with ctx.db.transaction() as tx:
        last = until or max(read_now(tx).date(), since) if since else until or read_now(tx).date()
        first = since or last - timedelta(days=_USUAL_DAYS - 1)
        if not timedelta(0) <= last - first < timedelta(days=MOST_DAYS):
            raise BadRequest(
                f"`from` must be a day before or at `to`, and both at most {MOST_DAYS} days apart.",
                code="invalid_value",
                param="from",
            )
        rows, total = (
            store.read_usage(
                tx,
                caller.tenant_id,
                since=first,
                until=last,
                groups=by,
                model=model,
                key_id=key_id,
                limit=MOST_ROWS + 1,
            )
            for by in (groups, ())
        )
    if len(rows) > MOST_ROWS:
        raise BadRequest(
            f"`group_by` makes more than {MOST_ROWS:,} rows. Ask for fewer days, one model or one key.",
            code="invalid_value",
            param="group_by",
        )
    return UsageReport(first, last, rows, total[0] if total else None)
