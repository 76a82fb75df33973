"""A user follows the changes of state of his jobs and batches: by pages, or as they come."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.changes import Change, Position
from batchinfer.errors import BadRequest, Unavailable
from batchinfer.store import changes as store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchinfer.services.context import Caller, Context

#: Who follows looks this often, and no connection is held in between.
LOOK_S = 1.0
_MOST = 100


@dataclass(frozen=True)
class Changes:
    """Some changes, oldest first, and behind what to go on; that moves on where nothing happened, too."""

    data: list[Change]
    has_more: bool
    after: Position


def find_end(ctx: Context, caller: Caller) -> Position:
    """Behind everything that can be read now."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return Position.behind(store.find_reach(tx).horizon)


def list_changes(ctx: Context, caller: Caller, after: Position | None, *, limit: int = 20) -> Changes:
    """Changes behind a position, or (None) from the oldest on that is kept.

    Raises BadRequest (code cursor_expired) where some behind it were dropped, (code invalid_cursor) where the position
    is none of this database.
    """
    caller.require("read")
    with ctx.db.transaction() as tx:
        reach = store.find_reach(tx)
        if after is not None:
            _check(after, reach)
        begin = after or Position.behind(reach.floor)
        found = store.list_changes(tx, caller.tenant_id, begin, reach.horizon, limit=limit + 1)
    if len(found) > limit:
        return Changes(found[:limit], True, found[limit - 1].position)
    return Changes(found, False, max(begin, Position.behind(reach.horizon)))


def _check(after: Position, reach: store.Reach) -> None:
    if after.xid >= reach.next_xid:
        raise BadRequest(
            "`after` is no event of this list. Send the `next_after` of a page, or leave it out.",
            code="invalid_cursor",
            param="after",
        )
    if 0 < after.xid <= reach.floor:
        raise BadRequest(
            "Events behind `after` are no longer kept. List your jobs to see how they stand, then go on without it.",
            code="cursor_expired",
            param="after",
        )


def follow_changes(
    ctx: Context, caller: Caller, after: Position, life_s: float, wanted: Callable[[], bool]
) -> Iterator[Changes]:
    """What comes behind a position, for `life_s` seconds or as long as it is `wanted`: pages, empty ones among them,
    at least one each LOOK_S. A database that is away for a while is waited for. Raises as `list_changes`, at once."""
    deadline = time.monotonic() + life_s
    page = list_changes(ctx, caller, after, limit=_MOST)
    while True:
        yield page
        if not wanted() or time.monotonic() >= deadline:
            return
        if not page.has_more:
            time.sleep(LOOK_S)
        try:
            page = list_changes(ctx, caller, page.after, limit=_MOST)
        except Unavailable:
            page = Changes([], False, page.after)
