"""Connections and transactions. A part that does not answer becomes errors.Unavailable here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeAlias

import psycopg
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from batchinfer.errors import Unavailable
from batchinfer.store.clean import load_json

#: An open transaction; what every function of the store takes first.
Transaction: TypeAlias = Connection

STATEMENT_TIMEOUT_S = 30
LOCK_TIMEOUT_S = 10
#: A session that stops in the middle of a transaction holds back the cleaning of the queue table for everybody.
IDLE_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 5
POOL_TIMEOUT_S = 5
#: Classes of SQLSTATE under which the same statement may pass later: connection, rollback, resources, operator.
_PASSING = ("08", "40", "53", "55", "57", "58")
_READ_ONLY = "25006"
_RELAX = text("SET LOCAL synchronous_commit TO off")
_PING = text("SELECT 1")
_NOW = text("SELECT now()")


class Database:
    """A pool of connections to Postgres. Nothing connects before the first transaction. Safe for threads."""

    def __init__(self, url: str, *, pool_size: int = 8, application: str = "batchinfer") -> None:
        options = (
            f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c lock_timeout={LOCK_TIMEOUT_S}s "
            f"-c idle_in_transaction_session_timeout={IDLE_TIMEOUT_S}s -c jit=off -c timezone=UTC"
        )
        self.engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            json_deserializer=load_json,
            hide_parameters=True,  # a prompt in an error would be a prompt in a log
            connect_args={
                "application_name": application[:63],
                "connect_timeout": CONNECT_TIMEOUT_S,
                "keepalives_idle": 15,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
                "options": options,
            },
        )

    @contextmanager
    def transaction(self, *, relaxed: bool = False) -> Iterator[Transaction]:
        """One transaction: committed where the block ends, rolled back where it raises.

        `relaxed` does not wait for the disk at the commit: for writes that may be lost in a crash of the server, such
        as claims and signs of life. Raises Unavailable when the database does not answer; whether a commit under way
        then took place is unknown.
        """
        with answering(), self.engine.connect() as connection, connection.begin():
            if relaxed:
                connection.execute(_RELAX)
            yield connection

    def ping(self) -> None:
        """One round trip. Raises Unavailable."""
        with self.transaction() as tx:
            tx.execute(_PING)

    def dispose(self) -> None:
        """Close the idle connections; the next transaction opens new ones."""
        self.engine.dispose()


def read_now(tx: Transaction) -> datetime:
    """The time by the database's clock, by which deadlines and leases are judged; no host's clock is."""
    now: datetime = tx.execute(_NOW).scalar_one()
    return now


@contextmanager
def answering() -> Iterator[None]:
    """Turn what may pass by itself into Unavailable; everything else is a fault of ours and goes through."""
    try:
        yield
    except (DBAPIError, PoolTimeout, psycopg.Error) as error:
        if not is_transient(error):
            raise
        raise Unavailable(
            "The database does not answer. Nothing is lost: send the same request again in a few seconds.",
            code="database_unavailable",
            retry_after_s=5,
        ) from error


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may pass another time: lost connections, full disks, deadlocks, time limits."""
    if isinstance(error, PoolTimeout):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None)
    if sqlstate is None:
        return isinstance(error, OperationalError | InterfaceError | psycopg.OperationalError | psycopg.InterfaceError)
    return sqlstate == _READ_ONLY or sqlstate[:2] in _PASSING
