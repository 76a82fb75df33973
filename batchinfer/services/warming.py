"""Before a night: which weights a host is to have in its page cache, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import DEFAULT_TENANT, SCHEDULE, show_id
from batchinfer.store import warming
from batchinfer.store.events import Event, record

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.warming import Warmable

#: Of what the reading says of itself, what the event keeps.
_TOLD = ("total_bytes", "read_bytes", "seconds", "mib_per_s", "resident_before", "resident_after", "note", "error")


def list_warmable(ctx: Context, host: str) -> list[Warmable]:
    """What schedules that fire soon (setting `warm_before_s`) need on a host. Raises Unavailable."""
    with ctx.db.transaction() as tx:
        return warming.list_warmable(tx, host, before_s=ctx.settings.warm_before_s)


def note_warmed(ctx: Context, host: str, keeper_id: UUID, folder: Warmable, done: dict[str, Any]) -> None:
    """Leave the event of a reading: how much was resident before and after, and at what rate the rest came. Raises
    Unavailable."""
    told = {
        "host": host, "model": folder.model, "revision": folder.revision,
        "schedule": show_id(SCHEDULE, folder.schedule_id), "next_at": folder.next_at.isoformat(),
        **{name: done.get(name) for name in _TOLD if done.get(name) is not None},
    }  # fmt: skip
    with ctx.db.transaction() as tx:
        record(tx, [Event(DEFAULT_TENANT, "host", keeper_id, "warmed", f"keeper {host}", told)])
