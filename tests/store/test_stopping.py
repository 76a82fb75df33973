"""A run that pauses itself: by whom ever its pages end, told once, and let go on by one verb."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchinfer.domain.retries import RetryClass
from batchinfer.domain.runs import RunState
from batchinfer.domain.webhooks import EndpointRequest
from batchinfer.errors import Failure
from batchinfer.services import batch_controls, holding, runs, webhooks, work
from tests.page_runs import make_page_run

MODEL = "reader"


@pytest.fixture
def run(bench, tmp_path):
    """A run that stops when more than a fifth of ten pages failed."""
    return make_page_run(
        bench.ctx, bench.caller, tmp_path, model=MODEL, ladder=[], fallback="none",
        stop_after={"share": 0.2, "pages": 10},
    )  # fmt: skip


def end(bench, lease, *, good=0, bad=0):
    """End some of the pages that wait."""
    claims = bench.claim(lease, good + bad)
    assert len(claims) == good + bad
    error = Failure("It is empty.", code="output_empty").as_dict()
    wrong = [work.Ending(claim.id, claim.attempt, error, RetryClass.MODEL_OUTPUT) for claim in claims[good:]]
    return work.complete_group(bench.ctx, lease, [bench.outcome(claim) for claim in claims[:good]], wrong)


def list_told(bench, run):
    return [(row.event, row.actor) for row in bench.rows("events", subject="run", subject_id=run.id)]


def test_it_pauses_itself_with_the_cause_named_and_resumes_by_one_verb(bench, run) -> None:
    run.put(40)
    lease = bench.open()
    end(bench, lease, good=8, bad=2)
    assert run.look().state is RunState.RUNNING, "a fifth is allowed"
    end(bench, lease, bad=1, good=2)
    found = run.look()
    assert (found.state, found.cause["code"], found.cause["failed"]) == (RunState.PAUSED, "too_many_failures", 3)
    assert "3 of the last 13 pages failed" in found.cause["message"]
    assert bench.claim(lease) == [], "what waits is held back"
    assert list_told(bench, run) == [("stopped", "the run itself")]
    resumed = runs.resume_run(bench.ctx, bench.caller, run.id)
    assert (resumed.state, resumed.cause) == (RunState.RUNNING, None)
    end(bench, lease, good=8, bad=2)
    assert run.look().state is RunState.RUNNING, "it is counted anew"


def test_what_runs_when_it_stops_ends_and_tells_nobody_again(bench, run) -> None:
    run.put(40)
    lease, other = bench.open(), bench.open("other")
    late = bench.claim(other, 20)
    end(bench, lease, bad=10)
    error = Failure("It is empty.", code="output_empty").as_dict()
    work.fail(bench.ctx, other, [work.Ending(claim.id, claim.attempt, error) for claim in late])
    assert list_told(bench, run) == [("stopped", "the run itself")]
    runs.resume_run(bench.ctx, bench.caller, run.id)
    end(bench, lease, good=4)
    assert run.look().state is RunState.RUNNING, "what failed before it went on is not held against it"


def test_a_worker_lost_before_it_held_the_rows_back_costs_a_minute_and_no_message(bench, run, monkeypatch) -> None:
    run.put(20)
    lease = bench.open()
    monkeypatch.setattr(holding, "hold_back", lambda *_: None)
    end(bench, lease, bad=10)
    assert list_told(bench, run) == [("stopped", "the run itself")], "written with what stopped it"
    assert {row.state for row in bench.rows("queue", kind="infer")} == {"queued"}
    assert batch_controls.mend_pauses(bench.ctx) == 10
    assert {row.state for row in bench.rows("queue", kind="infer")} == {"paused"}


def test_its_operator_is_told_by_webhook_once(bench, run) -> None:
    request = EndpointRequest("mine", "https://example.com/hook", ("run.stopped", "job.failed"))
    webhooks.create_endpoint(bench.ctx, bench.caller, request)
    run.put(30)
    lease = bench.open()
    end(bench, lease, bad=10)
    (told,) = bench.rows("outbox")
    assert (told.payload["type"], told.payload["data"]["id"]) == ("run.stopped", f"run_{run.id.hex}")


def test_pages_whose_workers_died_count_as_failed(bench, run) -> None:
    run.put(12)
    for _ in range(10):
        lease = bench.open("dies")
        (claim,) = bench.claim(lease, 1)
        bench.run("UPDATE queue SET attempt = attempt + 9, crashes = 9, suspected = 9 WHERE id = :id", id=claim.id)
        work.end_lease(bench.ctx, lease, "killed", clean=False)
    assert run.look().state is RunState.PAUSED
    assert {row.state for row in bench.rows("queue", kind="infer")} == {"paused"}


def test_a_page_on_its_ladder_has_not_failed(bench, tmp_path) -> None:
    run = make_page_run(bench.ctx, bench.caller, tmp_path, model=MODEL, stop_after={"share": 0.0, "pages": 4})
    run.put(10)
    end(bench, bench.open(), bad=10)
    assert run.look().state is RunState.RUNNING
    assert bench.row("runs", id=run.id).recent == []


def test_a_run_without_the_rule_never_stops(bench, tmp_path) -> None:
    run = make_page_run(
        bench.ctx, bench.caller, tmp_path, model=MODEL, ladder=[], fallback="none", stop_after=None
    )  # fmt: skip
    run.put(20)
    end(bench, bench.open(), bad=20)
    assert run.look().state is RunState.RUNNING


def test_one_that_its_operator_paused_is_not_told_of(bench, run) -> None:
    run.put(20)
    lease = bench.open()
    claims = bench.claim(lease, 10)
    runs.pause_run(bench.ctx, bench.caller, run.id)
    work.fail(bench.ctx, lease, [replace(bench.ending(claim)) for claim in claims])
    assert list_told(bench, run) == []
    assert run.look().cause is None
