"""A bench for the store's tests: jobs put in, leases opened, rows claimed, and rows looked at as they lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobClass, Usage
from batchinfer.domain.retries import RetryClass
from batchinfer.errors import Failure
from batchinfer.services import jobs as job_services
from batchinfer.services import models, work
from batchinfer.services.context import Caller
from batchinfer.store import jobs, queue
from batchinfer.store.claims import INFER, PREPARE, Claim, Ending, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.domain.jobs import Job
    from batchinfer.services.context import Context

MODEL = "reader"


@dataclass
class Bench:
    """Everything by hand that a client and a worker do."""

    ctx: Context
    caller: Caller
    leases: list[UUID] = field(default_factory=list)

    def put(
        self,
        number: int = 1,
        *,
        kind: str = INFER,
        tenant_id: UUID = DEFAULT_TENANT,
        model: str = MODEL,
        job_class: JobClass = JobClass.NORMAL,
        expires_at: datetime | None = None,
    ) -> list[UUID]:
        """Store jobs and their queue rows; kind prepare gets one picture each."""
        images = [{"sha256": "0" * 64, "media_type": "image/png", "normal": None}] if kind == PREPARE else []
        new = [
            jobs.NewJob(
                id=new_id(),
                tenant_id=tenant_id,
                model=model,
                job_class=job_class,
                prompt={"messages": [], "images": images},
                expires_at=expires_at,
            )
            for _ in range(number)
        ]
        with self.ctx.db.transaction() as tx:
            jobs.insert_jobs(tx, new)
            queue.enqueue(tx, [queue.Entry(job.id, kind, tenant_id, model, job_class, expires_at) for job in new])
        return [job.id for job in new]

    def open(self, worker: str = "w1", pid: int = 1) -> UUID:
        """A lease of a worker."""
        lease_id = work.open_lease(self.ctx, role="model", worker=worker, host="here", pid=pid, slots=8)
        self.leases.append(lease_id)
        return lease_id

    def claim(
        self, lease_id: UUID, limit: int = 64, *, kinds: Sequence[str] = (INFER,), model: str | None = MODEL
    ) -> list[Claim]:
        """Claim rows of a model."""
        return work.claim(self.ctx, lease_id=lease_id, kinds=kinds, model=model, limit=limit)

    def outcome(self, claim: Claim, answer: str = "read", **more: Any) -> Outcome:
        """A result for a claim, of 10 tokens in, 5 out and one picture."""
        usage = Usage(prompt_tokens=10, completion_tokens=5, image_tokens=4, images=1)
        return Outcome(claim.id, claim.attempt, answer, "stop", usage, MODEL, "r1", "fake", **more)

    def ending(self, claim: Claim, *, transient: bool = False) -> Ending:
        """An error for a claim."""
        error = Failure("It went wrong.", code="went_wrong").as_dict()
        return Ending(claim.id, claim.attempt, error, RetryClass.TRANSIENT if transient else RetryClass.PERMANENT)

    def complete(self, lease_id: UUID, claims: Sequence[Claim]) -> work.Group:
        """Complete claims."""
        return work.complete_group(self.ctx, lease_id, [self.outcome(claim) for claim in claims])

    def job(self, job_id: UUID) -> Job:
        """The job as its owner sees it."""
        return job_services.get_job(self.ctx, self.caller, job_id)

    def row(self, table: str, **where: Any) -> Any:
        """The one row of a table, or None."""
        found = self.rows(table, **where)
        assert len(found) <= 1
        return found[0] if found else None

    def rows(self, table: str, **where: Any) -> list[Any]:
        """Rows of a table as they lie."""
        conditions = " AND ".join(f"{name} = :{name}" for name in where) or "true"
        with self.ctx.db.transaction() as tx:
            return list(tx.execute(text(f"SELECT * FROM {table} WHERE {conditions}"), where))  # noqa: S608

    def run(self, statement: str, **values: Any) -> None:
        """Change rows behind everybody's back."""
        with self.ctx.db.transaction() as tx:
            tx.execute(text(statement), values)

    def make_due(self) -> None:
        """Let every wait before another try be over."""
        self.run("UPDATE queue SET available_at = now() - interval '1 second'")

    def attempts(self, job_id: UUID) -> list[tuple[int, str]]:
        """(number, outcome) of each ended try."""
        with self.ctx.db.transaction() as tx:
            return [(attempt.number, attempt.outcome) for attempt in jobs.list_attempts(tx, job_id)]

    def count(self, counter: str, tenant_id: UUID = DEFAULT_TENANT) -> int:
        """A counter over all minutes of a tenant."""
        return sum(getattr(row, counter) for row in self.rows("minutes", tenant_id=tenant_id))


@pytest.fixture
def bench(context: Context, caller: Caller) -> Bench:
    """A bench with one model known."""
    models.register_model(context, MODEL, "/nowhere", "r1", {})
    return Bench(context, caller)
