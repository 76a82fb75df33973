"""A database clock that was set back: what was due would wait, and the silent would seem alive, until the old time
came again. Times that lie ahead although they are of the past become now.

The signs are times that are only ever written as now: the last tick's and the living leases' last beats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from batchinfer.store.session import Transaction

#: A transaction's now is its beginning, so another one's may lie a little ahead of it.
STEP_S = 5.0
_ROWS = 10_000
_NOTICE = text("""
    SELECT greatest((SELECT max(ticked_at) FROM ticks), (SELECT max(heartbeat_at) FROM leases WHERE NOT dead))
        > now() + make_interval(secs => :step_s)
""")
_MEND_LEASES = text("UPDATE leases SET heartbeat_at = now() WHERE NOT dead AND heartbeat_at > now()")
_MEND_TICKS = text("UPDATE ticks SET ticked_at = now() WHERE ticked_at > now()")
_MEND_QUEUE = text("""
    UPDATE queue SET available_at = now() WHERE id IN (
        SELECT id FROM queue WHERE state = 'queued' AND available_at > now()
        ORDER BY id LIMIT :rows FOR UPDATE SKIP LOCKED)
""")


def mend_times(tx: Transaction) -> bool:
    """Notice that the clock was set back, and let nobody wait for the old time. Waits before another try end too."""
    if not tx.execute(_NOTICE, {"step_s": STEP_S}).scalar_one():
        return False
    tx.execute(_MEND_LEASES)
    while tx.execute(_MEND_QUEUE, {"rows": _ROWS}).rowcount == _ROWS:
        pass
    tx.execute(_MEND_TICKS)
    return True
