"""What every table has: the columns that repeat, the version of a row, and how constraints are named."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, MetaData, SmallInteger, Text, Uuid, func, text

#: Written into each row; a worker refuses rows of a newer one. It is raised by the release after the one that can read
#: what is new (docs/upgrading.md). A queue row is never older than what it is about.
SCHEMA_VERSION = 1

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def time_column(name: str, *, nullable: bool = True, now: bool = False) -> Column[object]:
    """A point in time, kept in UTC; `now`: the transaction's beginning where nothing else is said."""
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=func.now() if now else None)


def version_column() -> Column[int]:
    """The version by which a row was written."""
    return Column("schema_version", SmallInteger, nullable=False, server_default=text(str(SCHEMA_VERSION)))


def tenant_column() -> Column[object]:
    """Whose row it is."""
    return Column("tenant_id", Uuid, nullable=False)


def class_column() -> Column[str]:
    """The class of its jobs."""
    return Column("class", Text, nullable=False, server_default="normal")
