"""A run whose documents are there, as rendering leaves them: for tests of what becomes of its pages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.limits import Limits
from batchinfer.domain.pipelines import parse_pipeline
from batchinfer.domain.quality import make_quality
from batchinfer.services import runs
from batchinfer.store import jobs, queue
from batchinfer.store import runs as store
from batchinfer.store.claims import INFER

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from batchinfer.services.context import Caller, Context

_DOCUMENT = text("""
    INSERT INTO documents (id, tenant_id, class, model, filename, media_type, blob, prompt, run_id, number, uri, stage,
        first_line, schema_version)
    VALUES (:id, :tenant_id, 'batch', :model, 'a.pdf', 'application/pdf', :blob, '{}', :run_id, 1, 'file:///a.pdf',
        'queued', 0, 1)
""")
NORMAL = {"sha256": "1" * 64, "media_type": "image/png", "width": 8, "height": 8}


def _list_pages(page: int) -> list[dict[str, Any]]:
    return [{"page": page, "sha256": NORMAL["sha256"], "media_type": "image/png", "normal": NORMAL}]


@dataclass(frozen=True)
class PageRun:
    """A run that was listed, with one document."""

    ctx: Context
    caller: Caller
    id: UUID
    document_id: UUID
    pipeline: dict[str, Any]

    def put(self, number: int = 1, *, said: str = "read it", pictures: bool = True, **prompt: Any) -> list[UUID]:
        """Make page jobs, as they are once their pages are rendered; `prompt` changes what is stored."""
        pipeline = parse_pipeline(self.pipeline, Limits.of(self.ctx.settings))
        content = [{"type": "text", "text": said}]
        whole = {
            "messages": [{"role": "user", "content": ([{"type": "image", "index": 0}] if pictures else []) + content}],
            "sampling": pipeline.sampling, "max_tokens": pipeline.max_tokens, "stop": list(pipeline.stop),
            "response_format": pipeline.response_format, "quality": make_quality(pipeline), **prompt,
        }  # fmt: skip
        with self.ctx.db.transaction() as tx:
            last = jobs.find_last_line(tx, self.id)
            new = [
                jobs.NewJob(
                    new_id(), self.caller.tenant_id, pipeline.model, JobClass.BATCH,
                    {"images": _list_pages(line) if pictures else [], **whole},
                    document_id=self.document_id, page=line, batch_id=self.id, line=line,
                )
                for line in range(last + 1, last + number + 1)
            ]  # fmt: skip
            jobs.insert_jobs(tx, new)
            queue.enqueue(tx, [queue.Entry(job.id, INFER, job.tenant_id, job.model, job.job_class) for job in new])
        return [job.id for job in new]

    def look(self) -> Any:
        """The run as its owner sees it."""
        return runs.get_run(self.ctx, self.caller, self.id)


def make_page_run(ctx: Context, caller: Caller, folder: Path, *, blob: str = "0" * 64, **pipeline: Any) -> PageRun:
    """Declare a run with this pipeline, whose listing is over."""
    whole = {"prompt": "read it", **pipeline}
    body = {"source": {"uri": f"file://{folder}"}, "pipeline": whole}
    ctx = replace(ctx, settings=ctx.settings.model_copy(update={"source_folders": str(folder)}))
    spec, run = runs.check_spec(ctx, caller, body), store.NewRun(new_id(), caller.tenant_id, body)
    document_id = new_id()
    with ctx.db.transaction() as tx:
        store.insert_run(tx, run)
        runs.begin(tx, store.load_runs(tx, [run.id])[run.id], spec)
        tx.execute(text("DELETE FROM queue WHERE id = :id"), {"id": run.id})
        values = {"id": document_id, "tenant_id": caller.tenant_id, "model": whole["model"], "run_id": run.id}
        tx.execute(_DOCUMENT, values | {"blob": blob})
    return PageRun(ctx, caller, run.id, document_id, whole)
