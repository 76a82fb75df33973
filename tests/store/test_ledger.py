"""Any order of submissions, claims, endings, crashes, zombies and cancels keeps the ledger clean.

Hypothesis draws the orders; a model in memory says what each step must answer, and after each step the rows must add
up: every job is in exactly one state, a success has exactly one result, tries and crashes equal what happened.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.domain.jobs import JobState
from batchinfer.services import work
from batchinfer.store import endings
from batchinfer.store.claims import INFER, PREPARE

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.claims import Claim

MAX_ATTEMPTS = MAX_CRASHES = 3
TABLES = ("queue", "jobs", "results", "attempts", "leases", "minutes", "events", "changes", "usage")


class Ledger(RuleBasedStateMachine):
    """The queue beside a model of it: who holds what, and how each job ended."""

    bench = None
    claims = Bundle("claims")

    @initialize()
    def begin(self) -> None:
        for table in TABLES:
            self.bench.run(f"DELETE FROM {table}")  # noqa: S608 - constants
        self.lease = self.bench.open()
        self.kind: dict[UUID, str] = {}
        self.holder: dict[UUID, tuple[UUID, int]] = {}
        self.number: Counter[UUID] = Counter()
        self.crashes: Counter[UUID] = Counter()
        self.fresh_crashes: Counter[UUID] = Counter()
        self.tries: Counter[UUID] = Counter()
        self.failed_tries: Counter[UUID] = Counter()
        self.ended: dict[UUID, JobState] = {}
        self.submit(4, INFER)
        self.submit(2, PREPARE)

    def _holds(self, claim: Claim) -> bool:
        return self.holder.get(claim.id) == (claim.lease_id, claim.attempt)

    def _let_go(self, job_id: UUID, state: JobState | None = None) -> None:
        self.holder.pop(job_id, None)
        if state is not None:
            self.ended[job_id] = state

    @rule(number=st.integers(1, 3), kind=st.sampled_from([INFER, PREPARE]))
    def submit(self, number: int, kind: str) -> None:
        self.kind |= dict.fromkeys(self.bench.put(number, kind=kind), kind)

    @precondition(lambda self: self.kind.keys() - self.ended.keys() - self.holder.keys())
    @rule(target=claims, limit=st.integers(1, 4), kind=st.sampled_from([INFER, PREPARE]))
    def claim(self, limit: int, kind: str) -> object:
        self.bench.make_due()
        ready = [i for i in self.kind if i not in self.ended | self.holder and self.kind[i] == kind]
        found = self.bench.claim(self.lease, limit, kinds=[kind])
        assert [claim.id for claim in found] == sorted(ready)[:limit]
        for claim in found:
            self.number[claim.id] += 1
            assert claim.attempt == self.number[claim.id]
            self.holder[claim.id] = (self.lease, claim.attempt)
            self.tries[claim.id] += kind == INFER
        return multiple(*found)

    @rule(group=st.lists(claims, min_size=1, max_size=4, unique_by=lambda claim: claim.id))
    def complete(self, group: list[Claim]) -> None:
        lease = group[0].lease_id
        good = {c.id for c in group if self._holds(c) and c.lease_id == lease and self.kind[c.id] == INFER}
        before = {c.id: self._written(c, lease) for c in group if c.id not in good}
        found = self.bench.complete(lease, group)
        assert found.completed == good | {i for i, outcome in before.items() if outcome == "succeeded"}
        assert found.failed == {i for i, outcome in before.items() if outcome == "failed"}
        assert found.retried == {i for i, outcome in before.items() if outcome == "retry"}
        assert found.fenced == {c.id for c in group} - found.completed - found.failed - found.retried
        for job_id in good:
            self._let_go(job_id, JobState.SUCCEEDED)

    def _written(self, claim: Claim, lease: UUID) -> str | None:
        """How this lease ended this try before; that its preparing went well is no result."""
        row = self.bench.row("attempts", job_id=claim.id, number=claim.attempt)
        if row is None or row.lease_id != lease or (row.kind, row.outcome) == (PREPARE, "succeeded"):
            return None
        return row.outcome

    @rule(claim=claims, transient=st.booleans())
    def fail(self, claim: Claim, transient: bool) -> None:
        held = self._holds(claim)
        found = work.fail(self.bench.ctx, claim.lease_id, [self.bench.ending(claim, transient=transient)])
        if not held:
            return
        self.failed_tries[claim.id] += 1
        if found.retried:
            assert transient
            self._let_go(claim.id)
        else:
            assert found.failed == {claim.id}
            assert not transient or self.failed_tries[claim.id] >= MAX_ATTEMPTS
            self._let_go(claim.id, JobState.FAILED)

    @rule(claim=consumes(claims))
    def release(self, claim: Claim) -> None:
        held = self._holds(claim)
        assert work.release(self.bench.ctx, claim.lease_id, [claim]) == held
        if held:
            self.tries[claim.id] -= self.kind[claim.id] == INFER
            self._let_go(claim.id)

    @rule(claim=claims)
    def prepare(self, claim: Claim) -> None:
        ready = self._holds(claim) and self.kind[claim.id] == PREPARE
        assert work.mark_prepared(self.bench.ctx, claim.lease_id, claim, []) == ready
        if ready:
            self.kind[claim.id] = INFER
            self.fresh_crashes[claim.id] = self.failed_tries[claim.id] = 0
            self._let_go(claim.id)

    @rule(claim=claims)
    def cancel(self, claim: Claim) -> None:
        live = claim.id not in self.ended
        with self.bench.ctx.db.transaction() as tx:
            assert bool(endings.cancel(tx, DEFAULT_TENANT, [claim.id])) == live
        if live:
            self._let_go(claim.id, JobState.CANCELLED)

    @precondition(lambda self: any(lease == self.lease for lease, _ in self.holder.values()))
    @rule(clean=st.booleans())
    def end_worker(self, clean: bool) -> None:
        """The worker ends; what it held goes back. Its claims live on as a zombie's."""
        work.end_lease(self.bench.ctx, self.lease, "ended", clean=clean)
        held = [i for i, (lease, _) in self.holder.items() if lease == self.lease]
        for job_id in held:
            self.tries[job_id] -= self.kind[job_id] == INFER
            self.crashes[job_id] += not clean
            self.fresh_crashes[job_id] += not clean
            lost = not clean and len(held) == 1 and self.fresh_crashes[job_id] >= MAX_CRASHES
            self._let_go(job_id, JobState.QUARANTINED if lost else None)
        self.lease = self.bench.open()

    @invariant()
    def the_ledger_is_clean(self) -> None:
        if not hasattr(self, "lease"):
            return
        jobs = {row.id: row for row in self.bench.rows("jobs")}
        live = {row.id: row for row in self.bench.rows("queue")}
        assert jobs.keys() == self.kind.keys()
        assert live.keys() == self.kind.keys() - self.ended.keys()
        assert {i: row.final_state for i, row in jobs.items() if row.final_state} == self.ended
        assert {i: (row.lease_id, row.attempt) for i, row in live.items() if row.state == "running"} == self.holder
        results = Counter(row.job_id for row in self.bench.rows("results"))
        assert results == Counter(i for i, state in self.ended.items() if state is JobState.SUCCEEDED)
        self._numbers_add_up(jobs)

    def _numbers_add_up(self, jobs: dict) -> None:
        numbers = Counter(row.job_id for row in self.bench.rows("attempts"))
        for job_id in jobs:
            seen = self.bench.job(job_id)
            assert seen.attempts == self.tries[job_id], "tries that the user pays for"
            assert seen.crashes == self.crashes[job_id]
            assert numbers[job_id] == self.number[job_id] - (job_id in self.holder), "one row an ended try"
        for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED):
            assert self.bench.count(state.value) == list(self.ended.values()).count(state)
        assert self.bench.count("completion_tokens") == 5 * self.bench.count("succeeded")
        assert self.bench.count("lost") == sum(self.crashes.values())


@pytest.mark.parametrize("examples", [7, pytest.param(60, marks=pytest.mark.long)])
def test_the_ledger_stays_clean(bench, examples):
    machine = type("LedgerOnBench", (Ledger,), {"bench": bench})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            phases=[Phase.generate],
            deadline=None,
            database=None,
            suppress_health_check=checks,
        ),
    )
