"""Jobs whose answer is there already: they end as soon as it is known what they ask, and no worker sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchinfer.domain.reuse import keeps, looks_up, make_key
from batchinfer.store import endings, jobs, reuse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.claims import Claim
    from batchinfer.store.minutes import Tally
    from batchinfer.store.session import Transaction


def store_jobs(tx: Transaction, new: Sequence[jobs.NewJob], tally: Tally) -> frozenset[UUID]:
    """Store jobs of one tenant, and end those whose answer is kept. Answers these; the others are to be queued.

    Pictures that are not normalised yet are looked at again in `take_answer`.
    """
    jobs.insert_jobs(tx, [replace(job, reuse_key=find_key(job.model, job.prompt)) for job in new])
    wanted = {job.id: (make_key(job.model, job.prompt), job.model) for job in new if looks_up(job.prompt)}
    keys = {key: model for key, model in wanted.values() if key is not None}
    if not keys:
        return frozenset()
    found = reuse.find_answers(tx, new[0].tenant_id, keys)
    sources = {job_id: found[key] for job_id, (key, _) in wanted.items() if key in found}
    ended = reuse.end_with(tx, new[0].tenant_id, sources)
    for job in new:
        if job.id in ended:
            tally.count(job.tenant_id, job.model, succeeded=1, reused=1)
            tally.count_usage(job.tenant_id, job.model, job.key_id, job.schedule_id, jobs=1)
            tally.count_line(job.batch_id, completed=1, cache_hits=1)
            tally.count_page(job.document_id, job.batch_id, ended=1)
    return ended


def find_key(model: str, prompt: dict[str, Any]) -> str | None:
    """Under which key the answer to a prompt will be kept; None where it is not."""
    return make_key(model, prompt) if keeps(prompt) else None


def take_answer(tx: Transaction, lease_id: UUID, claim: Claim, prompt: dict[str, Any], tally: Tally) -> bool:
    """End a job that is being prepared where the answer is kept. `prompt` has its pictures as a model would see them.

    False where there is none, or the fence refused. The caller adds the tally.
    """
    key = make_key(claim.model, prompt) if looks_up(prompt) else None
    if key is None:
        return False
    source = reuse.find_answers(tx, claim.tenant_id, {key: claim.model}).get(key)
    return source is not None and endings.reuse(tx, lease_id=lease_id, claim=claim, source=source, tally=tally)
