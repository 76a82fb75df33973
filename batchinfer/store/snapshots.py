"""The oldest snapshot: whoever keeps one keeps the dead rows of the queue from being cleaned away, for everybody.

Sources: sessions (`pg_stat_activity`), replication slots and prepared transactions, all of them by how many transaction
ids their horizon lags behind. A role without `pg_read_all_stats` sees its own sessions alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Snapshot:
    """One that holds back cleaning."""

    #: session, slot or prepared.
    kind: str
    #: The session's application, the slot's or the prepared transaction's name.
    name: str
    #: Transactions begun since.
    xids: int
    #: Seconds since its transaction began; None for a slot or a standby, which keep no time.
    age_s: float | None


_OLDEST = text("""
    SELECT kind, name, xids, CAST(age_s AS float) AS age_s FROM (
        SELECT 'session' AS kind, coalesce(application_name, '') AS name,
               greatest(age(backend_xmin), age(backend_xid)) AS xids, extract(epoch FROM now() - xact_start) AS age_s
        FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
          AND backend_type IN ('client backend', 'walsender')
        UNION ALL
        SELECT 'slot', slot_name, greatest(age(xmin), age(catalog_xmin)), NULL FROM pg_replication_slots
        WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL
        UNION ALL
        SELECT 'prepared', gid, age(transaction), extract(epoch FROM now() - prepared) FROM pg_prepared_xacts
    ) AS holders
    ORDER BY age_s DESC NULLS LAST, xids DESC
""")


def list_snapshots(tx: Transaction) -> list[Snapshot]:
    """Those that hold back cleaning now, the oldest first, slots last; the asker's own is left out."""
    return [Snapshot(**row._mapping) for row in tx.execute(_OLDEST)]
