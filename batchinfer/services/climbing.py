"""What a page's refused answer leads to: another try that is different, the page's own text, or its failure.

Workers call `complete_group`, which climbs in the transaction that writes the group; `fall_back` is for CPU workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.domain import quality
from batchinfer.domain.retries import RetryClass
from batchinfer.services import holding
from batchinfer.store import climbing as store
from batchinfer.store import endings
from batchinfer.store.claims import Ending
from batchinfer.store.minutes import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim, Requeued
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Climbed:
    """Jobs that go on another way, and all for which the ladder alone decides: the others of these have failed."""

    requeued: list[Requeued]
    judged: frozenset[UUID]


def climb(tx: Transaction, lease_id: UUID, errors: Sequence[Ending], tally: Tally) -> Climbed:
    """Let those of the refused answers whose page has a rung left go on with it. The caller adds the tally."""
    refused = {error.id: error for error in errors if error.retry is RetryClass.MODEL_OUTPUT}
    found = store.load_refused(tx, list(refused)) if refused else {}
    steps = []
    for job_id, job in found.items():
        error = refused[job_id]
        step = quality.climb(job.prompt, job_id=job_id, model=job.model, document_id=job.document_id, error=error.error)
        if step is not None:
            steps.append((error, step))
    return Climbed(store.climb(tx, lease_id=lease_id, steps=steps, tally=tally), frozenset(found))


def load_documents(tx: Transaction, prompts: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The SHA-256 of each document of which these prompts need pages, by id (32 hexadecimal digits)."""
    ids = sorted({UUID(hex=name) for prompt in prompts for name in quality.find_documents(prompt)})
    return {document_id.hex: blob for document_id, blob in store.find_blobs(tx, ids).items()} if ids else {}


def fall_back(ctx: Context, lease_id: UUID, claim: Claim, text: str) -> bool:
    """End a page that no model could read with the text that its document carries itself. False: it says nothing; fail
    it with the error of its last answer. True also where the fence refused."""
    if not quality.says_something(text):
        return False
    tally = Tally()
    with ctx.db.transaction() as tx:
        ended = endings.stand_in(tx, lease_id=lease_id, claim=claim, text=text, tally=tally)
        tally.add(tx)
    if ended:
        ctx.bell.ring([claim.id])
    holding.hold_back(ctx, tally.stopped)
    return True
