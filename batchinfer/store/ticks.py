"""When something was last done, by the database's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.store.session import Transaction

_RECORD = text("""
    INSERT INTO ticks (name, ticked_at) VALUES (:name, now())
    ON CONFLICT (name) DO UPDATE SET ticked_at = excluded.ticked_at
""")
_SINCE = text("""
    SELECT CAST(extract(epoch FROM greatest(now() - ticked_at, interval '0')) AS float) FROM ticks WHERE name = :name
""")
_TAKE_TURN = text("""
    INSERT INTO ticks (name, ticked_at) VALUES (:name, now())
    ON CONFLICT (name) DO UPDATE SET ticked_at = excluded.ticked_at
    WHERE ticks.ticked_at <= now() - make_interval(secs => :every_s)
    RETURNING name
""")
_FIND_WINDOW = text("""
    SELECT greatest(max(ticked_at), date_trunc('minute', now()) - make_interval(secs => :most_s)) AS since,
           date_trunc('minute', now()) AS until
    FROM (SELECT ticked_at FROM ticks WHERE name = :name FOR UPDATE) AS held
""")
_MOVE_ON = text("""
    INSERT INTO ticks (name, ticked_at) VALUES (:name, :until)
    ON CONFLICT (name) DO UPDATE SET ticked_at = excluded.ticked_at
""")


def take_turn(tx: Transaction, name: str, every_s: float) -> bool:
    """Whether it is due, having last been done `every_s` seconds ago or never; noted as done now. Of several that ask
    at once one is told so, once this transaction commits."""
    return tx.execute(_TAKE_TURN, {"name": name, "every_s": every_s}).first() is not None


def take_window(tx: Transaction, name: str, *, most_s: float) -> tuple[datetime, datetime]:
    """The whole minutes since the end of the last window of this name, at most `most_s` seconds back."""
    since, until = tx.execute(_FIND_WINDOW, {"name": name, "most_s": most_s}).one()
    tx.execute(_MOVE_ON, {"name": name, "until": until})
    return min(since, until), until


def record_tick(tx: Transaction, name: str) -> None:
    """Note that it was done now."""
    tx.execute(_RECORD, {"name": name})


def find_seconds_since(tx: Transaction, name: str) -> float | None:
    """Seconds since it was last done; None if never."""
    seconds: float | None = tx.execute(_SINCE, {"name": name}).scalar_one_or_none()
    return seconds
