"""Runs end early in good order, and what a crash leaves of one is put right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchinfer.domain.batches import BatchState
from batchinfer.domain.runs import RunState
from batchinfer.services import batches, checking, pumping, run_upkeep, runs, upkeep
from batchinfer.services.work import CLOSE, LIST, RENDER
from batchinfer.store import retention, run_endings
from batchinfer.store.horizons import Horizons

if TYPE_CHECKING:
    from uuid import UUID

    from tests.sources.conftest import Night


def stages(night: Night, run_id: UUID) -> dict[str, int]:
    rows = night.rows(
        "SELECT stage || coalesce(' ' || outcome, '') AS s, count(*) AS n FROM documents WHERE run_id = :id GROUP BY 1",
        id=run_id,
    )
    return {row.s: row.n for row in rows}


@pytest.fixture
def run_id(night: Night) -> UUID:
    """A run of 30 listed documents, 4 of them at work."""
    settings = night.ctx.settings.model_copy(update={"render_ahead_pages": 16})
    object.__setattr__(night.ctx, "settings", settings)
    night.write(*(f"{i:02}.pdf" for i in range(30)))
    made = night.declare()
    night.list()
    return made


def test_rendering_runs_ahead_as_far_as_it_may(night: Night, run_id: UUID) -> None:
    assert stages(night, run_id) == {"queued": 4, "listed": 26}
    assert pumping.pump(night.ctx, run_id) == 0
    assert [row.number for row in night.documents(run_id) if row.stage == "queued"] == [1, 2, 3, 4]
    night.read(pages=2)  # documents of 2 pages each: there is room for 8 of them
    assert pumping.pump(night.ctx, run_id) == 8
    night.rows("UPDATE batches SET paused_at = now()")
    night.read(pages=2)
    assert pumping.pump(night.ctx, run_id) == 0
    night.rows("UPDATE batches SET paused_at = NULL")
    assert pumping.pump(night.ctx, run_id) == 8


def test_the_disk_bounds_it_too(night: Night, run_id: UUID) -> None:
    night.read(pages=1)
    settings = night.ctx.settings.model_copy(update={"render_ahead_pages": 2000, "render_ahead_mib": 10})
    object.__setattr__(night.ctx, "settings", settings)
    night.rows("UPDATE runs SET page_bytes = 4 * 2 * 1024 * 1024")  # 2 MiB a page: 5 at once
    assert pumping.pump(night.ctx, run_id) == 5


def test_a_document_larger_than_all_room_is_rendered_alone() -> None:
    from batchinfer.settings import load_settings
    from batchinfer.store.backpressure import Ahead

    settings = load_settings(render_ahead_pages=10)
    huge = Ahead(pages=500, ended=500, page_bytes=0, rendered=1, unrendered=0)
    assert pumping.find_room(huge, settings) == 1
    assert pumping.find_room(Ahead(500, 500, 0, 1, 1), settings) == 0


def test_a_cancelled_run_ends_in_its_ordinary_way(night: Night, run_id: UUID) -> None:
    night.read_one(night.claim(RENDER, limit=1)[0], 1)
    runs.cancel_run(night.ctx, night.caller, run_id)
    assert stages(night, run_id) == {"queued": 4, "closed cancelled": 26}
    assert night.kinds() == {"close": 4}
    assert night.is_open(run_id) == 4
    run_upkeep.finish_runs(night.ctx)
    batches.finish_batches(night.ctx)
    assert night.kinds() == {"close": 4}
    for claim in night.claim(CLOSE):
        night.close_one(claim)
    assert night.kinds() == {"export": 1}
    run = night.get(run_id)
    assert run.batch is not None
    assert run.batch.status is BatchState.CANCELLING
    assert run.counts.closed == 30
    assert sorted(row.closed_number for row in night.documents(run_id)) == list(range(1, 31))


def test_a_run_cancelled_while_it_is_listed(night: Night) -> None:
    night.write("a.pdf")
    made = night.declare()
    runs.cancel_run(night.ctx, night.caller, made)
    assert night.kinds() == {"export": 1}
    assert night.is_open(made) == 0


def test_what_upkeep_finds_half_cancelled_goes_on(night: Night, run_id: UUID) -> None:
    night.rows("UPDATE batches SET status = 'cancelling', cancelling_at = now() WHERE id = :id", id=run_id)
    upkeep.tick(night.ctx)
    assert stages(night, run_id) == {"queued": 4, "closed cancelled": 26}
    assert night.kinds() == {"close": 4}


def test_a_run_whose_window_is_over_expires(night: Night, run_id: UUID) -> None:
    night.rows("UPDATE batches SET expires_at = now() - interval '1 second'")
    night.rows("UPDATE queue SET expires_at = now() - interval '1 second'")
    upkeep.tick(night.ctx)
    assert stages(night, run_id) == {"queued": 4, "closed expired": 26}
    assert (night.get(run_id).cause or {})["code"] == "expired"
    for claim in night.claim(CLOSE):
        night.close_one(claim)
    assert night.kinds() == {"export": 1}


def test_a_window_that_closes_while_the_source_is_listed(night: Night) -> None:
    night.write("a.pdf")
    made = night.declare()
    night.rows("UPDATE batches SET expires_at = now() - interval '1 second'")
    claim = night.claim(LIST)[0]
    upkeep.tick(night.ctx)
    assert not night.list(claim)
    assert night.kinds() == {"export": 1}
    assert (night.get(made).cause or {})["code"] == "expired"


def test_a_run_that_broke_is_finished_with_its_cause(night: Night, run_id: UUID) -> None:
    night.rows("""UPDATE batches SET status = 'failed', failed_at = now(), errors =
        '[{"code": "source_forbidden", "message": "No.", "line": null, "param": null}]'""")
    run_upkeep.finish_runs(night.ctx)
    for claim in night.claim(CLOSE):
        night.close_one(claim)
    run_upkeep.finish_runs(night.ctx)
    run = night.get(run_id)
    assert (run.state, (run.cause or {})["code"]) == (RunState.FAILED, "source_forbidden")
    assert run.finished_at is not None
    assert night.is_open(run_id) == 0


def test_a_listing_that_nobody_does_is_done_again(night: Night) -> None:
    night.write("a.pdf", "b.pdf")
    made = night.declare()
    night.rows("DELETE FROM queue")
    run_upkeep.finish_runs(night.ctx)
    assert night.kinds() == {"list": 1}
    assert night.list()
    assert len(night.documents(made)) == 2


def test_documents_that_nobody_works_on_are_found(night: Night, run_id: UUID) -> None:
    claims = night.claim(RENDER)
    night.read_one(claims[0], 1)
    night.read_one(claims[1], 1)
    night.rows("DELETE FROM queue")
    night.rows("UPDATE documents SET jobs_ended = 0, rendered_at = now() - interval '1 hour' WHERE id = :id",
               id=claims[1].id)  # fmt: skip
    run_upkeep.mend_runs(night.ctx)
    assert night.kinds() == {"render": 2, "close": 2}
    run_upkeep.mend_runs(night.ctx)
    assert night.kinds() == {"render": 2, "close": 2}


@pytest.mark.parametrize("wrong", [0, 7])
def test_a_wrong_count_of_what_is_open_is_found_and_put_right(night: Night, wrong: int) -> None:
    night.write("a.pdf")
    made = night.declare()
    night.list()
    if wrong:
        night.read_all_but_list(made)
    night.rows("UPDATE batches SET open = :n", n=wrong)
    found = {(one.counter, one.counted, one.rows) for one in checking.check_counters(night.ctx)}
    assert ("run.open", wrong, 0 if wrong else 1) in found
    run_upkeep.mend_runs(night.ctx)
    assert night.is_open(made) == (0 if wrong else 1)
    with night.ctx.db.transaction() as tx:
        assert run_endings.list_mismatches(tx) == []
    if wrong:
        assert night.kinds() == {"export": 1}


def test_old_runs_are_forgotten_and_what_others_need_is_kept(night: Night) -> None:
    night.write("a.pdf", "b.pdf")
    first = night.declare()
    night.read_all(first)
    second = night.declare()
    night.list()
    night.rows("DELETE FROM ledger WHERE document_id = (SELECT id FROM documents WHERE run_id = :id AND number = 2)",
               id=first)  # fmt: skip
    night.rows("DELETE FROM results")
    night.rows("DELETE FROM jobs")
    night.rows("DELETE FROM queue")
    night.rows("UPDATE documents SET same_as = NULL WHERE number = 2")
    night.rows("UPDATE runs SET finished_at = now() WHERE id = :id", id=first)
    from batchinfer.domain.ids import new_id

    with night.ctx.db.transaction() as tx:
        retention.drop_beside(tx, Horizons(new_id()))
    assert [row.id for row in night.rows("SELECT id FROM runs")] == [second]
    assert [row.number for row in night.documents(first)] == [1]
    assert len(night.documents(second)) == 2
    night.rows("UPDATE runs SET finished_at = now()")
    for _ in range(2):
        with night.ctx.db.transaction() as tx:
            retention.drop_beside(tx, Horizons(new_id()))
    for table in ("runs", "documents", "ledger", "shards"):
        assert night.rows(f"SELECT 1 FROM {table}") == []  # noqa: S608
