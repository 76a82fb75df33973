"""Runs as the pages list them: the state that Postgres works out is the one that the domain derives."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from batchinfer.domain.ids import new_id
from batchinfer.domain.runs import RunState
from batchinfer.observe.clock import utc_now
from batchinfer.services import runs
from batchinfer.store import pages_runs
from tests.night_stage import STATES, make_schedule, put_run

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.services.context import Caller, Context
    from batchinfer.settings import Settings


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"source_folders": str(tmp_path)})


def test_each_state_is_what_the_domain_derives_and_can_be_looked_for(
    context: Context, caller: Caller, tmp_path: Path
) -> None:
    schedule = make_schedule(context, caller, tmp_path)
    put = {state: put_run(context, schedule, state, nights_ago=number) for number, state in enumerate(STATES)}
    assert set(put) == set(RunState)
    with context.db.transaction() as tx:
        rows, more = pages_runs.list_rows(tx, caller.tenant_id)
        found = {state: pages_runs.list_rows(tx, caller.tenant_id, state=state)[0] for state in RunState}
    assert not more
    derived = {run.id: run.state for run in runs.list_runs(context, caller).data}
    assert {row.id: row.state for row in rows} == derived == {run_id: state for state, run_id in put.items()}
    assert {state: [row.id for row in listed] for state, listed in found.items()} == {
        state: [run_id] for state, run_id in put.items()
    }
    ended = next(row for row in rows if row.state is RunState.COMPLETED_WITH_ERRORS)
    assert (ended.pages, ended.ok, ended.fallback, ended.blank, ended.failed, ended.ended) == (1204, 1167, 4, 9, 24, 0)
    assert (ended.schedule, ended.model, ended.documents, ended.skipped) == (schedule.name, "reader", 301, 12)


def test_the_newest_of_each_schedule_with_those_by_hand_among_them(
    context: Context, caller: Caller, tmp_path: Path
) -> None:
    first, second = (make_schedule(context, caller, tmp_path, name) for name in ("first", "second"))
    nights = [put_run(context, first, RunState.COMPLETED, nights_ago=5 - number) for number in range(3)]
    by_hand = put_run(context, first, RunState.CANCELLED, by_hand=True)
    other = put_run(context, second, RunState.MISSED)
    with context.db.transaction() as tx:
        found = pages_runs.list_newest(tx, caller.tenant_id, [first.id, second.id], each=3)
        strange = pages_runs.list_newest(tx, new_id(), [first.id], each=3)
        page, more = pages_runs.list_rows(tx, caller.tenant_id, schedule_id=first.id, after=by_hand, limit=2)
        now = utc_now()
        future, _ = pages_runs.list_rows(tx, caller.tenant_id, since=now + timedelta(hours=1))
        past, _ = pages_runs.list_rows(tx, caller.tenant_id, until=now - timedelta(hours=1))
    assert [row.id for row in found[first.id]] == [by_hand, *nights[:0:-1]]
    assert [row.id for row in found[second.id]] == [other]
    assert strange[first.id] == []
    assert ([row.id for row in page], more) == (nights[:0:-1], True)
    assert future == past == []
