"""When something was last done, by the database's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from batchinfer.store.session import Transaction

_RECORD = text("""
    INSERT INTO ticks (name, ticked_at) VALUES (:name, now())
    ON CONFLICT (name) DO UPDATE SET ticked_at = excluded.ticked_at
""")
_SINCE = text("""
    SELECT CAST(extract(epoch FROM greatest(now() - ticked_at, interval '0')) AS float) FROM ticks WHERE name = :name
""")


def record_tick(tx: Transaction, name: str) -> None:
    """Note that it was done now."""
    tx.execute(_RECORD, {"name": name})


def find_seconds_since(tx: Transaction, name: str) -> float | None:
    """Seconds since it was last done; None if never."""
    seconds: float | None = tx.execute(_SINCE, {"name": name}).scalar_one_or_none()
    return seconds
