"""Jobs that ended and are to be done again by a new one, or forgotten; both under the lock of the job's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.batches import TERMINAL
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.store.changes import tell_jobs

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Held:
    """A job that was not deleted, its row locked by this transaction. `state` None: it has not ended."""

    id: UUID
    state: JobState | None
    model: str
    job_class: JobClass
    prompt: dict[str, Any]
    metadata: dict[str, str]
    #: From its submission to its deadline.
    lifetime: timedelta | None
    #: The newest job that repeats it, if that is still there.
    retry_id: UUID | None
    #: Whether it is a line of a batch whose files are not yet written.
    awaited: bool


_HOLD = text("""
    SELECT j.id, j.final_state AS state, j.model, j.class AS job_class, j.prompt, j.metadata,
           j.expires_at - j.created_at AS lifetime, j.retry_id,
           EXISTS (SELECT 1 FROM batches b
                   WHERE b.id = j.batch_id AND b.status <> ALL (CAST(:over AS text[]))) AS awaited
    FROM jobs j WHERE j.id = :id AND j.tenant_id = :tenant_id AND j.deleted_at IS NULL FOR UPDATE OF j
""")
_IS_THERE = text("SELECT EXISTS (SELECT 1 FROM jobs WHERE id = :id AND deleted_at IS NULL)")
_MARK = text("UPDATE jobs SET retry_id = :retry_id WHERE id = :id")
_FORGET = text("""
    UPDATE jobs SET prompt = '{}', metadata = '{}', error = NULL, custom_id = NULL, deleted_at = now() WHERE id = :id
""")
# What was counted stays: the usage of a result, and how each try ended.
_FORGET_RESULT = text("UPDATE results SET text = '', logprobs = NULL, finish_reason = 'deleted' WHERE job_id = :id")
_FORGET_ANSWERS = text("DELETE FROM answers WHERE job_id = :id")
_FORGET_TRIES = text("UPDATE attempts SET error = NULL WHERE job_id = :id AND error IS NOT NULL")
_LET_GO = text("DELETE FROM job_blobs WHERE job_id = :id RETURNING sha256")
_ERASE = text("""
    UPDATE blobs SET erase_at = now() + make_interval(secs => :wait_s) WHERE (tenant_id, sha256) IN (
        SELECT tenant_id, sha256 FROM blobs WHERE tenant_id = :tenant_id AND sha256 = ANY (CAST(:names AS text[]))
        ORDER BY sha256 FOR NO KEY UPDATE)
""")


def hold_job(tx: Transaction, tenant_id: UUID, job_id: UUID) -> Held | None:
    """Lock a tenant's job, or None. Whoever else wants to repeat or delete it waits, and sees what was done."""
    over = [state.value for state in TERMINAL]
    row = tx.execute(_HOLD, {"id": job_id, "tenant_id": tenant_id, "over": over}).first()
    if row is None:
        return None
    state = None if row.state is None else JobState(row.state)
    retry_id = row.retry_id if row.retry_id and tx.execute(_IS_THERE, {"id": row.retry_id}).scalar_one() else None
    return Held(**{**row._mapping, "state": state, "job_class": JobClass(row.job_class), "retry_id": retry_id})


def mark_repeated(tx: Transaction, job_id: UUID, retry_id: UUID) -> None:
    """Note the job that repeats a held one."""
    tx.execute(_MARK, {"id": job_id, "retry_id": retry_id})


def forget_job(tx: Transaction, tenant_id: UUID, job_id: UUID, *, wait_s: float) -> None:
    """Empty a held job of what it said and was told. Its blobs are looked at after `wait_s` seconds."""
    for statement in (_FORGET, _FORGET_RESULT, _FORGET_ANSWERS, _FORGET_TRIES):
        tx.execute(statement, {"id": job_id})
    tell_jobs(tx, [(tenant_id, "deleted", job_id)])
    names = sorted(tx.execute(_LET_GO, {"id": job_id}).scalars())
    if names:
        tx.execute(_ERASE, {"tenant_id": tenant_id, "names": names, "wait_s": wait_s})
