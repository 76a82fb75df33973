"""Reads that only the admin pages need: light rows of a list, counts up to a cap, the neighbours of a page.

Lists carry the first characters of texts and never whole prompts or answers; counts stop at a cap, so that
no page grows slower with what was done before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, String, and_, case, cast, func, literal_column, or_, select

from batchinfer.domain.job_search import JobSearch
from batchinfer.domain.jobs import LIVE, JobState
from batchinfer.store.job_search import find_ids, go_by_index, live_rule, state_of
from batchinfer.store.tables import documents, jobs, queue, results

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

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


def _rows() -> Select[Any]:
    """The columns of a list's line, not yet bound to a tenant."""
    first_text = func.jsonb_path_query_first(
        jobs.c.prompt, literal_column("""'$.messages[*].content[*].text ? (@ != "")'""")
    ).op("#>>")(literal_column("'{}'"))
    running = and_(queue.c.kind == "infer", queue.c.state == "running")
    tries = case((queue.c.kind == "infer", queue.c.attempt - queue.c.crashes - queue.c.released))
    return select(
        jobs.c.id, state_of().label("state"), jobs.c.model, jobs.c.created_at, jobs.c.finished_at,
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


@dataclass(frozen=True)
class Listed:
    """A page of a list, newest first. `stopped`: looking ended there, with fewer found than there was room for."""

    rows: list[JobRow]
    has_more: bool
    stopped: UUID | None = None


def search_rows(
    tx: Transaction,
    tenant_id: UUID,
    wanted: JobSearch,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int = 50,
) -> Listed:
    """Jobs newest first, and whether the list goes on in the direction asked for.

    `after` goes on below that id (older ones), `before` ends just above it (newer ones).
    """
    upwards = before is not None and after is None
    found = find_ids(tx, tenant_id, wanted, below=after, above=None if after else before, upwards=upwards, limit=limit)
    query = _rows().where(jobs.c.tenant_id == tenant_id, jobs.c.id.in_(found.ids)).order_by(jobs.c.id.desc())
    rows = [_job_row(row) for row in tx.execute(query).mappings()] if found.ids else []
    return Listed(rows, found.has_more, found.stopped)


def list_rows(
    tx: Transaction,
    tenant_id: UUID,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int = 50,
    **conditions: Any,
) -> tuple[list[JobRow], bool]:
    """The same by the fields of JobSearch: rows, and whether there are more."""
    listed = search_rows(tx, tenant_id, JobSearch(**conditions), before=before, after=after, limit=limit)
    return listed.rows, listed.has_more


def _job_row(row: Any) -> JobRow:
    return JobRow(**{**row, "state": JobState(row["state"]), "has_picture": bool(row["has_picture"])})


def count_states(tx: Transaction, tenant_id: UUID, wanted: JobSearch) -> dict[JobState, int]:
    """How many jobs are in each state, each counted up to `COUNT_CAP` + 1; the state that is wanted is left aside.

    Only what an index counts is counted: all jobs; of a model those that have not ended; a document or batch with fewer
    than the cap. Otherwise nothing is said of a state.
    """
    plain = replace(wanted, state=None)
    if plain in (JobSearch(document_id=plain.document_id), JobSearch(batch_id=plain.batch_id)) and plain.is_narrow:
        return _count_group(tx, tenant_id, plain)
    if plain != JobSearch(model=plain.model):
        return {}
    counted = []
    for state in JobState:
        live = state in LIVE
        if not live and plain.model is not None:
            continue
        table = queue if live else jobs
        rule = live_rule(state) if live else and_(jobs.c.final_state == state.value, jobs.c.deleted_at.is_(None))
        query: Select[Any] = select(literal_column("1")).where(table.c.tenant_id == tenant_id, rule)
        if plain.model is not None:
            query = query.where(table.c.model == plain.model)
        capped = query.limit(COUNT_CAP + 1).subquery()
        counted.append(select(func.count()).select_from(capped).scalar_subquery().label(state.value))
    go_by_index(tx)
    row = tx.execute(select(*counted)).mappings().one()
    return {JobState(name): int(count) for name, count in row.items()}


def _count_group(tx: Transaction, tenant_id: UUID, wanted: JobSearch) -> dict[JobState, int]:
    """The jobs of a document or batch by state; nothing where there are too many."""
    owner = (
        jobs.c.document_id == wanted.document_id if wanted.document_id is not None
        else jobs.c.batch_id == wanted.batch_id
    )  # fmt: skip
    some = select(jobs.c.id, jobs.c.final_state).where(
        jobs.c.tenant_id == tenant_id, owner, jobs.c.deleted_at.is_(None)
    )
    group = some.limit(COUNT_CAP + 1).subquery("jobs")
    joined = group.outerjoin(queue, and_(queue.c.id == group.c.id, group.c.final_state.is_(None)))
    query = select(state_of(group.c), func.count()).select_from(joined).group_by(literal_column("1"))
    counts = {JobState(row[0]): int(row[1]) for row in tx.execute(query)}
    if sum(counts.values()) > COUNT_CAP:
        return {}
    return {state: counts.get(state, 0) for state in JobState}


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
