"""A run whose documents are closed by hand, and CPU workers that write its results."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, RUN, new_id, show_id
from batchinfer.domain.jobs import JobClass, Usage
from batchinfer.domain.limits import Limits
from batchinfer.domain.runs import BLANK_ENGINE, TEXT_LAYER_ENGINE, Run, parse_spec
from batchinfer.services import exporting, models, runs, sealing, work
from batchinfer.store import jobs
from batchinfer.store import runs as run_store
from batchinfer.store.claims import EXPORT, SEAL, Claim, Ending
from batchinfer.store.clean import as_jsonb
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from batchinfer.services.context import Caller, Context
    from batchinfer.settings import Settings

MODEL = "reader"
ENGINES = {"ok": "fake", "blank": BLANK_ENGINE, "fallback": TEXT_LAYER_ENGINE}
_DOCUMENT = text("""
    INSERT INTO documents (id, tenant_id, class, model, filename, media_type, blob, prompt, pages, run_id, number, uri,
        stage, outcome, error, jobs, jobs_ended, closed_number, closed_at, rendered_at, started_at, same_as, size_bytes)
    VALUES (:id, :tenant_id, 'batch', :model, :name, 'application/pdf', :blob, '{}', :pages, :run_id, :number, :uri,
        :stage, :outcome, :error, :jobs, :jobs, :closed_number, now() + make_interval(secs => :seconds), now(), now(),
        :same_as, 100)
""")
_RESULT = text("""
    INSERT INTO results
        (job_id, tenant_id, attempt, lease_id, text, finish_reason, usage, timings, model, revision, engine)
    VALUES (:id, :tenant_id, 1, :id, :text, 'stop', :usage, '{}', :model, 'r1', :engine)
""")
_ENDED = text("""
    UPDATE jobs SET final_state = :state, error = :error, attempts = 1, finished_at = now() WHERE id = :id
""")


def go(action: Callable[[], bool]) -> bool:
    return action()


@dataclass
class Night:
    """A run, and everything by hand that others do with it."""

    ctx: Context
    caller: Caller
    run_id: UUID
    scratch: Path
    listed: int = 0
    numbers: int = 0
    jobs: dict[tuple[str, int | None], UUID] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        return runs.get_own(self.ctx, self.caller, self.run_id)

    @property
    def shown_id(self) -> str:
        return show_id(RUN, self.run_id)

    def close(
        self,
        name: str,
        *pages: tuple[str, str | None],
        outcome: str | None = None,
        error: dict[str, Any] | None = None,
        images: list[dict[str, Any]] | None = None,
        seconds: float = 1.0,
    ) -> UUID:
        """A document that is closed, each page as (ok, blank, fallback or failed; its answer or the error's code)."""
        bad = sum(kind == "failed" for kind, _ in pages)
        outcome = outcome or ("completed_with_errors" if bad else "completed")
        document_id = self._insert(name, "closed", len(pages), outcome, error, seconds=seconds)
        self.listed += 1
        with self.ctx.db.transaction() as tx:
            self._insert_pages(tx, document_id, name, pages, images)
            counts = {kind: sum(one == kind for one, _ in pages) for kind in ("blank", "fallback", "failed")}
            tx.execute(
                text("""
                    UPDATE runs SET closed = closed + 1, pages_blank = pages_blank + :blank,
                        pages_fallback = pages_fallback + :fallback, documents = documents + 1,
                        failed = failed + :bad, with_errors = with_errors + :wrong WHERE id = :id"""),
                {"id": self.run_id, **{name: counts[name] for name in ("blank", "fallback")},
                 "bad": int(outcome == "failed"), "wrong": int(outcome == "completed_with_errors")},
            )  # fmt: skip
            tx.execute(
                text("""
                    UPDATE batches SET total = total + :all, lines_read = lines_read + :all, failed = failed + :failed,
                        completed = completed + :all - :failed, prompt_tokens = prompt_tokens + :all * 10,
                        completion_tokens = completion_tokens + :all * 5 WHERE id = :id"""),
                {"id": self.run_id, "all": len(pages), "failed": counts["failed"]},
            )
            sealing.queue_full_shards(tx, self.run_id)
        return document_id

    def skip(self, name: str, same_as: UUID) -> UUID:
        """A document that is unchanged since an earlier one."""
        with self.ctx.db.transaction() as tx:
            tx.execute(
                text("UPDATE runs SET documents = documents + 1, skipped = skipped + 1 WHERE id = :id"),
                {"id": self.run_id},
            )
        return self._insert(name, "skipped", None, None, None, same_as=same_as)

    def _insert(
        self, name: str, stage: str, pages: int | None, outcome: str | None, error: Any,
        same_as: UUID | None = None, seconds: float = 1.0,
    ) -> UUID:  # fmt: skip
        document_id = new_id()
        self.numbers += 1
        values = {
            "id": document_id, "tenant_id": DEFAULT_TENANT, "model": MODEL, "name": name, "pages": pages,
            "blob": None if same_as else hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest(),
            "run_id": self.run_id, "number": self.numbers, "uri": f"file:///in/{self.numbers}", "stage": stage,
            "outcome": outcome, "error": as_jsonb(error), "jobs": pages or 0, "same_as": same_as, "seconds": seconds,
            "closed_number": self.listed + 1 if stage == "closed" else None,
        }  # fmt: skip
        with self.ctx.db.transaction() as tx:
            tx.execute(_DOCUMENT, values)
        return document_id

    def _insert_pages(
        self, tx: Any, document_id: UUID, name: str, pages: tuple[tuple[str, str | None], ...], images: Any
    ) -> None:
        line = len(self.jobs)
        new = [
            jobs.NewJob(
                id=new_id(), tenant_id=DEFAULT_TENANT, model=MODEL, job_class=JobClass.BATCH,
                prompt={"messages": [{"role": "user", "content": "Read."}], "images": images or [], "max_tokens": 16},
                document_id=document_id, page=number, batch_id=self.run_id, line=line + number,
            )
            for number, _ in enumerate(pages, 1)
        ]  # fmt: skip
        jobs.insert_jobs(tx, new)
        usage = as_jsonb(Usage(prompt_tokens=10, completion_tokens=5).as_dict())
        for job, (kind, said) in zip(new, pages, strict=True):
            self.jobs[name, job.page] = job.id
            bad = kind == "failed"
            error = {"code": said, "message": f"It ended with {said}.", "type": "server_error"} if bad else None
            state = "failed" if bad else "succeeded"
            tx.execute(_ENDED, {"id": job.id, "state": state, "error": as_jsonb(error) if error else None})
            if not bad:
                tx.execute(
                    _RESULT,
                    {"id": job.id, "tenant_id": DEFAULT_TENANT, "text": said or "", "usage": usage, "model": MODEL,
                     "engine": ENGINES[kind]},
                )  # fmt: skip

    def take(self, kind: str = SEAL) -> list[Claim]:
        """What waits of a kind, claimed by a worker of its own."""
        self.execute("UPDATE queue SET available_at = now() - interval '1 second' WHERE state = 'queued'")
        lease = work.open_lease(self.ctx, role="cpu", worker="cpu", host="here", pid=1)
        return work.claim(self.ctx, lease_id=lease, kinds=[kind], model=None, limit=64)

    def seal(self, claims: list[Claim] | None = None) -> int:
        """Write every shard that waits. Answers how many."""
        claims = self.take() if claims is None else claims
        for claim in claims:
            assert sealing.seal_shard(self.ctx, claim, self.scratch, go, lambda: True)
        return len(claims)

    def fail(self, claim: Claim, error: Any, retry: Any) -> None:
        """A try of a worker ended with an error, as it says so."""
        work.fail(self.ctx, claim.lease_id, [Ending(claim.id, claim.attempt, error.as_dict(), retry)])

    def end(self) -> None:
        """The source is listed and everything is closed: the run is to be finished."""
        with self.ctx.db.transaction() as tx:
            tx.execute(text("DELETE FROM queue WHERE id = :id"), {"id": self.run_id})
            tx.execute(text("UPDATE batches SET open = 0 WHERE id = :id"), {"id": self.run_id})
            tx.execute(text("UPDATE runs SET listed_at = now() WHERE id = :id"), {"id": self.run_id})
            tally = Tally()
            tally.count_line(self.run_id)
            tally.add(tx)

    def finish(self) -> Run:
        """End the run, its shards written by whoever writes shards."""
        for _ in range(3):
            for claim in self.take(EXPORT):
                assert exporting.export_batch(self.ctx, claim, self.scratch, go, lambda: True)
            self.seal()
            if self.run.finished_at is not None:
                return self.run
        pytest.fail("the run does not end")

    def execute(self, statement: str, **values: Any) -> list[Any]:
        with self.ctx.db.transaction() as tx:
            done = tx.execute(text(statement), values)
            return list(done) if done.returns_rows else []

    def shards(self) -> list[Any]:
        return self.execute("SELECT * FROM shards WHERE run_id = :id ORDER BY number", id=self.run_id)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where results may be written."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(settings: Settings, out: Path) -> Settings:
    return settings.model_copy(update={"sink_folders": str(out), "sink_buckets": "s3://results"})


@pytest.fixture
def make_night(context: Context, caller: Caller, tmp_path: Path) -> Callable[..., Night]:
    """Runs with the sinks given; two documents a shard unless a sink says otherwise."""
    models.register_model(context, MODEL, "/nowhere", "r1", {})

    def make(*sinks: dict[str, Any], form: dict[str, Any] | None = None, source: Any = None, **more: Any) -> Night:
        body = {
            "name": "night",
            "source": source or {"uri": "/in"},
            "pipeline": {"model": MODEL, "prompt": "Read.", "generation": {"response_format": form} if form else {}},
            "sinks": [{"documents_per_shard": 2, **sink} for sink in sinks] or None,
            **more,
        }
        spec = parse_spec(body, Limits.of(context.settings))
        run_id = new_id()
        with context.db.transaction() as tx:
            run_store.insert_run(tx, run_store.NewRun(run_id, caller.tenant_id, body, "night", caller.key_id))
            runs.begin(tx, run_store.load_runs(tx, [run_id])[run_id], spec)
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        return Night(context, caller, run_id, scratch)

    return make
