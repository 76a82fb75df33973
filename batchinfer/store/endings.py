"""How work ends: the queue row goes and the job says how, in one statement each, guarded by what the row says.

Whoever deletes the queue row first is the truth. A worker's endings are fenced by state, attempt and lease; the lease
is compared with IS NOT DISTINCT FROM so that the planner joins by id and leaves the lease's index to the reaper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import TextClause, text

from batchinfer.domain.jobs import JobState, Usage
from batchinfer.domain.runs import BLANK_ENGINE, TEXT_LAYER_ENGINE
from batchinfer.domain.usage import measure_device_us, measure_row_us
from batchinfer.store.changes import tell_jobs
from batchinfer.store.claims import (
    ACT,
    CLOSE,
    DELIVER,
    EXPORT,
    FETCH,
    INFER,
    LIST,
    PREPARE,
    READ,
    RENDER,
    SEAL,
    UNCOUNTED,
    Ended,
)
from batchinfer.store.clean import as_jsonb, clean_text
from batchinfer.store.events import Event, record
from batchinfer.store.minutes import Tally, counting
from batchinfer.store.returns import IS_SUSPECT
from batchinfer.store.telling import tell_of_batch, tell_of_jobs, tell_of_reused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.claims import Claim, Ending, Outcome
    from batchinfer.store.returns import Suspects
    from batchinfer.store.session import Transaction

_FENCE = """q.state = 'running' AND q.attempt = g.attempt
    AND q.lease_id IS NOT DISTINCT FROM CAST(:lease_id AS uuid)"""
#: Kinds whose subject is a job.
_OF_JOBS = (INFER, PREPARE)
#: The result of a deleted job is there for its usage alone.
NOT_DELETED = "r.finish_reason <> 'deleted'"
#: The usage of a job that took over an answer: the first one has paid for it.
UNUSED: dict[str, Any] = Usage().as_dict() | {"images": 0}
#: The tries that the user pays for: those of a model, less lost and given back ones.
TRIES = "CASE q.kind WHEN 'infer' THEN q.attempt - q.crashes - q.released ELSE 0 END"


def _ending(held: str, *, more: str = "") -> TextClause:
    """The statement that ends the rows of `held`: columns of queue, and `error` and `timings`, locked by id."""
    return text(
        f"""
        WITH {held},
        gone AS (DELETE FROM queue q USING held h WHERE q.id = h.id RETURNING h.*),
        ended AS (
            UPDATE jobs j SET final_state = :final, error = q.error, finished_at = now(),
                attempts = j.attempts + {TRIES}, crashes = j.crashes + q.crashes,
                started_at = CASE q.kind WHEN 'infer' THEN q.leased_at END
            FROM gone q WHERE j.id = q.subject_id AND q.kind IN ('infer', 'prepare') AND j.final_state IS NULL
            RETURNING j.id, j.batch_id, j.document_id, j.reuse_key, j.key_id, j.schedule_id,
                CAST(extract(epoch FROM q.leased_at - j.created_at) AS float) AS waited_s,
                CAST(extract(epoch FROM now() - q.leased_at) AS float) AS ran_s
        ),
        closed AS (
            UPDATE documents d SET error = coalesce(d.error, q.error), rendered_at = coalesce(d.rendered_at, now())
            FROM gone q WHERE d.id = q.subject_id AND q.kind = 'render' RETURNING d.id, d.run_id
        ),
        tried AS (
            INSERT INTO attempts
                (job_id, number, tenant_id, outcome, kind, lease_id, worker, error, timings, started_at)
            SELECT q.subject_id, q.attempt, q.tenant_id, :outcome, q.kind, q.lease_id, l.worker, q.error, q.timings,
                   q.leased_at
            FROM gone q LEFT JOIN leases l ON l.id = q.lease_id WHERE q.state = 'running'
        ){more}
        SELECT q.id, q.kind, q.subject_id, q.tenant_id, q.model, q.state = 'running' AS held, e.batch_id,
               e.key_id, e.schedule_id, e.waited_s, e.ran_s, coalesce(e.document_id, d.id) AS document_id,
               coalesce(d.run_id, CASE WHEN e.document_id IS NOT NULL THEN e.batch_id END) AS run_id,
               e.id IS NOT NULL AND EXISTS (
                   SELECT 1 FROM webhook_endpoints w WHERE w.tenant_id = q.tenant_id) AS heard
        FROM gone q LEFT JOIN ended e ON e.id = q.subject_id LEFT JOIN closed d ON d.id = q.subject_id
        """  # noqa: S608 - made of constants
    )


#: What is in the outbox ends with its queue row; a batch that cannot be read or written is broken, and what was made
#: jobs of it is cancelled and told of; a run ends with its batch; a fetch and an act have failed; files that cannot be
#: read again stay what they were. Not among the statements of results: those end jobs alone.
_BESIDE = """,
        sent AS (
            UPDATE outbox o SET final_state = :final, error = q.error, finished_at = now(),
                attempts = o.attempts + q.attempt - q.crashes - q.released
            FROM gone q WHERE o.id = q.subject_id AND q.kind = 'deliver'),
        broken AS (
            UPDATE batches b SET errors = jsonb_build_array(jsonb_build_object('code', q.error ->> 'code',
                    'line', NULL, 'message', q.error ->> 'message', 'param', NULL)),
                status = CASE WHEN q.kind IN ('read', 'list') AND b.lines_read > 0 THEN 'cancelling' ELSE 'failed' END,
                cancelling_at = CASE WHEN q.kind IN ('read', 'list') AND b.lines_read > 0 THEN now()
                                     ELSE b.cancelling_at END,
                failed_at = CASE WHEN q.kind IN ('read', 'list') AND b.lines_read > 0 THEN NULL ELSE now() END
            FROM gone q WHERE b.id = q.subject_id AND q.kind IN ('read', 'export', 'list') AND :final <> 'succeeded'
              AND b.status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
            RETURNING b.id, b.status, q.error),
        over AS (
            UPDATE runs r SET finished_at = now(), cause = jsonb_build_object('code', b.error ->> 'code',
                'message', b.error ->> 'message')
            FROM broken b WHERE r.id = b.id AND b.status = 'failed' AND r.finished_at IS NULL),
        unfetched AS (
            UPDATE model_revisions v SET state = CASE v.state WHEN 'fetching' THEN 'failed' ELSE v.state END,
                error = q.error, progress = NULL
            FROM gone q WHERE v.id = q.subject_id AND q.kind = 'fetch' AND :final <> 'succeeded'
              AND (v.state = 'fetching' OR v.progress IS NOT NULL)),
        undone AS (
            UPDATE bulk_acts a SET state = 'failed', error = q.error, finished_at = now()
            FROM gone q WHERE a.id = q.subject_id AND q.kind = 'act' AND :final <> 'succeeded'
              AND a.state IN ('queued', 'running'))"""
_COMPLETE = _ending(
    f"""
    given AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:texts AS text[]),
            CAST(:finishes AS text[]), CAST(:usages AS jsonb[]), CAST(:timings AS jsonb[]), CAST(:models AS text[]),
            CAST(:revisions AS text[]), CAST(:engines AS text[]), CAST(:logprobs AS jsonb[]))
        AS g (id, attempt, text, finish_reason, usage, timings, made_by, revision, engine, logprobs)),
    held AS (
        SELECT q.*, CAST(NULL AS jsonb) AS error, g.timings, g.text, g.finish_reason, g.usage, g.made_by, g.revision,
               g.engine, g.logprobs
        FROM given g JOIN queue q ON q.id = g.id
        WHERE {_FENCE} AND q.kind = 'infer' AND (q.expires_at IS NULL OR q.expires_at > clock_timestamp())
        ORDER BY q.id FOR UPDATE OF q)""",  # noqa: S608
    more=""",
        stored AS (
            INSERT INTO results (job_id, tenant_id, attempt, lease_id, text, finish_reason, usage, timings, model,
                revision, engine, versions, logprobs)
            SELECT id, tenant_id, attempt, lease_id, text, finish_reason, usage, timings, made_by, revision, engine,
                (SELECT info -> 'versions' FROM leases WHERE id = CAST(:lease_id AS uuid)), logprobs FROM gone),
        kept AS (
            INSERT INTO answers (tenant_id, key, revision, job_id)
            SELECT DISTINCT ON (q.tenant_id, e.reuse_key, q.revision) q.tenant_id, e.reuse_key, q.revision, q.id
            FROM ended e JOIN gone q ON q.subject_id = e.id WHERE e.reuse_key IS NOT NULL
            ORDER BY q.tenant_id, e.reuse_key, q.revision, q.id
            ON CONFLICT (tenant_id, key, revision) DO UPDATE SET job_id = excluded.job_id, created_at = now())""",
)
_REUSE = _ending(
    f"""
    held AS (
        SELECT q.*, CAST(NULL AS jsonb) AS error, CAST(NULL AS jsonb) AS timings, r.text, r.finish_reason,
               r.model AS made_by, r.revision, r.engine, r.versions, r.logprobs,
               coalesce(r.reused_from, r.job_id) AS reused_from
        FROM queue q JOIN (SELECT CAST(:number AS int) AS attempt) AS g ON true
        JOIN results r ON r.job_id = :source AND r.tenant_id = q.tenant_id AND {NOT_DELETED}
        WHERE q.id = :id AND q.kind = 'prepare' AND {_FENCE}
          AND (q.expires_at IS NULL OR q.expires_at > clock_timestamp())
        FOR UPDATE OF q)""",  # noqa: S608
    more=""",
        stored AS (
            INSERT INTO results (job_id, tenant_id, attempt, lease_id, text, finish_reason, usage, model, revision,
                engine, versions, logprobs, reused_from)
            SELECT id, tenant_id, attempt, lease_id, text, finish_reason, :usage, made_by, revision, engine, versions,
                logprobs, reused_from FROM gone)""",
)
#: A page whose ladder is used up, and which its document's own text stands for.
_STAND_IN = _ending(
    f"""
    held AS (
        SELECT q.*, CAST(NULL AS jsonb) AS error, CAST(NULL AS jsonb) AS timings
        FROM queue q JOIN (SELECT CAST(:number AS int) AS attempt) AS g ON true
        WHERE q.id = :id AND q.kind = 'prepare' AND {_FENCE}
          AND (q.expires_at IS NULL OR q.expires_at > clock_timestamp())
        FOR UPDATE OF q)""",  # noqa: S608
    more=f""",
        stored AS (
            INSERT INTO results (job_id, tenant_id, attempt, lease_id, text, finish_reason, usage, model, revision,
                engine)
            SELECT id, tenant_id, attempt, lease_id, :text, 'stop', :usage, '', '', '{TEXT_LAYER_ENGINE}'
            FROM gone)""",  # noqa: S608
)
_FAIL = _ending(
    f"""
    given AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:errors AS jsonb[]),
            CAST(:timings AS jsonb[])) AS g (id, attempt, error, timings)),
    held AS (
        SELECT q.*, g.error, g.timings FROM given g JOIN queue q ON q.id = g.id
        WHERE {_FENCE} ORDER BY q.id FOR UPDATE OF q)""",  # noqa: S608
    more=_BESIDE,
)
_FINISH = _ending(
    f"""
    held AS (
        SELECT q.*, CAST(NULL AS jsonb) AS error, CAST(:timings AS jsonb) AS timings
        FROM queue q JOIN (SELECT CAST(:number AS int) AS attempt) AS g ON true
        WHERE q.id = :id AND q.kind = :kind AND {_FENCE}
          AND q.kind IN ('render', 'deliver', 'read', 'export', 'list', 'close', 'seal', 'fetch', 'act')
        FOR UPDATE OF q)""",  # noqa: S608
    more=_BESIDE,
)
_CANCEL = _ending("""
    held AS (
        SELECT q.*, CAST(:error AS jsonb) AS error, CAST(NULL AS jsonb) AS timings FROM queue q
        WHERE q.id = ANY (CAST(:ids AS uuid[])) AND q.tenant_id = :tenant_id AND q.kind = ANY (CAST(:kinds AS text[]))
        ORDER BY q.id FOR UPDATE OF q)""")
_EXPIRE = _ending(
    """
    held AS (
        SELECT q.*, CAST(:error AS jsonb) AS error, CAST(NULL AS jsonb) AS timings FROM queue q
        WHERE q.expires_at <= now() ORDER BY q.id LIMIT :limit FOR UPDATE OF q SKIP LOCKED)""",
    more=_BESIDE,
)
# A crash is proof only where one row alone can have been its cause.
_QUARANTINE = _ending(
    f"""
    alone AS (
        SELECT q.lease_id FROM queue q
        WHERE q.state = 'running' AND q.lease_id = ANY (CAST(:lease_ids AS uuid[])) AND {IS_SUSPECT}
        GROUP BY q.lease_id HAVING count(*) = 1),
    held AS (
        SELECT q.id, q.kind, q.subject_id, q.tenant_id, q.model, q.state, q.attempt, q.crashes + 1 AS crashes,
               q.released, q.lease_id, q.leased_at, CAST(:error AS jsonb) AS error, CAST(NULL AS jsonb) AS timings
        FROM queue q
        WHERE q.state = 'running' AND q.lease_id IN (SELECT lease_id FROM alone) AND {IS_SUSPECT}
          AND q.suspected + 1 >= :max_crashes
        ORDER BY q.id FOR UPDATE OF q)""",  # noqa: S608 - made of constants
    more=_BESIDE,
)


def complete(
    tx: Transaction, *, lease_id: UUID, outcomes: Sequence[Outcome], tally: Tally | None = None
) -> frozenset[UUID]:
    """Store results, any number up to some hundreds, and end their jobs as succeeded.

    Answers the ids that really were completed; the others were refused: cancelled, expired, or no longer this lease's.
    A `tally` given here or below is added by the caller, as the last statement of its transaction.
    """
    if not outcomes:
        return frozenset()
    by_id = {outcome.id: outcome for outcome in outcomes}
    ended = _run(tx, _COMPLETE, JobState.SUCCEEDED, {"lease_id": lease_id, **_columns(list(by_id.values()))})
    tell_of_jobs(tx, ended, {row.id: by_id[row.id].finish_reason for row in ended})
    with counting(tx, tally) as counted:
        for row in ended:
            usage = by_id[row.id].usage
            counted.count_usage(
                row.tenant_id,
                row.model,
                row.key_id,
                row.schedule_id,
                jobs=1,
                **vars(usage),
                device_us=measure_device_us(by_id[row.id].timings),
            )
            counted.count(
                row.tenant_id,
                row.model,
                succeeded=1,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                images=usage.images,
                row_us=measure_row_us(by_id[row.id].timings),
                device_us=measure_device_us(by_id[row.id].timings),
            )
            _count_times(counted, row)
            counted.count_line(
                row.batch_id,
                completed=1,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
                images=usage.images,
            )
            counted.count_page(row.document_id, row.run_id, ended=1, **_flag(by_id[row.id].engine))
    return frozenset(row.id for row in ended)


def _count_times(counted: Tally, row: Ended) -> None:
    if row.waited_s is not None and row.ran_s is not None:
        counted.count_times(row.tenant_id, row.model, row.waited_s, row.ran_s)


def _flag(engine: str) -> dict[str, int]:
    """What a page counts as beside, whose answer no model gave."""
    return {"fallback": 1} if engine == TEXT_LAYER_ENGINE else {"blank": 1} if engine == BLANK_ENGINE else {}


def reuse(tx: Transaction, *, lease_id: UUID, claim: Claim, source: UUID, tally: Tally | None = None) -> bool:
    """End a job that is being prepared with a copy of the answer of the job `source`. False when the fence refused, or
    that answer has gone meanwhile."""
    values = {"lease_id": lease_id, "id": claim.id, "number": claim.attempt, "source": source}
    ended = _run(tx, _REUSE, JobState.SUCCEEDED, values | {"usage": as_jsonb(UNUSED)})
    tell_of_reused(tx, [row.id for row in ended])
    with counting(tx, tally) as counted:
        for row in ended:
            counted.count(row.tenant_id, row.model, succeeded=1, reused=1)
            counted.count_usage(row.tenant_id, row.model, row.key_id, row.schedule_id, jobs=1)
            counted.count_line(row.batch_id, completed=1, cache_hits=1)
            counted.count_page(row.document_id, row.run_id, ended=1)
    return bool(ended)


def stand_in(tx: Transaction, *, lease_id: UUID, claim: Claim, text: str, tally: Tally | None = None) -> bool:
    """End a page that a CPU worker has with the text that its document carries itself. False when the fence refused."""
    values = {"lease_id": lease_id, "id": claim.id, "number": claim.attempt, "text": clean_text(text)}
    ended = _run(tx, _STAND_IN, JobState.SUCCEEDED, values | {"usage": as_jsonb(UNUSED)})
    tell_of_jobs(tx, ended, {row.id: "stop" for row in ended})
    with counting(tx, tally) as counted:
        for row in ended:
            counted.count(row.tenant_id, row.model, succeeded=1)
            counted.count_usage(row.tenant_id, row.model, row.key_id, row.schedule_id, jobs=1)
            counted.count_line(row.batch_id, completed=1)
            counted.count_page(row.document_id, row.run_id, ended=1, fallback=1)
    return bool(ended)


def fail(tx: Transaction, *, lease_id: UUID, endings: Sequence[Ending], tally: Tally | None = None) -> frozenset[UUID]:
    """End work of any kind for good with an error each. Answers the ids that really were; the others were refused."""
    if not endings:
        return frozenset()
    ended = _run(
        tx,
        _FAIL,
        JobState.FAILED,
        {
            "lease_id": lease_id,
            "ids": [ending.id for ending in endings],
            "numbers": [ending.attempt for ending in endings],
            "errors": [as_jsonb(ending.error) for ending in endings],
            "timings": [as_jsonb(ending.timings) for ending in endings],
        },
    )
    _note(tx, [row for row in ended if row.kind == FETCH], "cpu worker")
    _tell(tx, ended)
    _count(tx, ended, "failed", tally)
    return frozenset(row.id for row in ended)


def finish(tx: Transaction, *, lease_id: UUID, claim: Claim, timings: dict[str, float] | None = None) -> bool:
    """End the rendering of a document whose pages are all made, a delivery, or the work on a batch or run.

    False when the fence refused.
    """
    values = {
        "lease_id": lease_id, "id": claim.id, "number": claim.attempt, "kind": claim.kind,
        "timings": as_jsonb(timings),
    }  # fmt: skip
    ended = _run(tx, _FINISH, JobState.SUCCEEDED, values)
    with counting(tx) as counted:
        for row in ended:
            counted.count_page(row.document_id, row.run_id)
    return bool(ended)


def cancel(
    tx: Transaction,
    tenant_id: UUID,
    ids: Sequence[UUID],
    *,
    kinds: Sequence[str] = ("infer", "prepare"),
    actor: str | None = None,
    error: dict[str, Any] | None = None,
) -> list[Ended]:
    """End what of `ids` has not ended, in whatever live state. Empty: all had ended, or are not this tenant's."""
    values = {"tenant_id": tenant_id, "ids": list(ids), "kinds": list(kinds), "error": as_jsonb(error)}
    ended = _run(tx, _CANCEL, JobState.CANCELLED, values)
    _note(tx, ended, actor)
    _tell(tx, ended)
    _count(tx, ended, "cancelled")
    return ended


def expire(tx: Transaction, *, error: dict[str, Any], limit: int = 1000) -> list[Ended]:
    """End what has passed its time, at most `limit` rows; call again while as many come back."""
    ended = _run(tx, _EXPIRE, JobState.EXPIRED, {"error": as_jsonb(error), "limit": limit})
    _note(tx, ended, "upkeep")
    _tell(tx, ended)
    _count(tx, ended, "expired")
    return ended


def quarantine(
    tx: Transaction,
    *,
    lease_ids: Sequence[UUID],
    max_crashes: int,
    suspects: Suspects,
    error: dict[str, Any],
    tally: Tally,
) -> list[Ended]:
    """End what these dead leases held and what is proven to have killed its worker. The caller adds the tally.

    Proven: it was among the suspects of `max_crashes` lost workers, this one included, and here the only one.
    """
    values = {
        "lease_ids": list(lease_ids),
        "max_crashes": max_crashes,
        "error": as_jsonb(error),
        **suspects.as_values(),
    }
    ended = _run(tx, _QUARANTINE, JobState.QUARANTINED, values, outcome="lost")
    _note(tx, ended, "reaper")
    _tell(tx, ended)
    for row in ended:
        if row.kind not in UNCOUNTED:
            tally.count(row.tenant_id, row.model, lost=1, quarantined=int(row.kind in _OF_JOBS))
        tally.count_line(row.batch_id, failed=1)
        tally.count_page(row.document_id, row.run_id, ended=int(row.kind in _OF_JOBS), failed=int(row.kind in _OF_JOBS))
    return ended


_LANDED = text("""
    SELECT a.job_id, a.outcome FROM attempts a
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS g (id, attempt)
      ON a.job_id = g.id AND a.number = g.attempt
    WHERE a.job_id = ANY (CAST(:ids AS uuid[])) AND a.lease_id = CAST(:lease_id AS uuid)
      AND (a.outcome <> 'succeeded' OR a.kind = 'infer')
""")


def landed(tx: Transaction, *, lease_id: UUID, pairs: Sequence[tuple[UUID, int]]) -> dict[UUID, str]:
    """For (id, attempt) of which this lease does not know how they ended: id -> the outcome that was written.

    What is missing was never written by this lease; `lost`, `released`, `cancelled` and `expired` were others' words.
    """
    values = {
        "lease_id": lease_id,
        "ids": [pair[0] for pair in pairs],
        "numbers": [pair[1] for pair in pairs],
    }
    return {row.job_id: row.outcome for row in tx.execute(_LANDED, values)}


def _run(
    tx: Transaction,
    statement: TextClause,
    final: JobState,
    values: dict[str, Any],
    *,
    outcome: str | None = None,
) -> list[Ended]:
    rows = tx.execute(statement, values | {"final": final.value, "outcome": outcome or final.value})
    ended = [Ended(state=final, **row._mapping) for row in rows]
    tell_jobs(tx, [(row.tenant_id, final.value, row.subject_id) for row in ended if row.kind in _OF_JOBS])
    return ended


_BROKEN = text("SELECT id, tenant_id FROM batches WHERE id = ANY (CAST(:ids AS uuid[])) AND status = 'failed'")


def _tell(tx: Transaction, ended: Sequence[Ended]) -> None:
    """Jobs that ended, and batches that broke with the work on them."""
    tell_of_jobs(tx, ended)
    parts = [row for row in ended if row.kind in (READ, EXPORT, LIST)]
    broken = [row.subject_id for row in parts if row.state is not JobState.CANCELLED]
    for row in tx.execute(_BROKEN, {"ids": broken}).all() if broken else []:
        tell_of_batch(tx, row.tenant_id, row.id, "failed")


def _count(tx: Transaction, ended: Sequence[Ended], counter: str, tally: Tally | None = None) -> None:
    with counting(tx, tally) as counted:
        for row in ended:
            if row.kind in _OF_JOBS:
                counted.count(row.tenant_id, row.model, **{counter: 1})
                counted.count_line(row.batch_id, **{counter: 1})
                if counter == "failed" and row.kind == INFER:
                    _count_times(counted, row)
            is_page = int(row.kind in _OF_JOBS)
            counted.count_page(row.document_id, row.run_id, ended=is_page, failed=is_page * (counter == "failed"))


def _note(tx: Transaction, ended: Sequence[Ended], actor: str | None) -> None:
    subjects = {
        RENDER: "document", CLOSE: "document", DELIVER: "delivery", READ: "batch", EXPORT: "batch", LIST: "run",
        SEAL: "shard", FETCH: "model", ACT: "act",
    }  # fmt: skip
    record(
        tx,
        [Event(row.tenant_id, subjects.get(row.kind, "job"), row.subject_id, row.state.value, actor) for row in ended],
    )


def _columns(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    return {
        "ids": [outcome.id for outcome in outcomes],
        "numbers": [outcome.attempt for outcome in outcomes],
        "texts": [clean_text(outcome.text) for outcome in outcomes],
        "finishes": [outcome.finish_reason for outcome in outcomes],
        "usages": [as_jsonb(outcome.usage.as_dict() | {"images": outcome.usage.images}) for outcome in outcomes],
        "timings": [as_jsonb(outcome.timings) for outcome in outcomes],
        "models": [outcome.model for outcome in outcomes],
        "revisions": [outcome.revision for outcome in outcomes],
        "engines": [outcome.engine for outcome in outcomes],
        "logprobs": [as_jsonb(outcome.logprobs) for outcome in outcomes],
    }
