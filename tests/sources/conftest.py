"""Runs over folders and buckets, listed by hand: what a CPU worker does, without one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.domain.retries import classify_error
from batchinfer.errors import BatchinferError
from batchinfer.services import listing, models, runs, sealing, work
from batchinfer.services.pumping import pump
from batchinfer.services.work import CLOSE, LIST, RENDER
from batchinfer.store import batches, endings, minutes
from batchinfer.store.claims import Ending

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from batchinfer.domain.runs import Run
    from batchinfer.services.context import Caller, Context
    from batchinfer.settings import Settings
    from batchinfer.store.claims import Claim

MODEL = "reader"
_JOBS = """
    INSERT INTO jobs (id, tenant_id, model, class, prompt, document_id, page, batch_id, line, final_state, finished_at)
    SELECT id, :tenant, 'reader', 'batch', '{}', :id, 1, :run, 1, 'succeeded', now()
    FROM unnest(CAST(:ids AS uuid[])) AS made (id)
"""
_RESULTS = """
    INSERT INTO results (job_id, tenant_id, attempt, lease_id, text, finish_reason, usage, model, revision, engine)
    SELECT id, :tenant, 1, id, 'x', 'stop', '{}', 'reader', 'r1', 'fake' FROM unnest(CAST(:ids AS uuid[])) AS made (id)
"""
_RENDERED = """
    UPDATE documents SET jobs = :n, pages = :n, blob = repeat('0', 64), rendered_at = now() WHERE id = :id
"""
_CLOSED = """
    WITH counted AS (UPDATE runs SET closed = closed + 1 WHERE id = :run RETURNING closed)
    UPDATE documents SET stage = 'closed', outcome = 'completed', closed_number = c.closed, closed_at = now()
    FROM counted c WHERE documents.id = :id
"""
_ENTERED = """
    INSERT INTO ledger (tenant_id, recipe, uri_key, document_id, size_bytes, stamp, sha256, pages)
    SELECT r.tenant_id, r.recipe, encode(sha256(convert_to(:uri, 'UTF8')), 'hex'), d.id, d.size_bytes, d.stamp, d.blob,
           d.pages
    FROM runs r JOIN documents d ON d.run_id = r.id WHERE d.id = :id
    ON CONFLICT (tenant_id, recipe, uri_key) DO UPDATE SET document_id = excluded.document_id,
        size_bytes = excluded.size_bytes, stamp = excluded.stamp, sha256 = excluded.sha256
"""


@dataclass
class Night:
    """Declares runs and does what a CPU worker does of them."""

    ctx: Context
    caller: Caller
    folder: Path
    lease_id: UUID | None = None
    #: Runs whose closing asked for shards.
    sealed: list[UUID] = field(default_factory=list)

    def write(self, *names: str, data: bytes = b"%PDF-1.4") -> None:
        """Files below the folder."""
        for name in names:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def body(self, *, prompt: str = "Read it.", **source: Any) -> dict[str, Any]:
        where = source if {"files", "urls", "uri"} & source.keys() else {"uri": str(self.folder), **source}
        return {"source": where, "pipeline": {"model": MODEL, "prompt": prompt}, "sinks": []}

    def declare(self, **source: Any) -> UUID:
        body = self.body(**source)
        del body["sinks"]
        return runs.declare_run(self.ctx, self.caller, body)[0].id

    def open(self) -> UUID:
        self.lease_id = work.open_lease(self.ctx, role="cpu", worker="c1", host="here", pid=1, slots=8)
        return self.lease_id

    def claim(self, *kinds: str, limit: int = 10_000) -> list[Claim]:
        lease_id = self.lease_id or self.open()
        return work.claim(self.ctx, lease_id=lease_id, kinds=kinds, model=None, limit=limit)

    def list(self, claim: Claim | None = None) -> bool:
        """List as the workshop would: an error is written."""
        claim = claim or self.claim(LIST)[0]
        try:
            return listing.list_source(self.ctx, claim, lambda action: action(), lambda: True)
        except BatchinferError as error:
            ending = Ending(claim.id, claim.attempt, error.as_dict(), classify_error(error))
            work.fail(self.ctx, claim.lease_id, [ending])
            raise

    def get(self, run_id: UUID) -> Run:
        return runs.get_own(self.ctx, self.caller, run_id)

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self.ctx.db.transaction() as tx:
            result = tx.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def documents(self, run_id: UUID) -> list[Any]:
        return self.rows("SELECT * FROM documents WHERE run_id = :id ORDER BY number", id=run_id)

    def is_open(self, run_id: UUID) -> int:
        return int(self.rows("SELECT open FROM batches WHERE id = :id", id=run_id)[0].open)

    def kinds(self) -> dict[str, int]:
        """Queue rows by kind."""
        return {row.kind: row.n for row in self.rows("SELECT kind, count(*) AS n FROM queue GROUP BY 1")}

    def read(self, pages: int = 1) -> int:
        """Render, read and close all that is queued, as the other parts do, with `pages` good pages each."""
        done = 0
        for claim in self.claim(RENDER):
            self.read_one(claim, pages)
            done += 1
        for claim in self.claim(CLOSE):
            self.close_one(claim)
        return done

    def read_one(self, claim: Claim, pages: int) -> None:
        run_id = self.rows("SELECT run_id FROM documents WHERE id = :id", id=claim.id)[0].run_id
        ids = [new_id() for _ in range(pages)]
        values = {"ids": ids, "tenant": claim.tenant_id, "id": claim.id, "run": run_id, "n": pages}
        with self.ctx.db.transaction() as tx:
            for statement in (_JOBS, _RESULTS, _RENDERED):
                tx.execute(text(statement), values)
            batches.open_lines(tx, run_id, lines=pages)
            endings.finish(tx, lease_id=claim.lease_id, claim=claim)
            tally = minutes.Tally()
            tally.count_line(run_id, completed=pages)
            tally.count_page(claim.id, run_id, ended=pages)
            tally.add(tx)

    def close_one(self, claim: Claim) -> None:
        with self.ctx.db.transaction() as tx:
            row = tx.execute(text("SELECT * FROM documents WHERE id = :id FOR UPDATE"), {"id": claim.id}).one()
            batches.open_lines(tx, row.run_id, opened=-1)
            for statement in (_CLOSED, _ENTERED)[: 1 if row.error else 2]:
                tx.execute(text(statement), {"id": claim.id, "run": row.run_id, "uri": row.uri})
            endings.finish(tx, lease_id=claim.lease_id, claim=claim)
            tally = minutes.Tally()
            tally.count_line(row.run_id)
            tally.add(tx)

    def read_all(self, run_id: UUID, pages: int = 1) -> None:
        """List a run and read all of it."""
        self.list()
        self.read_all_but_list(run_id, pages)

    def read_all_but_list(self, run_id: UUID, pages: int = 1) -> None:
        """Read all of a run that is listed."""
        while self.read(pages) or pump(self.ctx, run_id):
            pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that runs may read."""
    made = tmp_path / "in"
    made.mkdir()
    return made


@pytest.fixture
def settings(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"source_folders": str(folder)})


@pytest.fixture
def night(context: Context, caller: Caller, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    """Runs over `folder` with one model known."""
    models.register_model(context, MODEL, "/nowhere", "r1", {})
    made = Night(context, caller, folder)

    def queue_full_shards(tx: Any, run_id: UUID) -> list[UUID]:
        made.sealed.append(run_id)
        return []

    monkeypatch.setattr(sealing, "queue_full_shards", queue_full_shards, raising=False)
    return made


@pytest.fixture
def refused() -> Callable[..., str]:
    """The code with which something is refused."""

    def find_code(action: Callable[[], Any]) -> str:
        with pytest.raises(BatchinferError) as caught:
            action()
        return caught.value.code

    return find_code
