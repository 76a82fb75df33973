"""Documents: the file, how far its pages are made, and how those stand."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.documents import CANCELLED_CODE, Document, derive_state
from batchinfer.domain.jobs import TERMINAL, JobClass, JobState
from batchinfer.observe.traces import encode_current
from batchinfer.store.clean import as_jsonb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.store.claims import Claim
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class NewDocument:
    """A document to be stored. `blob` is the SHA-256 of the file; `prompt` is that of each page, without pictures."""

    id: UUID
    tenant_id: UUID
    model: str
    job_class: JobClass
    filename: str | None
    media_type: str
    blob: str
    prompt: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    #: Whose usage its pages are.
    key_id: UUID | None = None
    #: That its pages belong to.
    trace: str | None = field(default_factory=encode_current)


@dataclass(frozen=True)
class RunPart:
    """What a document's run says of it."""

    id: UUID
    #: As it was declared, with what was resolved at its begin.
    spec: dict[str, Any]
    recipe: str
    name: str | None
    #: Its instant, or when it was declared.
    at: datetime
    schedule_id: UUID | None
    #: The batch's state, and until when its pages may run.
    status: str
    paused: bool
    expires_at: datetime


@dataclass(frozen=True)
class Rendering:
    """What a CPU worker needs to go on with a document: the file, and after which page."""

    id: UUID
    tenant_id: UUID
    model: str
    job_class: JobClass
    filename: str | None
    media_type: str
    #: None: the file of a run was not read yet.
    blob: str | None
    prompt: dict[str, Any]
    metadata: dict[str, str]
    #: The last page whose job exists, and the number of the file's pages.
    rendered: int
    pages: int | None
    error: dict[str, Any] | None
    expires_at: datetime | None
    key_id: UUID | None = None
    trace: str | None = None
    #: Of a run: as it was listed, how far it is, and where its lines begin.
    run: RunPart | None = None
    stage: str | None = None
    uri: str | None = None
    size_bytes: int | None = None
    stamp: str | None = None
    first_line: int | None = None
    jobs: int = 0


_INSERT = text("""
    INSERT INTO documents (id, tenant_id, model, class, filename, media_type, blob, prompt, metadata, expires_at,
        key_id, trace)
    VALUES (:id, :tenant_id, :model, :job_class, :filename, :media_type, :blob, :prompt, :metadata, :expires_at,
        :key_id, :trace)
""")


def insert_document(tx: Transaction, document: NewDocument) -> None:
    """Store a document; its queue row of kind render goes in with the same transaction."""
    values = {name: getattr(document, name) for name in ("id", "tenant_id", "model", "filename", "media_type", "blob")}
    prompt, metadata = as_jsonb(document.prompt), as_jsonb(document.metadata)
    more: dict[str, Any] = {"job_class": document.job_class.value, "prompt": prompt, "metadata": metadata}
    more |= {"expires_at": document.expires_at, "key_id": document.key_id, "trace": document.trace}
    tx.execute(_INSERT, {**values, **more})


_COLUMNS = """
    d.id, d.tenant_id, d.model, d.filename, d.media_type, d.created_at, d.pages, d.error,
    CASE d.stage WHEN 'skipped' THEN coalesce(d.rendered_at, d.created_at) ELSE d.rendered_at END AS rendered_at,
    d.started_at IS NOT NULL OR coalesce(q.state = 'running', false) AS started
"""
_SOURCE = "documents d LEFT JOIN queue q ON q.id = d.id"
_FIND = text(f"SELECT {_COLUMNS} FROM {_SOURCE} WHERE d.id = :id AND d.tenant_id = :tenant_id")  # noqa: S608
_LIST = f"""
    SELECT {_COLUMNS} FROM {_SOURCE} WHERE d.tenant_id = :tenant_id {{bounds}} ORDER BY d.id {{order}} LIMIT :limit
"""  # noqa: S608
_COUNTS = text("""
    SELECT j.document_id, max(j.finished_at) AS finished_at, count(*) AS number,
           CASE WHEN j.final_state IS NOT NULL THEN j.final_state WHEN q.kind = 'prepare' THEN 'preparing'
                WHEN q.state = 'running' THEN 'running' ELSE 'queued' END AS state
    FROM jobs j LEFT JOIN queue q ON q.id = j.id AND j.final_state IS NULL
    WHERE j.document_id = ANY (CAST(:ids AS uuid[])) GROUP BY j.document_id, 4
""")


def find_document(tx: Transaction, tenant_id: UUID, document_id: UUID) -> Document | None:
    """A tenant's document, or None."""
    row = tx.execute(_FIND, {"id": document_id, "tenant_id": tenant_id}).first()
    return _put_together(tx, [row])[0] if row else None


def list_documents(
    tx: Transaction,
    tenant_id: UUID,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> list[Document]:
    """A tenant's documents, newest first. `after` begins below that id; `before` ends just above it."""
    bounds = ("AND d.id < :after " if after else "") + ("AND d.id > :before" if before else "")
    statement = text(_LIST.format(bounds=bounds, order="ASC" if before else "DESC"))
    cursors = {name: value for name, value in (("before", before), ("after", after)) if value}
    rows = list(tx.execute(statement, {"tenant_id": tenant_id, "limit": limit, **cursors}))
    return _put_together(tx, rows[::-1] if before else rows)


def _put_together(tx: Transaction, rows: Sequence[Row[Any]]) -> list[Document]:
    """Documents with the counts of their pages, which are counted in one statement."""
    counts: dict[UUID, dict[JobState, int]] = defaultdict(dict)
    ended: dict[UUID, list[datetime]] = defaultdict(list)
    for row in tx.execute(_COUNTS, {"ids": [row.id for row in rows]}):
        counts[row.document_id][JobState(row.state)] = row.number
        if row.finished_at is not None:
            ended[row.document_id].append(row.finished_at)
    return [_as_document(row, counts[row.id], ended[row.id]) for row in rows]


def _as_document(row: Row[Any], counts: dict[JobState, int], ended: list[datetime]) -> Document:
    finished = row.rendered_at is not None and all(state in TERMINAL for state in counts)
    cancelled = row.error is not None and row.error.get("code") == CANCELLED_CODE
    return Document(
        id=row.id, tenant_id=row.tenant_id, model=row.model, filename=row.filename, media_type=row.media_type,
        state=derive_state(
            rendered=row.rendered_at is not None, started=row.started, error=row.error, counts=counts
        ),
        created_at=row.created_at, finished_at=max([row.rendered_at, *ended]) if finished else None,
        pages=row.pages, counts=counts, error=None if cancelled else row.error,
    )  # fmt: skip


_PAGE_IDS = text("""
    SELECT id FROM jobs WHERE document_id = :id AND tenant_id = :tenant_id AND deleted_at IS NULL ORDER BY page
""")
_LIVE_PAGES = text("""
    SELECT id FROM jobs WHERE document_id = :id AND tenant_id = :tenant_id AND final_state IS NULL ORDER BY id
""")


def list_page_ids(tx: Transaction, tenant_id: UUID, document_id: UUID) -> list[UUID]:
    """The ids of a document's page jobs, in page order."""
    return list(tx.execute(_PAGE_IDS, {"id": document_id, "tenant_id": tenant_id}).scalars())


def list_live_pages(tx: Transaction, tenant_id: UUID, document_id: UUID) -> list[UUID]:
    """The ids of its page jobs that have not ended."""
    return list(tx.execute(_LIVE_PAGES, {"id": document_id, "tenant_id": tenant_id}).scalars())


_OWN = (
    "id", "tenant_id", "model", "filename", "media_type", "blob", "prompt", "metadata", "rendered", "pages", "error",
    "stage", "uri", "size_bytes", "stamp", "first_line", "jobs",
)  # fmt: skip
_OF_RUN = ("id", "spec", "recipe", "name", "at", "schedule_id", "status", "paused", "expires_at")
_RENDERINGS = f"""
    SELECT {", ".join(f"d.{name}" for name in _OWN)}, coalesce(b.class, d.class) AS job_class,
           coalesce(d.expires_at, b.expires_at) AS expires_at, coalesce(d.key_id, r.key_id) AS key_id,
           coalesce(d.trace, b.trace) AS trace,
           r.id AS run_id, r.spec AS run_spec, r.recipe AS run_recipe, r.name AS run_name,
           coalesce(r.instant, r.created_at) AS run_at, r.schedule_id AS run_schedule_id, b.status AS run_status,
           b.paused_at IS NOT NULL AS run_paused, b.expires_at AS run_expires_at
    FROM documents d LEFT JOIN (runs r JOIN batches b ON b.id = r.id) ON r.id = d.run_id
"""  # noqa: S608 - made of constants
_LOAD = text(f"{_RENDERINGS} WHERE d.id = ANY (CAST(:ids AS uuid[]))")
_HOLD = text(f"""
    {_RENDERINGS} JOIN queue q ON q.id = d.id
    WHERE q.id = :id AND q.kind = :kind AND q.state = 'running' AND q.attempt = :attempt
      AND q.lease_id IS NOT DISTINCT FROM CAST(:lease_id AS uuid)
    FOR UPDATE OF q, d
""")
_ADVANCE = text("""
    UPDATE documents SET rendered = :rendered, pages = :pages, started_at = coalesce(started_at, now()),
        jobs = jobs + :jobs, first_line = coalesce(first_line, :first_line) WHERE id = :id
""")
_SET_ORIGINAL = text("UPDATE documents SET blob = :blob, media_type = :media_type WHERE id = :id")
_MARK = text("UPDATE documents SET error = coalesce(error, :error) WHERE id = :id AND tenant_id = :tenant_id")


def load_renderings(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, Rendering]:
    """What is needed to render documents; those that are gone are missing from the answer."""
    return {row.id: _as_rendering(row) for row in tx.execute(_LOAD, {"ids": list(ids)})}


def hold_rendering(tx: Transaction, *, lease_id: UUID, claim: Claim) -> Rendering | None:
    """Lock a document that this lease renders or closes, until the transaction ends. None when the fence refused."""
    values = {"id": claim.id, "kind": claim.kind, "attempt": claim.attempt, "lease_id": lease_id}
    row = tx.execute(_HOLD, values).first()
    return _as_rendering(row) if row else None


def advance_rendering(
    tx: Transaction, document_id: UUID, *, rendered: int, pages: int, jobs: int = 0, first_line: int | None = None
) -> None:
    """Note that the jobs of the pages up to `rendered` of `pages` exist, `jobs` of them new; of a run, which line of
    its batch comes before its own. The caller holds the document."""
    values = {"id": document_id, "rendered": rendered, "pages": pages, "jobs": jobs, "first_line": first_line}
    tx.execute(_ADVANCE, values)


def set_original(tx: Transaction, document_id: UUID, *, blob: str, media_type: str) -> None:
    """Note the file of a document of a run, now that it was read. The caller holds the document."""
    tx.execute(_SET_ORIGINAL, {"id": document_id, "blob": blob, "media_type": media_type})


def mark_document(tx: Transaction, tenant_id: UUID, document_id: UUID, error: dict[str, Any]) -> None:
    """Give a document an error where it has none."""
    tx.execute(_MARK, {"id": document_id, "tenant_id": tenant_id, "error": as_jsonb(error)})


def _as_rendering(row: Row[Any]) -> Rendering:
    run = RunPart(**{name: getattr(row, f"run_{name}") for name in _OF_RUN}) if row.run_id is not None else None
    own = {name: getattr(row, name) for name in (*_OWN, "expires_at", "key_id", "trace")}
    return Rendering(**own, job_class=JobClass(row.job_class), run=run)
