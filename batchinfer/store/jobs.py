"""Jobs as readers see them: the job's row, its queue row while it lives, its result once it has one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import TextClause, text

from batchinfer.domain.jobs import TERMINAL, Attempt, Job, JobClass, JobState
from batchinfer.observe.traces import encode_current, read_trace_id
from batchinfer.store.changes import name_waiting, tell_jobs
from batchinfer.store.clean import as_jsonb, clean_text
from batchinfer.store.endings import TRIES
from batchinfer.store.files import refer_to_blobs
from batchinfer.store.partitions import first_id
from batchinfer.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.domain.jobs import JobFilter
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class NewJob:
    """A job to be stored; its queue row goes in with the same transaction."""

    id: UUID
    tenant_id: UUID
    model: str
    job_class: JobClass
    prompt: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    document_id: UUID | None = None
    page: int | None = None
    batch_id: UUID | None = None
    #: In the batch's file, from 1, and its name there.
    line: int | None = None
    custom_id: str | None = None
    #: Under which its answer will be kept.
    reuse_key: str | None = None
    #: Whose usage it is.
    key_id: UUID | None = None
    schedule_id: UUID | None = None
    #: The job that it repeats.
    origin_id: UUID | None = None
    #: That of the request, or of the piece of work, that makes it.
    trace: str | None = field(default_factory=encode_current)


_INSERT = text("""
    INSERT INTO jobs (id, tenant_id, model, class, prompt, metadata, expires_at, document_id, page, batch_id, line,
        custom_id, reuse_key, key_id, schedule_id, origin_id, trace, schema_version)
    SELECT *, :version FROM unnest(CAST(:ids AS uuid[]), CAST(:tenants AS uuid[]), CAST(:models AS text[]),
        CAST(:classes AS text[]), CAST(:prompts AS jsonb[]), CAST(:metadata AS jsonb[]),
        CAST(:expiries AS timestamptz[]), CAST(:documents AS uuid[]), CAST(:pages AS int[]),
        CAST(:batches AS uuid[]), CAST(:lines AS int[]), CAST(:custom_ids AS text[]), CAST(:reuse_keys AS text[]),
        CAST(:keys AS uuid[]), CAST(:schedules AS uuid[]), CAST(:origins AS uuid[]),
        CAST(:traces AS text[]))
""")


def insert_jobs(tx: Transaction, jobs: Sequence[NewJob]) -> None:
    """Store jobs, any number in one statement."""
    if not jobs:
        return
    tx.execute(
        _INSERT,
        {
            "ids": [job.id for job in jobs],
            "tenants": [job.tenant_id for job in jobs],
            "models": [job.model for job in jobs],
            "classes": [job.job_class.value for job in jobs],
            "prompts": [as_jsonb(job.prompt) for job in jobs],
            "metadata": [as_jsonb(job.metadata) for job in jobs],
            "expiries": [job.expires_at for job in jobs],
            "documents": [job.document_id for job in jobs],
            "pages": [job.page for job in jobs],
            "batches": [job.batch_id for job in jobs],
            "lines": [job.line for job in jobs],
            "custom_ids": [job.custom_id for job in jobs],
            "reuse_keys": [job.reuse_key for job in jobs],
            "keys": [job.key_id for job in jobs],
            "schedules": [job.schedule_id for job in jobs],
            "origins": [job.origin_id for job in jobs],
            "traces": [job.trace for job in jobs],
            "version": SCHEMA_VERSION,
        },
    )
    for tenant_id in sorted({job.tenant_id for job in jobs}):
        images = [(job.id, i) for job in jobs if job.tenant_id == tenant_id for i in job.prompt.get("images", ())]
        refer_to_blobs(tx, tenant_id, images)


STATE = """CASE WHEN j.final_state IS NOT NULL THEN j.final_state
                 WHEN q.kind = 'prepare' THEN 'preparing'
                 WHEN q.state = 'running' THEN 'running' ELSE 'queued' END"""
_COLUMNS = f"""
    j.id, j.tenant_id, {STATE} AS state, j.model, j.class AS job_class, j.prompt, j.created_at,
    CASE WHEN q.id IS NULL THEN j.started_at WHEN q.kind = 'infer' THEN q.leased_at END AS started_at,
    j.finished_at, j.attempts + coalesce({TRIES}, 0) AS attempts, j.crashes + coalesce(q.crashes, 0) AS crashes,
    j.expires_at, j.document_id, j.page, j.error, j.metadata, j.origin_id, j.retry_id, j.trace,
    r.job_id IS NOT NULL AS has_result, r.text, r.finish_reason, r.model AS made_by, r.revision, r.engine, r.versions,
    r.logprobs, r.usage, r.timings, r.reused_from"""
_SOURCE = """jobs j LEFT JOIN queue q ON q.id = j.id LEFT JOIN results r ON r.job_id = j.id"""
_FIND = text(f"""
    SELECT {_COLUMNS} FROM {_SOURCE} WHERE j.id = :id AND j.tenant_id = :tenant_id AND j.deleted_at IS NULL
""")  # noqa: S608 - made of constants


def find_job(tx: Transaction, tenant_id: UUID, job_id: UUID) -> Job | None:
    """A tenant's job, or None."""
    row = tx.execute(_FIND, {"id": job_id, "tenant_id": tenant_id}).first()
    return _as_job(row) if row else None


#: Ids carry the clock of the host that made them: it may be off from the database's by less than this.
_SKEW = timedelta(days=1)
_CONDITIONS = {
    "model": "j.model = :model",
    "job_class": "j.class = :job_class",
    "document_id": "j.document_id = :document_id",
    "batch_id": "j.batch_id = :batch_id",
    # The bounds of ids leave out whole days, so that their tables are not read.
    "created_from": "j.created_at >= :created_from AND j.id >= :lowest",
    "created_before": "j.created_at < :created_before AND j.id < :highest",
    "metadata": "j.metadata @> CAST(:metadata AS jsonb)",
}


def list_jobs(
    tx: Transaction,
    tenant_id: UUID,
    wanted: JobFilter,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> list[Job]:
    """A tenant's jobs, newest first. `after` begins below that id; `before` ends just above it."""
    used = {name: value for name, value in vars(wanted).items() if value is not None}
    conditions = ["j.tenant_id = :tenant_id", "j.deleted_at IS NULL"]
    conditions.extend(_CONDITIONS[name] for name in used if name != "state")
    if wanted.state is not None:
        conditions.append(state_condition(wanted.state))
    if wanted.model is not None:
        used["model"] = clean_text(wanted.model)
    if wanted.created_from is not None:
        used["lowest"] = first_id((wanted.created_from - _SKEW).date())
    if wanted.created_before is not None:
        used["highest"] = first_id((wanted.created_before + 2 * _SKEW).date())
    if wanted.metadata is not None:
        used["metadata"] = as_jsonb(wanted.metadata)
    for name, cursor, sign in (("after", after, "<"), ("before", before, ">")):
        if cursor is not None:
            conditions.append(f"j.id {sign} :{name}")
            used[name] = cursor
    statement = _list_statement(" AND ".join(conditions), "ASC" if before is not None else "DESC")
    rows = tx.execute(statement, {"tenant_id": tenant_id, "limit": limit, **used}).all()
    return [_as_job(row) for row in (reversed(rows) if before is not None else rows)]


def state_condition(state: JobState) -> str:
    """Live states are the queue's to say: it is small, so that it is read first."""
    if state in TERMINAL:
        return "j.final_state = :state"
    kind = "q.kind = 'prepare'" if state is JobState.PREPARING else "q.kind = 'infer' AND q.state = :state"
    return f"j.final_state IS NULL AND {kind} AND CAST(:state AS text) IS NOT NULL"


def _list_statement(conditions: str, order: str) -> TextClause:
    """The ids of a page first, then its rows put together: no join over more than the page."""
    return text(
        f"""
        WITH page AS MATERIALIZED (
            SELECT j.id FROM jobs j {"JOIN queue q ON q.id = j.id" if "q." in conditions else ""}
            WHERE {conditions} ORDER BY j.id {order} LIMIT :limit)
        SELECT {_COLUMNS} FROM page JOIN ({_SOURCE}) ON j.id = page.id ORDER BY j.id {order}
        """  # noqa: S608 - made of constants
    )


# Of a line that is a job of several batches, the job of the one that is named first.
_LINES = text(f"""
    WITH page AS MATERIALIZED (
        SELECT DISTINCT ON (l.line) l.* FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS b (id, place),
            LATERAL (SELECT id, line, custom_id, batch_id, b.place FROM jobs
                     WHERE batch_id = b.id AND line > :after AND deleted_at IS NULL ORDER BY line LIMIT :limit) AS l
        ORDER BY l.line, l.place LIMIT :limit)
    SELECT {_COLUMNS}, page.line, page.custom_id, page.place FROM page JOIN ({_SOURCE}) ON j.id = page.id
    ORDER BY page.line
""")  # noqa: S608 - made of constants


_LAST_LINE = text("SELECT coalesce(max(line), 0) FROM jobs WHERE batch_id = :batch_id")


def find_last_line(tx: Transaction, batch_id: UUID) -> int:
    """The number of the last line of a batch's file that is a job; 0 where none is."""
    last: int = tx.execute(_LAST_LINE, {"batch_id": batch_id}).scalar_one()
    return last


@dataclass(frozen=True)
class LineJob:
    """A line of a batch's file with its job. `own` is False where the job is that of a batch it was retried from."""

    line: int
    custom_id: str
    job: Job
    own: bool


def list_lines(tx: Transaction, batch_ids: Sequence[UUID], *, after: int, limit: int) -> list[LineJob]:
    """The lines of a batch behind line `after`, in the order of the file; and of the batches that are named behind it
    those lines that no batch named before has."""
    rows = tx.execute(_LINES, {"ids": list(batch_ids), "after": after, "limit": limit})
    return [LineJob(row.line, row.custom_id, _as_job(row), row.place == 1) for row in rows]


_ATTEMPTS = text("""
    SELECT number, outcome, kind, worker, started_at, finished_at, error, timings FROM attempts
    WHERE job_id = :id ORDER BY number
""")


def list_attempts(tx: Transaction, job_id: UUID) -> list[Attempt]:
    """The ended tries of a job (or of a document's rendering), oldest first."""
    return [Attempt(**row._mapping) for row in tx.execute(_ATTEMPTS, {"id": job_id})]


_HELD = text("SELECT kind, leased_at FROM queue WHERE id = :id AND state = 'running'")


def find_held(tx: Transaction, job_id: UUID) -> tuple[str, datetime] | None:
    """What a worker is at with a job (infer or prepare), and since when; None where none is."""
    row = tx.execute(_HELD, {"id": job_id}).first()
    return (row.kind, row.leased_at) if row else None


class Asked(NamedTuple):
    """What a job asks, and the trace that it belongs to."""

    prompt: dict[str, Any]
    trace: str | None


_PROMPTS = text("SELECT id, prompt, trace FROM jobs WHERE id = ANY (CAST(:ids AS uuid[])) AND final_state IS NULL")


def load_prompts(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, Asked]:
    """The prompts of jobs that have not ended; others are missing from the answer."""
    return {row.id: Asked(row.prompt, row.trace) for row in tx.execute(_PROMPTS, {"ids": list(ids)})}


_RELEASE = text("""
    WITH freed AS (
        UPDATE jobs SET final_state = NULL, finished_at = NULL, expires_at = NULL, error = NULL
        WHERE id = :id AND tenant_id = :tenant_id AND final_state = 'quarantined' AND batch_id IS NULL
          AND deleted_at IS NULL
        RETURNING id, tenant_id, model, class, prompt, schema_version
    )
    INSERT INTO queue
        (id, kind, subject_id, tenant_id, model, class, rank, attempt, released, suspected, schema_version)
    SELECT f.id, CASE WHEN jsonb_path_exists(f.prompt, '$.images[*] ? (@.normal == null)') THEN 'prepare'
                      ELSE 'infer' END,
           f.id, f.tenant_id, f.model, f.class, array_position(CAST(:classes AS text[]), f.class) - 1, a.last, a.last,
           :suspected, greatest(f.schema_version, :version)
    FROM freed f, LATERAL (SELECT coalesce(max(number), 0) AS last FROM attempts WHERE job_id = f.id) AS a
    RETURNING id, kind
""")


def release_quarantined(tx: Transaction, tenant_id: UUID, job_id: UUID, *, suspected: int) -> bool:
    """Queue a quarantined job again, its numbering of tries going on. False if it is not quarantined, or a line of a
    batch: that has counted it.

    A deadline that it had is dropped: whoever releases it wants it run. It runs alone: should it kill another worker,
    that alone is proof enough.
    """
    classes = [job_class.value for job_class in JobClass]
    values = {"id": job_id, "tenant_id": tenant_id, "classes": classes, "version": SCHEMA_VERSION}
    values["suspected"] = suspected
    row = tx.execute(_RELEASE, values).first()
    if row is not None:
        tell_jobs(tx, [(tenant_id, name_waiting(row.kind) or "", job_id)])
    return row is not None


def _as_job(row: Row[Any]) -> Job:
    result = None
    if row.has_result:
        result = {
            "text": row.text, "finish_reason": row.finish_reason, "model": row.made_by, "revision": row.revision,
            "engine": row.engine, "versions": row.versions,
        }  # fmt: skip
        if row.logprobs is not None:
            result["logprobs"] = row.logprobs
    return Job(
        id=row.id, tenant_id=row.tenant_id, state=JobState(row.state), model=row.model,
        job_class=JobClass(row.job_class), prompt=row.prompt, created_at=row.created_at, started_at=row.started_at,
        finished_at=row.finished_at, attempts=row.attempts, crashes=row.crashes, expires_at=row.expires_at,
        document_id=row.document_id, page=row.page, result=result, usage=row.usage, error=row.error,
        metadata=row.metadata, timings=row.timings, cached=row.reused_from is not None,
        origin_id=row.origin_id, retry_id=row.retry_id, trace_id=read_trace_id(row.trace),
    )  # fmt: skip
