"""Run by Alembic. `batchinfer.store.migrate` hands over a connection; there is no alembic.ini and no other way in."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from batchinfer.store.tables import metadata

#: A migration that cannot have its lock soon gives up, instead of letting everybody queue behind it.
LOCK_TIMEOUT_S = 4
STATEMENT_TIMEOUT_S = 60


def run() -> None:
    """Apply the revisions that are missing, each in a transaction of its own; or, where the one who calls has begun
    one for all that he does (`whole`), in that, with his limits."""
    connection: Connection = context.config.attributes["connection"]
    whole = bool(context.config.attributes.get("whole"))
    if not whole:
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
        connection.commit()
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=not whole)
    with context.begin_transaction():
        context.run_migrations()


run()
