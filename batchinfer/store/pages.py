"""Reads that only the admin pages need: light rows of a list, counts up to a cap, the neighbours of a page.

Lists carry the first characters of texts and never whole prompts or answers; counts stop at a cap, so that
no page grows slower with what was done before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, String, and_, case, cast, func, literal_column, not_, or_, select

from batchinfer.domain.jobs import LIVE, TERMINAL, JobState
from batchinfer.store.tables import documents, jobs, queue, results

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement

    from batchinfer.store.session import Transaction

#: Where counting stops; the page then says "10,000+".
COUNT_CAP = 10_000
#: Characters of a prompt or an answer that a list shows.
PREVIEW_CHARS = 200


@dataclass(frozen=True)
class JobRow:
    """A job as a line of a list. `prompt` and `answer` are the first `PREVIEW_CHARS` characters."""

    id: UUID
    state: JobState
    model: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    #: Tries so far, one that runs included, without those whose worker was lost.
    attempts: int
    crashes: int
    document_id: UUID | None
    #: From 1.
    page: int | None
    filename: str | None
    prompt: str | None
    answer: str | None
    error: dict[str, Any] | None
    #: Pictures of the prompt, and whether the first was normalised and can be shown.
    images: int
    has_picture: bool


@dataclass(frozen=True)
class Leaf:
    """A page in its document: the document's name and length, and the jobs of the pages beside it."""

    document_id: UUID
    filename: str | None
    pages: int | None
    page: int
    previous_id: UUID | None
    next_id: UUID | None


def _state() -> ColumnElement[str]:
    return case(
        (jobs.c.final_state.is_not(None), jobs.c.final_state),
        (queue.c.kind == "prepare", JobState.PREPARING.value),
        (queue.c.state == "running", JobState.RUNNING.value),
        else_=JobState.QUEUED.value,
    )


def _live_rule(state: JobState) -> ColumnElement[bool]:
    if state is JobState.PREPARING:
        return queue.c.kind == "prepare"
    running = queue.c.state == "running"
    return and_(queue.c.kind == "infer", running if state is JobState.RUNNING else not_(running))


def _rows() -> Select[Any]:
    """The columns of a list's line, not yet bound to a tenant."""
    first_text = func.jsonb_path_query_first(
        jobs.c.prompt, literal_column("""'$.messages[*].content[*].text ? (@ != "")'""")
    ).op("#>>")(literal_column("'{}'"))
    running = and_(queue.c.kind == "infer", queue.c.state == "running")
    tries = case((queue.c.kind == "infer", queue.c.attempt - queue.c.crashes - queue.c.released))
    return select(
        jobs.c.id, _state().label("state"), jobs.c.model, jobs.c.created_at, jobs.c.finished_at,
        func.coalesce(case((running, queue.c.leased_at)), jobs.c.started_at).label("started_at"),
        (jobs.c.attempts + func.coalesce(tries, 0)).label("attempts"),
        (jobs.c.crashes + func.coalesce(queue.c.crashes, 0)).label("crashes"),
        jobs.c.document_id, jobs.c.page, documents.c.filename,
        func.left(cast(first_text, String), PREVIEW_CHARS).label("prompt"),
        func.left(results.c.text, PREVIEW_CHARS).label("answer"),
        jobs.c.error,
        func.coalesce(func.jsonb_array_length(jobs.c.prompt["images"]), 0).label("images"),
        (func.jsonb_typeof(jobs.c.prompt["images"][0]["normal"]) == "object").label("has_picture"),
    ).select_from(
        jobs.outerjoin(queue, and_(queue.c.id == jobs.c.id, jobs.c.final_state.is_(None)))
        .outerjoin(results, results.c.job_id == jobs.c.id)
        .outerjoin(documents, documents.c.id == jobs.c.document_id)
    )  # fmt: skip


def list_rows(
    tx: Transaction,
    tenant_id: UUID,
    *,
    state: JobState | None = None,
    model: str | None = None,
    document_id: UUID | None = None,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int = 50,
) -> tuple[list[JobRow], bool]:
    """Jobs newest first, and whether the list goes on in the direction asked for.

    `after` goes on below that id (older ones), `before` ends just above it (newer ones).
    """
    query: Select[Any] = _rows().where(jobs.c.tenant_id == tenant_id)
    if state in TERMINAL:
        query = query.where(jobs.c.final_state == state)
    elif state is not None:
        query = query.where(_live_rule(state), queue.c.tenant_id == tenant_id)
    if model is not None:
        query = query.where(jobs.c.model == model)
    if document_id is not None:
        query = query.where(jobs.c.document_id == document_id)
    if after is not None:
        query = query.where(jobs.c.id < after)
    upwards = before is not None and after is None
    if upwards:
        query = query.where(jobs.c.id > before)
    query = query.order_by(jobs.c.id.asc() if upwards else jobs.c.id.desc()).limit(limit + 1)
    found = [_job_row(row) for row in tx.execute(query).mappings()]
    rows, has_more = found[:limit], len(found) > limit
    return (rows[::-1] if upwards else rows), has_more


def _job_row(row: Any) -> JobRow:
    return JobRow(**{**row, "state": JobState(row["state"]), "has_picture": bool(row["has_picture"])})


def count_states(
    tx: Transaction, tenant_id: UUID, *, model: str | None = None, document_id: UUID | None = None
) -> dict[JobState, int]:
    """How many jobs are in each state, each counted up to `COUNT_CAP` + 1. One statement.

    With a model, ended states are left out: no index orders them by model.
    """
    counted = []
    for state in JobState:
        live = state in LIVE
        if not live and model is not None:
            continue
        table = queue if live and document_id is None else jobs
        rule = _live_rule(state) if live else jobs.c.final_state == state.value
        query: Select[Any] = select(literal_column("1")).where(table.c.tenant_id == tenant_id, rule)
        if live and document_id is not None:
            query = query.select_from(jobs.join(queue, queue.c.id == jobs.c.id))
        if model is not None:
            query = query.where(table.c.model == model)
        if document_id is not None:
            query = query.where(jobs.c.document_id == document_id)
        capped = query.limit(COUNT_CAP + 1).subquery()
        counted.append(select(func.count()).select_from(capped).scalar_subquery().label(state.value))
    row = tx.execute(select(*counted)).mappings().one()
    return {JobState(name): int(count) for name, count in row.items()}


def find_leaf(tx: Transaction, tenant_id: UUID, document_id: UUID, page: int) -> Leaf | None:
    """The place of a page in its document; None where the document is gone."""
    found = tx.execute(
        select(documents.c.filename, documents.c.pages).where(
            documents.c.tenant_id == tenant_id, documents.c.id == document_id
        )
    ).one_or_none()
    if found is None:
        return None
    beside = tx.execute(
        select(jobs.c.page, jobs.c.id).where(
            jobs.c.tenant_id == tenant_id,
            jobs.c.document_id == document_id,
            or_(jobs.c.page == page - 1, jobs.c.page == page + 1),
        )
    )
    ids = {row.page: row.id for row in beside}
    return Leaf(document_id, found.filename, found.pages, page, ids.get(page - 1), ids.get(page + 1))
