"""The table of states in domain/jobs.py against SQL: each verb from each state, allowed and refused."""

from __future__ import annotations

import pytest

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import TRANSITIONS, JobState
from batchinfer.domain.quality import NextTry
from batchinfer.services import work
from batchinfer.store import climbing, endings, jobs, queue
from batchinfer.store.claims import INFER, PREPARE, Claim

MODEL = "reader"
#: The answer of an earlier job.
KEPT = """
    INSERT INTO results (job_id, tenant_id, attempt, lease_id, text, finish_reason, usage, model, revision, engine)
    VALUES (:id, :tenant_id, 1, :id, 'kept', 'stop', '{}', 'reader', 'r1', 'fake')
"""


def _reach(bench, state):
    """A job in a state, and the claim and lease with which it was last held (or would have been)."""
    kind = PREPARE if state is JobState.PREPARING else INFER
    (job_id,) = bench.put(kind=kind)
    lease = bench.open()
    if state is JobState.QUEUED:
        return job_id, lease, None
    (claim,) = bench.claim(lease, kinds=[kind])
    if state is JobState.SUCCEEDED:
        bench.complete(lease, [claim])
    elif state is JobState.FAILED:
        work.fail(bench.ctx, lease, [bench.ending(claim)])
    elif state is JobState.CANCELLED:
        _cancel(bench, job_id)
    elif state is JobState.EXPIRED:
        _expire(bench, job_id)
    elif state is JobState.QUARANTINED:
        _crash(bench, lease)
    return job_id, lease, claim


def _cancel(bench, job_id):
    with bench.ctx.db.transaction() as tx:
        endings.cancel(tx, DEFAULT_TENANT, [job_id])


def _expire(bench, job_id):
    bench.run("UPDATE queue SET expires_at = now() - interval '1 second' WHERE id = :id", id=job_id)
    with bench.ctx.db.transaction() as tx:
        endings.expire(tx, error={"code": "expired"})


def _crash(bench, lease):
    bench.run("UPDATE queue SET attempt = attempt + 9, crashes = 9, suspected = 9 WHERE lease_id = :lease", lease=lease)
    work.end_lease(bench.ctx, lease, "killed", clean=False)


def _go_another_way(bench, verb, lease, held):
    source = new_id()
    bench.run(KEPT, id=source, tenant_id=DEFAULT_TENANT)
    with bench.ctx.db.transaction() as tx:
        if verb == "reuse":
            endings.reuse(tx, lease_id=lease, claim=held, source=source)
        elif verb == "climb":
            climbing.climb(tx, lease_id=lease, steps=[(bench.ending(held), NextTry({}, MODEL, prepares=True))])
        else:
            endings.stand_in(tx, lease_id=lease, claim=held, text="its own")


def _apply(bench, verb, job_id, lease, claim):
    """Do the verb as its caller does it."""
    ctx = bench.ctx
    held = claim or Claim(job_id, INFER, job_id, DEFAULT_TENANT, "", None, 1, 0, 0, 1, None, None, lease)
    if verb == "prepare":
        work.mark_prepared(ctx, lease, held, [])
    elif verb in ("reuse", "climb", "stand_in"):
        _go_another_way(bench, verb, lease, held)
    elif verb == "claim":
        bench.claim(lease)
    elif verb == "complete":
        bench.complete(lease, [held])
    elif verb == "fail":
        work.fail(ctx, lease, [bench.ending(held)])
    elif verb == "retry":
        work.fail(ctx, lease, [bench.ending(held, transient=True)])
    elif verb == "release":
        work.release(ctx, lease)
        with ctx.db.transaction() as tx:
            jobs.release_quarantined(tx, DEFAULT_TENANT, job_id, suspected=2)
    elif verb == "cancel":
        _cancel(bench, job_id)
    elif verb == "expire":
        _expire(bench, job_id)
    else:
        _crash(bench, lease)


#: What waits would be claimed by those that reach a later state.
QUEUED_LAST = JobState.QUEUED.__eq__
#: What the table allows for completeness and no caller does: a lost worker quarantines only what it held (a queued row
#: has no worker), and preparing that comes back, by a retry or release, is preparing again.
UNUSED = {
    ("quarantine", JobState.QUEUED), ("retry", JobState.PREPARING), ("release", JobState.PREPARING),
}  # fmt: skip


@pytest.mark.parametrize("verb", TRANSITIONS)
def test_a_verb_leads_where_the_table_says_or_nowhere(bench, verb):
    sources, target = TRANSITIONS[verb]
    for state in JobState:
        if (verb, state) in UNUSED:
            continue
        job_id, lease, claim = _reach(bench, state)
        before = bench.job(job_id)
        assert before.state is state
        _apply(bench, verb, job_id, lease, claim)
        after = bench.job(job_id)
        if state in sources:
            assert after.state is target, state
        else:
            assert after == before, state
            assert len(bench.rows("attempts", job_id=job_id)) <= 1, state
        bench.run("DELETE FROM queue")


def test_a_job_is_live_if_and_only_if_it_has_a_queue_row(bench):
    reached = {state: _reach(bench, state)[0] for state in sorted(JobState, key=QUEUED_LAST)}
    live = {row.id for row in bench.rows("queue")}
    for state, job_id in reached.items():
        assert (job_id in live) == (bench.row("jobs", id=job_id).final_state is None), state


def test_nothing_of_it_holds_a_lock_afterwards(bench):
    ids = [_reach(bench, state)[0] for state in (JobState.RUNNING, JobState.PREPARING, JobState.QUEUED)]
    with bench.ctx.db.transaction() as tx:
        queue.lock(tx, ids)
