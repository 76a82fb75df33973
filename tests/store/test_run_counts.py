"""A document's last page ends while its rendering is being stored: its closing is numbered after the tries of that."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from batchinfer.store.fleet import register_model
from batchinfer.store.run_counts import count_pages
from tests.page_runs import make_page_run

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.services.context import Caller, Context

PATIENCE_S = 30.0
WAITS = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.mark.parametrize("number", [1, 3])
def test_a_page_that_ends_while_its_document_is_being_stored(
    context: Context, caller: Caller, tmp_path: Path, number: int
) -> None:
    with context.db.transaction() as tx:
        register_model(tx, name="reader", path="/models/reader", revision="r1", facts={})
    run = make_page_run(context, caller, tmp_path, model="reader")
    counting = threading.Thread(target=lambda: _count(context, run.document_id), daemon=True)
    with context.db.transaction() as tx:
        tx.execute(text("UPDATE documents SET jobs = 1, rendered_at = now() WHERE id = :id"), {"id": run.document_id})
        tx.execute(
            text(
                "INSERT INTO attempts (job_id, number, tenant_id, outcome, kind, started_at)"
                " VALUES (:id, :number, :tenant_id, 'succeeded', 'render', now())"
            ),
            {"id": run.document_id, "number": number, "tenant_id": caller.tenant_id},
        )
        counting.start()
        _wait_until_somebody_waits(context)
    counting.join(PATIENCE_S)
    assert not counting.is_alive()
    with context.db.transaction() as tx:
        rows = tx.execute(
            text("SELECT kind, attempt, released FROM queue WHERE id = :id"), {"id": run.document_id}
        ).all()
    assert [tuple(row) for row in rows] == [("close", number, number)]


def _count(context: Context, document_id: object) -> None:
    with context.db.transaction() as tx:
        count_pages(tx, {document_id: {"ended": 1}})  # type: ignore[dict-item]


def _wait_until_somebody_waits(context: Context) -> None:
    waited = threading.Event()
    for _ in range(int(PATIENCE_S / 0.05)):
        with context.db.transaction() as tx:
            if tx.execute(WAITS).scalar_one():
                return
        waited.wait(0.05)
    raise AssertionError("the count never waited for the rendering's transaction")
