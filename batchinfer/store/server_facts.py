"""What the doctor asks of Postgres: version, settings on which promises rest, schema, clock, connections."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from sqlalchemy import text

from batchinfer.store.migrate import find_revision, head_revision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.store.session import Transaction

_ASK = text("""
    SELECT CAST(current_setting('server_version_num') AS int) AS version, clock_timestamp() AS now,
        pg_is_in_recovery() AS standby, current_setting('fsync') AS fsync,
        current_setting('full_page_writes') AS full_page_writes,
        current_setting('synchronous_commit') AS synchronous_commit,
        CAST(current_setting('max_connections') AS int) AS max_connections,
        (SELECT CAST(count(*) AS int) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections
""")


@dataclass(frozen=True)
class ServerFacts:
    """A Postgres server as this database's owner sees it. `version` is 150004 for 15.4."""

    version: int
    now: datetime
    standby: bool
    #: Settings by name, as Postgres writes them.
    settings: Mapping[str, str]
    max_connections: int
    connections: int
    #: Revision of the schema, and the one that this program knows.
    revision: str | None
    head: str
    #: This host's clock when the server's was read.
    asked_at: datetime


def read_facts(tx: Transaction) -> ServerFacts:
    """Ask the server."""
    row = tx.execute(_ASK).mappings().one()
    asked_at = datetime.now(UTC)
    names = ("fsync", "full_page_writes", "synchronous_commit")
    return ServerFacts(
        version=row["version"],
        now=cast("datetime", row["now"]),
        standby=row["standby"],
        settings={name: row[name] for name in names},
        max_connections=row["max_connections"],
        connections=row["connections"],
        revision=find_revision(tx),
        head=head_revision(),
        asked_at=asked_at,
    )
