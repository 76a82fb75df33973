"""What workers do, each in one transaction: hold a lease, claim, load, and give back results, errors or rows.

Everything that writes is fenced by (id, attempt, lease): what it answers is what really happened. On errors.Unavailable
the outcome is unknown; call again with the same values: what had already landed is told apart from what was refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from batchinfer.domain import quality
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.retries import RetryClass, find_rule
from batchinfer.errors import Failure
from batchinfer.services import climbing, holding, reusing
from batchinfer.services.announcing import announce_requeued
from batchinfer.services.files import record_made
from batchinfer.services.losses import make_loss_rule
from batchinfer.services.rendering import PagePicture, finish_render, save_pages
from batchinfer.store import batches, documents, endings, fleet, jobs, leases, outbox, queue, returns, tracing, webhooks
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
    Claim,
    Ending,
    Outcome,
)
from batchinfer.store.minutes import Tally
from batchinfer.store.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Requeued
    from batchinfer.store.documents import Rendering
    from batchinfer.store.outbox import Delivery
    from batchinfer.store.session import Transaction

__all__ = [
    "ACT", "CLOSE", "DELIVER", "EXPORT", "FETCH", "INFER", "LIST", "ORDERLY_END", "PREPARE", "READ", "RENDER", "SEAL",
    "Beat", "Claim", "Ending", "Group", "Outcome",
    "PagePicture", "Work", "beat", "cancel_claims", "claim", "complete_group", "end_lease", "fail", "finish_render",
    "load_claims", "make_turns", "mark_prepared", "open_lease", "reap", "record_replica", "release", "save_pages",
]  # fmt: skip


#: Why the lease of a worker ends that was told to; with any other reason it was lost.
ORDERLY_END = "the worker was told to stop"
#: A row that gave up its slot so often keeps it to its end: a long page of a night must not begin for ever.
MOST_YIELDS = 3


@dataclass(frozen=True)
class Beat:
    """The answer to a sign of life. Not `alive`: drop everything, open a new lease.

    `held` are the (id, attempt) that the lease still holds: what is missing was cancelled or expired.
    """

    alive: bool
    held: frozenset[tuple[UUID, int]]


@dataclass(frozen=True)
class Work:
    """A claim with what is needed to do it.

    `paths` are files in the blob store: for infer the normalised pictures in the prompt's order, for prepare the
    pictures as sent, without those that are still to be fetched or drawn, for render the document alone (none where a
    run's was not read yet), for read and export none. A file may be missing: fail that claim with code blob_missing.
    """

    claim: Claim
    prompt: dict[str, Any]
    paths: tuple[Path, ...]
    #: For render: pages whose jobs exist already; go on with the next one.
    rendered: int = 0
    #: For render: the document's media type, and all that is known of it.
    media_type: str = ""
    document: Rendering | None = None
    #: For prepare: the files of documents whose pages are to be made anew or read, by id (32 hexadecimal digits).
    documents: dict[str, Path] = field(default_factory=dict)
    #: For deliver: what to hand over; `prompt` and `paths` are empty.
    delivery: Delivery | None = None
    #: For infer: how often a model worker gave the job back, at least where that was `MOST_YIELDS` times or more.
    yielded: int = 0


@dataclass(frozen=True)
class Group:
    """What became of a group: ids that ended well, for good with an error, wait for another try, or were refused."""

    completed: frozenset[UUID]
    failed: frozenset[UUID]
    retried: frozenset[UUID]
    #: Refused by the fence: cancelled, expired, or given to somebody else. Nothing of them was written.
    fenced: frozenset[UUID]
    #: Those of the first three that an earlier call had written whose answer was lost.
    landed: frozenset[UUID] = field(default=frozenset(), compare=False)


def open_lease(
    ctx: Context,
    *,
    role: str,
    worker: str,
    host: str,
    pid: int,
    model: str | None = None,
    device: str | None = None,
    slots: int = 0,
    info: dict[str, Any] | None = None,
) -> UUID:
    """Begin to hold rows. `role` is model or cpu; `info` is what `list_workers` shows of it (JSON, small)."""
    with ctx.db.transaction() as tx:
        return leases.open_lease(
            tx,
            role=role,
            worker=worker,
            host=host,
            pid=pid,
            model=model,
            device=device,
            slots=slots,
            info=info,
        )


def beat(ctx: Context, lease_id: UUID, info: dict[str, Any] | None = None) -> Beat:
    """Give a sign of life (and replace `info` where given)."""
    with ctx.db.transaction(relaxed=True) as tx:
        alive = leases.beat(tx, lease_id, info)
        return Beat(alive, queue.owned(tx, lease_id) if alive else frozenset())


def end_lease(ctx: Context, lease_id: UUID, reason: str, *, clean: bool = True) -> None:
    """Stop holding rows; what is still held is given back. `clean` False counts as a crash of each of them."""
    with ctx.db.transaction() as tx:
        back = leases.end_lease(tx, lease_id, reason, rule=make_loss_rule(ctx), clean=clean)
    announce_requeued(ctx, back.requeued)
    ctx.bell.ring([row.id for row in back.quarantined])
    holding.hold_back(ctx, back.stopped)


def claim(
    ctx: Context,
    *,
    lease_id: UUID,
    kinds: Sequence[str],
    model: str | None,
    limit: int,
    exclude_ids: Collection[UUID] = (),
    turns: Turns | None = None,
    urgent_only: bool = False,
) -> list[Claim]:
    """Take up to `limit` ready rows. Empty when nothing is ready or the lease is dead.

    `urgent_only` takes rows of class interactive alone, of one model.

    `turns` are the claimer's own, from `make_turns`; without them each claim begins with the same tenant.
    """
    with ctx.db.transaction(relaxed=True) as tx:
        return queue.claim(
            tx,
            lease_id=lease_id,
            kinds=kinds,
            model=model,
            limit=limit,
            exclude_ids=exclude_ids,
            turns=turns,
            urgent_only=urgent_only,
        )


def make_turns(ctx: Context) -> Turns:
    """The turns of a claimer that begins."""
    return Turns.scattered(ageing_s=ctx.settings.ageing_s, aged_share=ctx.settings.aged_share)


def load_claims(ctx: Context, claims: Sequence[Claim]) -> list[Work]:
    """What is needed for each claim, in the order of claims. One whose job is gone fails here and is left out."""
    with ctx.db.transaction() as tx:
        prompts = jobs.load_prompts(tx, [claim.subject_id for claim in claims if claim.kind in (INFER, PREPARE)])
        to_render = [claim.subject_id for claim in claims if claim.kind == RENDER]
        renderings = documents.load_renderings(tx, to_render) if to_render else {}
        to_deliver = [claim.subject_id for claim in claims if claim.kind == DELIVER]
        deliveries = outbox.load(tx, to_deliver) if to_deliver else {}
        of_batches = [claim.subject_id for claim in claims if claim.kind in (READ, EXPORT, LIST)]
        there = batches.load_batches(tx, of_batches) if of_batches else {}
        blobs = climbing.load_documents(
            tx,
            [
                prompts[claim.subject_id].prompt
                for claim in claims
                if claim.kind == PREPARE and claim.subject_id in prompts
            ],
        )
        yielded = _count_yields(tx, claims)
        traces = tracing.load_traces(
            tx,
            documents=[claim.subject_id for claim in claims if claim.kind == CLOSE],
            shards=[claim.subject_id for claim in claims if claim.kind == SEAL],
        )
        # What these are about is looked at when they are done; where it is gone, nothing is left to do.
        plain = {claim.subject_id for claim in claims if claim.kind in (CLOSE, SEAL, FETCH, ACT)}
        known = prompts.keys() | renderings.keys() | deliveries.keys() | there.keys() | plain
        missing = [claim for claim in claims if claim.subject_id not in known]
        tally = Tally()
        for gone in missing:
            endings.fail(tx, lease_id=gone.lease_id, endings=[_gone(gone)], tally=tally)
        tally.add(tx)
    holding.hold_back(ctx, tally.stopped)
    kept = {
        **{key: asked.trace for key, asked in prompts.items()},
        **{key: document.trace for key, document in renderings.items()},
        **{key: delivery.trace for key, delivery in deliveries.items()},
        **{key: held.trace for key, held in there.items()},
        **traces,
    }
    left = [replace(claim, trace=kept.get(claim.subject_id)) for claim in claims if claim not in missing]
    return [
        _rendering(ctx, claim, renderings[claim.subject_id])
        if claim.kind == RENDER
        else Work(claim, {}, (), delivery=deliveries[claim.subject_id])
        if claim.kind == DELIVER
        else Work(claim, {}, ())
        if claim.kind not in (INFER, PREPARE)
        else _prompting(ctx, claim, prompts[claim.subject_id].prompt, blobs, yielded.get(claim.subject_id, 0))
        for claim in left
    ]


def _gone(claim: Claim) -> Ending:
    error = Failure("What was to be done is no longer stored. Submit it again.", code="job_missing")
    return Ending(claim.id, claim.attempt, error.as_dict())


def _rendering(ctx: Context, claim: Claim, rendering: Rendering) -> Work:
    paths = (ctx.blobs.path(claim.tenant_id, rendering.blob),) if rendering.blob else ()
    return Work(claim, rendering.prompt, paths, rendering.rendered, rendering.media_type, rendering)


def _count_yields(tx: Transaction, claims: Sequence[Claim]) -> dict[UUID, int]:
    """Of rows that yield to others, how often each did; looked up only where it may be too often."""
    asked = [
        claim.subject_id
        for claim in claims
        if claim.kind == INFER and claim.job_class is JobClass.BATCH and claim.released >= MOST_YIELDS
    ]
    return returns.count_releases(tx, asked) if asked else {}


def _prompting(ctx: Context, claim: Claim, prompt: dict[str, Any], blobs: dict[str, str], yielded: int) -> Work:
    images = prompt["images"] if claim.kind == PREPARE else [image["normal"] for image in prompt["images"]]
    images = [image for image in images if "sha256" in image]
    paths = tuple(ctx.blobs.path(claim.tenant_id, image["sha256"]) for image in images)
    wanted = quality.find_documents(prompt) if claim.kind == PREPARE else []
    found = {name: ctx.blobs.path(claim.tenant_id, blobs[name]) for name in wanted if name in blobs}
    return Work(claim, prompt, paths, documents=found, yielded=yielded)


def complete_group(ctx: Context, lease_id: UUID, outcomes: Sequence[Outcome], errors: Sequence[Ending] = ()) -> Group:
    """Write results and errors in one transaction, then ring. Up to about 256 together."""
    pairs: dict[UUID, int] = {}
    pairs.update((outcome.id, outcome.attempt) for outcome in outcomes)
    pairs.update((error.id, error.attempt) for error in errors)
    tally = Tally()
    with ctx.db.transaction() as tx:
        queue.lock(tx, pairs)
        completed = endings.complete(tx, lease_id=lease_id, outcomes=outcomes, tally=tally)
        climbed = climbing.climb(tx, lease_id, errors, tally)
        plain = [error for error in errors if error.id not in climbed.judged]
        retried = [*climbed.requeued, *_retry(ctx, tx, lease_id, plain, tally)]
        waiting = frozenset(row.id for row in retried)
        if deliveries := [row.id for row in retried if row.kind == DELIVER]:
            webhooks.hold_rows(tx, deliveries)
        final = [error for error in errors if error.id not in waiting]
        failed = endings.fail(tx, lease_id=lease_id, endings=final, tally=tally)
        unknown = [(i, pairs[i]) for i in pairs.keys() - completed - waiting - failed]
        landed = endings.landed(tx, lease_id=lease_id, pairs=unknown) if unknown else {}
        tally.add(tx)
    ctx.bell.ring(completed | failed)
    announce_requeued(ctx, retried)
    holding.hold_back(ctx, tally.stopped)
    return _sort_group(pairs.keys(), completed, failed, waiting, landed)


def _retry(ctx: Context, tx: Transaction, lease_id: UUID, errors: Sequence[Ending], tally: Tally) -> list[Requeued]:
    """Those of the errors that get another try, each by the rule of its class."""
    by_class: dict[RetryClass, list[Ending]] = {}
    for error in errors:
        by_class.setdefault(error.retry, []).append(error)
    return [
        row
        for retry_class, members in by_class.items()
        for row in returns.retry(
            tx, lease_id=lease_id, endings=members, rule=find_rule(retry_class, ctx.settings), tally=tally
        )
    ]


def _sort_group(
    ids: Collection[UUID],
    completed: frozenset[UUID],
    failed: frozenset[UUID],
    retried: frozenset[UUID],
    landed: dict[UUID, str],
) -> Group:
    """What was written now, with what an earlier call had written already; the rest was refused."""

    def with_landed(now: frozenset[UUID], outcome: str) -> frozenset[UUID]:
        return now | {i for i, written in landed.items() if written == outcome}

    ended_well, ended_badly = with_landed(completed, "succeeded"), with_landed(failed, "failed")
    waits = with_landed(retried, "retry")
    written = ended_well | ended_badly | waits
    earlier = written - completed - failed - retried
    return Group(ended_well, ended_badly, waits, frozenset(ids) - written, earlier)


def fail(ctx: Context, lease_id: UUID, errors: Sequence[Ending]) -> Group:
    """Write errors: those whose class has a try left wait for it, the others end failed. Any kind of work."""
    return complete_group(ctx, lease_id, (), errors)


def release(ctx: Context, lease_id: UUID, claims: Sequence[Claim] | None = None) -> int:
    """Give rows back unharmed (None: all that the lease holds); no try is counted. Answers how many."""
    with ctx.db.transaction() as tx:
        back = returns.release(tx, lease_id=lease_id, claims=claims)
    announce_requeued(ctx, back)
    return len(back)


def cancel_claims(ctx: Context, claims: Sequence[Claim], *, actor: str) -> int:
    """Cancel jobs that a worker holds, at an operator's word. What has ended by now stays as it is."""
    ids: dict[UUID, list[UUID]] = {}
    for claim in claims:
        ids.setdefault(claim.tenant_id, []).append(claim.subject_id)
    with ctx.db.transaction() as tx:
        ended = [row for tenant_id in ids for row in endings.cancel(tx, tenant_id, ids[tenant_id], actor=actor)]
    ctx.bell.ring([row.subject_id for row in ended])
    return len(ended)


def mark_prepared(ctx: Context, lease_id: UUID, claim: Claim, images: Sequence[dict[str, Any]]) -> bool:
    """A job's pictures are normalised: it becomes ready for its model, or ends with an answer that is kept. False when
    the fence refused.

    `images` is the prompt's whole list, each with `normal` = {"sha256", "media_type", "width", "height"}.
    Raises ValueError where one lacks it: a model worker never meets a file that a user sent.
    """
    if not all(image.get("normal") for image in images):
        raise ValueError("every picture of a prepared job needs its normalised form")
    tally = Tally()
    with ctx.db.transaction() as tx:
        fetched = [image for image in images if "url" in image]
        made = [(one["sha256"], one.get("media_type", "")) for one in (*fetched, *(i["normal"] for i in images))]
        record_made(ctx, tx, claim.tenant_id, made)
        asked = jobs.load_prompts(tx, [claim.id]).get(claim.id)
        prompt = {**(asked.prompt if asked else {}), "images": list(images)}
        answered = reusing.take_answer(tx, lease_id, claim, prompt, tally)
        key = reusing.find_key(claim.model, prompt)
        ready = (
            None
            if answered
            else returns.mark_prepared(tx, lease_id=lease_id, claim=claim, images=images, reuse_key=key)
        )
        tally.add(tx)
    holding.hold_back(ctx, tally.stopped)
    if answered:
        ctx.bell.ring([claim.id])
    elif ready is not None:
        announce_requeued(ctx, [ready])
    return answered or ready is not None


def reap(ctx: Context) -> int:
    """End the leases that fell silent and give their rows back; any worker may. Answers how many leases."""
    with ctx.db.transaction() as tx:
        back = leases.reap(tx, ttl_s=ctx.settings.lease_ttl_s, rule=make_loss_rule(ctx))
    announce_requeued(ctx, back.requeued)
    ctx.bell.ring([row.id for row in back.quarantined])
    holding.hold_back(ctx, back.stopped)
    return back.leases


def record_replica(
    ctx: Context,
    replica_id: UUID | None = None,
    *,
    worker: str,
    model: str,
    device: str,
    state: str,
    revision: str = "",
    engine: str = "",
    lease_id: UUID | None = None,
    error: dict[str, Any] | None = None,
    memory_mib: int | None = None,
    verdict: dict[str, Any] | None = None,
    phases: dict[str, float] | None = None,
    versions: dict[str, str] | None = None,
) -> UUID:
    """Write where a replica is: loading, verifying, ready, draining, stopped or failed. None makes a new one.

    `verdict` is what its self-test found, as JSON.
    """
    with ctx.db.transaction() as tx:
        return fleet.save_replica(
            tx,
            replica_id,
            worker=worker,
            model=model,
            device=device,
            state=state,
            revision=revision,
            engine=engine,
            lease_id=lease_id,
            error=error,
            memory_mib=memory_mib,
            verdict=verdict,
            phases=phases,
            versions=versions,
        )
