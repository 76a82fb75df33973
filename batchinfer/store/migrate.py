"""Bring a database to the newest schema. The revisions lie in `migrations/`, in the wheel inside the package."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError, PendingRollbackError

from batchinfer.errors import StartError, Unavailable
from batchinfer.store.partitions import ensure_partitions
from batchinfer.store.session import CONNECT_TIMEOUT_S, answering

log = logging.getLogger(__name__)
_PACKAGE = Path(__file__).parents[1]
_MIGRATOR_LOCK = 7215003
#: How long to wait for another process that migrates.
_PATIENCE_S = 120.0
#: A step that cannot have its lock soon gives up, lets everybody pass, and is tried again.
_TRIES, _PAUSE_S = 5, 2.0
# Asked for again and again: who waited inside a statement would keep a build of an index waiting for him, for ever.
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_LOOK_AGAIN_S = 0.2
_LOCK_WITHIN = text("SELECT pg_advisory_xact_lock(:key)")
_UNLOCK = text("SELECT pg_advisory_unlock(:key)")


def find_folder() -> Path:
    """The folder of the migrations: in the package where it is installed, beside it in a checkout.

    Raises StartError.
    """
    for folder in (_PACKAGE / "migrations", _PACKAGE.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StartError("The database migrations are missing from this installation. Install it again.")


def upgrade(url: str, revision: str = "head") -> str:
    """Apply what is missing and make the partitions of the coming days. Answers the revision that it is at now.

    Any number of processes may call it at once: the others wait. `url` is postgresql://… or postgresql+psycopg://….
    Raises Unavailable when the database does not answer, StartError when a newer release has migrated it.
    """
    engine = create_engine(
        "postgresql+psycopg://" + url.split("://", 1)[1],
        poolclass=NullPool,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "batchinfer migrate",
            # A step may take its time, but none lies open and idle.
            "options": "-c idle_in_transaction_session_timeout=60s",
        },
    )
    with answering(), engine.connect() as connection:
        _wait_for_turn(connection)
        try:
            _refuse_newer(connection)
            _insist(connection, revision)
            ensure_partitions(connection)
            connection.commit()
            return find_revision(connection) or ""
        finally:
            connection.rollback()
            connection.execute(_UNLOCK, {"key": _MIGRATOR_LOCK})
            connection.commit()


def _wait_for_turn(connection: Connection) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not connection.execute(_TRY_LOCK, {"key": _MIGRATOR_LOCK}).scalar_one():
        connection.commit()
        if time.monotonic() > deadline:
            raise Unavailable("Another process migrates the database. Try again when it has ended.", retry_after_s=30)
        time.sleep(_LOOK_AGAIN_S)
    connection.commit()


def _refuse_newer(connection: Connection) -> None:
    present = find_revision(connection)
    connection.rollback()
    try:
        ScriptDirectory(str(find_folder())).get_revision(present or "base")
    except CommandError:
        raise StartError(
            f"The database has the schema of a newer release ({present}). Migrate with that one; its docs/upgrading.md "
            "says whether this one may run beside it."
        ) from None


def _insist(connection: Connection, revision: str) -> None:
    for left in reversed(range(_TRIES)):
        try:
            command.upgrade(_config(connection), revision)
            return
        except PendingRollbackError as error:
            # Alembic ends its block on a connection that is gone, which hides what became of it.
            raise error.__context__ or error from None
        except OperationalError as error:
            connection.rollback()
            if not left or not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
            log.warning("a step of the migration could not have its lock; it is tried again")
            time.sleep(_PAUSE_S)


def upgrade_within(connection: Connection, revision: str = "head") -> None:
    """Apply what is missing in the transaction that this connection has open: all of it, or with it nothing."""
    connection.execute(_LOCK_WITHIN, {"key": _MIGRATOR_LOCK})
    command.upgrade(_config(connection, whole=True), revision)


def is_known(revision: str) -> bool:
    """Whether this installation has a revision: a newer one's, or another program's, it has not."""
    return any(step.revision == revision for step in ScriptDirectory(str(find_folder())).walk_revisions())


def find_revision(connection: Connection) -> str | None:
    """The revision that a database is at; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str:
    """The newest revision that this installation knows."""
    return str(ScriptDirectory(str(find_folder())).get_current_head())


def _config(connection: Connection, *, whole: bool = False) -> Config:
    config = Config()
    config.set_main_option("script_location", str(find_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["whole"] = whole
    return config
