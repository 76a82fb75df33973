"""Leases by who is alive and by their end: both are asked for every few seconds, and a restarting worker leaves many.

Revision: 0021
"""

from __future__ import annotations

from alembic import op

from batchinfer.store.online import build_index, online

revision = "0021"
down_revision: str | None = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add indexes while everybody works; programs of before gain by them and know nothing of them."""
    with online(op.get_context()):
        build_index(op.get_bind(), "ix_leases_alive", "leases", "role", "NOT dead")
        build_index(op.get_bind(), "ix_leases_ended_at", "leases", "ended_at")
