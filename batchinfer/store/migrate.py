"""Bring a database to the newest schema. The revisions lie in `migrations/`, in the wheel inside the package."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, text

from batchinfer.errors import StartError
from batchinfer.store.partitions import ensure_partitions
from batchinfer.store.session import CONNECT_TIMEOUT_S, answering

_PACKAGE = Path(__file__).parents[1]
_MIGRATOR_LOCK = 7215003
#: How long to wait for another process that migrates.
_PATIENCE_S = 120.0
_LOCK = text("SELECT pg_advisory_lock(:key)")
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
    Raises Unavailable when the database does not answer.
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
        connection.execute(text(f"SET lock_timeout = '{int(_PATIENCE_S * 1000)}ms'"))
        connection.execute(_LOCK, {"key": _MIGRATOR_LOCK})
        connection.commit()
        try:
            command.upgrade(_config(connection), revision)
            ensure_partitions(connection)
            connection.commit()
            return find_revision(connection) or ""
        finally:
            connection.rollback()
            connection.execute(_UNLOCK, {"key": _MIGRATOR_LOCK})
            connection.commit()


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
