"""Looking for jobs by anything that a person may ask for, newest or oldest first, without ever looking at too many.

Each look goes along one index (a document's, a batch's, a state's, a model's, or the tenant's) over at most so many
rows; the other conditions are held against those. Where that was not enough, the answer says where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    Select,
    String,
    and_,
    case,
    cast,
    func,
    literal_column,
    not_,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError

from batchinfer.domain.job_search import JobSearch
from batchinfer.domain.jobs import LIVE, TERMINAL, JobState
from batchinfer.errors import BadRequest
from batchinfer.store.clean import clean_text
from batchinfer.store.partitions import first_id_at
from batchinfer.store.tables import jobs, queue, results

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement

    from batchinfer.store.session import Transaction

#: Rows that one look goes over; of those whose texts have to be read, fewer.
LOOKS, LOOKS_AT_TEXTS = 5_000, 2_000
#: Seconds that counting may take before a person has to narrow what is counted.
COUNT_S = 8
#: An id has the clock of the host that made it, `created_at` the database's: they are closer than this.
_SKEW = timedelta(minutes=5)
#: A statement was stopped as it took too long.
_TOO_LONG = "57014"
_LIVE_KINDS = ("infer", "prepare")


_BY_INDEX = text("""
    SELECT set_config('max_parallel_workers_per_gather', '0', true), set_config('enable_hashjoin', 'off', true),
           set_config('enable_mergejoin', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true)
""")


@dataclass(frozen=True)
class Found:
    """Ids in the direction of looking, and whether there are more. `stopped`: looking ended there before the end."""

    ids: list[UUID]
    has_more: bool
    stopped: UUID | None = None


def go_by_index(tx: Transaction) -> None:
    """For the rest of a transaction: rows are looked up by an index, one by one. For lists, which are short, no other
    plan is right, whatever is known of the tables. Each statement is planned for its values: a rare state is not found
    like one that most jobs have."""
    tx.execute(_BY_INDEX)


def find_ids(
    tx: Transaction,
    tenant_id: UUID,
    wanted: JobSearch,
    *,
    states: Collection[JobState] | None = None,
    below: UUID | None = None,
    above: UUID | None = None,
    through: UUID | None = None,
    upwards: bool = False,
    limit: int,
    looks: int | None = None,
) -> Found:
    """Up to `limit` jobs that are not deleted, newest first, or oldest first with `upwards`; between `above` and
    `below`, without those two, and none newer than `through`. `states` allows several where `wanted` names none."""
    most = looks or (LOOKS if wanted.words is None else LOOKS_AT_TEXTS)
    among = _find_states(wanted, states)
    driven = _drive(tenant_id, wanted, among)
    column = driven.selected_columns.id
    bounds = _bounds(driven, wanted, below, above)
    if through is not None:
        bounds.append(column <= through)
    order = column.asc() if upwards else column.desc()
    looked = driven.where(*bounds).order_by(order).limit(most).subquery("looked")
    query = select(looked.c.id).order_by(looked.c.id.asc() if upwards else looked.c.id.desc()).limit(limit + 1)
    if among is None or not among <= LIVE:
        query = query.where(*_conditions(looked.c, wanted, among))
    elif not _is_of_queue(wanted):
        # Row by row: nothing else says how few of the jobs are live.
        job = select(jobs).where(jobs.c.id == looked.c.id).limit(1).lateral("job")
        query = query.join_from(looked, job, true()).where(*_conditions(job.c, wanted, among))
    go_by_index(tx)
    found = list(tx.execute(query).scalars())
    if len(found) > limit:
        return Found(found[:limit], True)
    last = select(looked.c.id).order_by(looked.c.id.asc() if upwards else looked.c.id.desc()).offset(most - 1).limit(1)
    stopped = tx.execute(last).scalar_one_or_none()
    return Found(found, stopped is not None, stopped)


def _is_of_queue(wanted: JobSearch) -> bool:
    """Whether all that is asked of live jobs is in their queue rows; none of those was deleted."""
    return wanted == JobSearch(state=wanted.state, model=wanted.model, job_class=wanted.job_class)


def _find_states(wanted: JobSearch, states: Collection[JobState] | None) -> frozenset[JobState] | None:
    """The states that are looked for; None: all."""
    if wanted.state is not None:
        return frozenset({wanted.state})
    return frozenset(states) if states is not None else None


def live_rule(state: JobState) -> ColumnElement[bool]:
    """A live state as the queue has it."""
    if state is JobState.PREPARING:
        return queue.c.kind == "prepare"
    running = queue.c.state == "running"
    return and_(queue.c.kind == "infer", running if state is JobState.RUNNING else not_(running))


def state_of(columns: Any = jobs.c) -> ColumnElement[str]:
    """The state of a job that is joined with its queue row; `columns` are those of the job."""
    return case(
        (columns.final_state.is_not(None), columns.final_state),
        (queue.c.kind == "prepare", JobState.PREPARING.value),
        (queue.c.state == "running", JobState.RUNNING.value),
        else_=JobState.QUEUED.value,
    )


def _drive(tenant_id: UUID, wanted: JobSearch, among: frozenset[JobState] | None) -> Select[Any]:
    """The rows along one index, with what the other conditions need."""
    if among is not None and among <= LIVE:
        rules = [live_rule(state) for state in among] if among < LIVE else [queue.c.kind.in_(_LIVE_KINDS)]
        rows = select(queue.c.id).where(queue.c.tenant_id == tenant_id, or_(*rules))
        if wanted.model is not None:
            rows = rows.where(queue.c.model == clean_text(wanted.model))
        return rows if wanted.job_class is None else rows.where(queue.c["class"] == wanted.job_class.value)
    columns = (
        "id", "tenant_id", "final_state", "model", "class", "document_id", "batch_id", "custom_id", "metadata",
        "prompt", "created_at", "deleted_at",
    )  # fmt: skip
    rows = select(*(jobs.c[name] for name in columns)).where(jobs.c.tenant_id == tenant_id)
    if wanted.document_id is not None:
        return rows.where(jobs.c.document_id == wanted.document_id)
    if wanted.batch_id is not None:
        return rows.where(jobs.c.batch_id == wanted.batch_id)
    single = next(iter(among)) if among is not None and len(among) == 1 else None
    # Most jobs succeed: then the model says more.
    if single is not None and (wanted.model is None or single is not JobState.SUCCEEDED):
        return rows.where(jobs.c.final_state == single.value, jobs.c.deleted_at.is_(None))
    return rows if wanted.model is None else rows.where(jobs.c.model == clean_text(wanted.model))


def _bounds(
    driven: Select[Any], wanted: JobSearch, below: UUID | None, above: UUID | None
) -> list[ColumnElement[bool]]:
    """What ids may be: an id begins with its time, so that whole days are left out."""
    column = driven.selected_columns.id
    bounds = []
    if below is not None:
        bounds.append(column < below)
    if above is not None:
        bounds.append(column > above)
    if wanted.created_from is not None:
        bounds.append(column >= first_id_at(wanted.created_from - _SKEW))
    if wanted.created_before is not None:
        bounds.append(column < first_id_at(wanted.created_before + _SKEW))
    # What a document or batch has was made after it; ids of one moment may come from clocks of several hosts.
    owner = wanted.document_id or wanted.batch_id
    if owner is not None:
        bounds.append(column >= _earlier(owner))
    return bounds


def _earlier(owner: UUID) -> UUID:
    return UUID(int=max(0, (owner.int >> 80) - int(_SKEW.total_seconds() * 1000)) << 80)


def _conditions(columns: Any, wanted: JobSearch, among: frozenset[JobState] | None) -> list[ColumnElement[bool]]:
    """Everything that is asked of a job but its live state, cheapest first."""
    found: list[ColumnElement[bool]] = [columns.deleted_at.is_(None)]
    if among is not None and among <= TERMINAL:
        ended = [state.value for state in sorted(among)]
        found.append(columns.final_state.in_(ended) if among < TERMINAL else columns.final_state.is_not(None))
    elif among is not None:
        found.append(columns.final_state.is_(None))
    for name, value in (
        ("model", wanted.model), ("class", wanted.job_class), ("document_id", wanted.document_id),
        ("batch_id", wanted.batch_id), ("custom_id", wanted.custom_id),
    ):  # fmt: skip
        if value is not None:
            found.append(columns[name] == (clean_text(value) if isinstance(value, str) else value))
    if wanted.created_from is not None:
        found.append(columns.created_at >= wanted.created_from)
    if wanted.created_before is not None:
        found.append(columns.created_at < wanted.created_before)
    if wanted.metadata:
        pairs = {clean_text(name): clean_text(value) for name, value in wanted.metadata.items()}
        found.append(columns.metadata.contains(cast(pairs, JSONB)))
    return found if wanted.words is None else [*found, _has_words(columns, clean_text(wanted.words))]


def _has_words(columns: Any, words: str) -> ColumnElement[bool]:
    # In the prompt they lie in JSON, with its escapes; the answer is looked up for each job that is left.
    asked = cast(func.jsonb_path_query_array(columns.prompt, literal_column("'$.messages[*].content[*].text'")), String)
    answer = select(results.c.text).where(results.c.job_id == columns.id).scalar_subquery()
    in_json = json.dumps(words, ensure_ascii=False)[1:-1]
    return or_(asked.icontains(in_json, autoescape=True), answer.icontains(words, autoescape=True))


def count_by_state(
    tx: Transaction,
    tenant_id: UUID,
    wanted: JobSearch,
    *,
    up_to: UUID,
    states: Collection[JobState] | None = None,
    seconds: float = COUNT_S,
) -> dict[JobState, int]:
    """How many jobs match by state, up to the id `up_to`: all of them, one by one.

    Raises BadRequest (code too_many_to_count) where that takes longer than `seconds`.
    """
    among = _find_states(wanted, states)
    conditions = [jobs.c.tenant_id == tenant_id, jobs.c.id <= up_to, *_conditions(jobs.c, wanted, among)]
    conditions += _bounds(select(jobs.c.id), wanted, None, None)
    source = jobs.outerjoin(queue, and_(queue.c.id == jobs.c.id, jobs.c.final_state.is_(None)))
    query = select(state_of().label("state"), func.count()).select_from(source).where(*conditions).group_by(text("1"))
    if among is not None and among <= LIVE:
        query = _count_live(tenant_id, wanted, among, up_to, conditions)
    try:
        with tx.begin_nested():
            tx.execute(text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": f"{seconds * 1000:.0f}"})
            return {JobState(row[0]): int(row[1]) for row in tx.execute(query)}
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _TOO_LONG:
            raise
        raise BadRequest(
            f"What matches could not be counted in {seconds:.0f} seconds. Narrow it first: by a time, a batch, a model "
            "or a state, and leave out the text.",
            code="too_many_to_count",
        ) from None


def _count_live(
    tenant_id: UUID, wanted: JobSearch, among: frozenset[JobState], up_to: UUID, conditions: list[ColumnElement[bool]]
) -> Select[Any]:
    state = case(
        (queue.c.kind == "prepare", JobState.PREPARING.value),
        (queue.c.state == "running", JobState.RUNNING.value),
        else_=JobState.QUEUED.value,
    )
    rows = _drive(tenant_id, wanted, among).where(queue.c.id <= up_to)
    if not _is_of_queue(wanted):
        rows = rows.where(select(jobs.c.id).where(jobs.c.id == queue.c.id, *conditions).correlate(queue).exists())
    counted = rows.with_only_columns(state.label("state")).subquery()
    return select(counted.c.state, func.count()).group_by(counted.c.state)


_NEWEST = text("SELECT id FROM jobs WHERE tenant_id = :tenant_id ORDER BY id DESC LIMIT 1")
_NAMED = text("""
    SELECT count(*) FROM jobs WHERE tenant_id = :tenant_id AND id = ANY (CAST(:ids AS uuid[])) AND deleted_at IS NULL
""")


def find_newest(tx: Transaction, tenant_id: UUID) -> UUID | None:
    """The id of a tenant's newest job; None where there is none."""
    return tx.execute(_NEWEST, {"tenant_id": tenant_id}).scalar_one_or_none()


def count_named(tx: Transaction, tenant_id: UUID, ids: Sequence[UUID]) -> int:
    """How many of these jobs are there."""
    number: int = tx.execute(_NAMED, {"tenant_id": tenant_id, "ids": list(ids)}).scalar_one()
    return number
