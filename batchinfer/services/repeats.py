"""A user's verbs for jobs that have ended: do one again, and delete one with its bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchinfer.domain.bulk_acts import REPEATABLE
from batchinfer.domain.ids import JOB, new_id, show_id
from batchinfer.domain.jobs import TERMINAL, JobState
from batchinfer.domain.quality import begin_again, needs_drawing
from batchinfer.errors import Conflict
from batchinfer.services import models
from batchinfer.services.jobs import find_own, make_missing, require_job, suspect_again
from batchinfer.services.quotas import admit
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.services.reusing import store_jobs
from batchinfer.services.sweeping import ERASE_WAIT_S
from batchinfer.store import files, jobs, queue, repeats
from batchinfer.store.claims import INFER, PREPARE
from batchinfer.store.events import Event, record
from batchinfer.store.minutes import Tally
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from batchinfer.domain.jobs import Job
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.repeats import Held
    from batchinfer.store.session import Transaction


def retry_job(ctx: Context, caller: Caller, job_id: UUID, idempotency: Idempotency | None = None) -> tuple[Job, bool]:
    """Do a job that ended without a result again, as a new job that names it. Answers that, and whether it is a replay.

    Raises NotFound, Conflict (codes job_not_repeatable, job_retried, job_files_gone), KeyReused, Busy (a quota).
    """
    caller.require("submit")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return find_own(ctx, caller, found.resource_id), True
    new = new_id()
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "job", new)
            tally = Tally()
            repeat_held(ctx, tx, caller, hold_repeatable(tx, caller, job_id), new, tally)
            tally.add(tx)
            job = require_job(jobs.find_job(tx, caller.tenant_id, new))
    except Replayed as replay:
        return find_own(ctx, caller, replay.found.resource_id), True
    announce_new(ctx, job)
    return job, False


def announce_new(ctx: Context, job: Job) -> None:
    """Say that a job was made, once its transaction has ended."""
    if job.state in TERMINAL:
        ctx.bell.ring([job.id])
    elif job.state is JobState.PREPARING:
        ctx.announcer.announce_cpu([job.id])
    else:
        ctx.announcer.announce(job.model, job.job_class, [job.id])


def hold_repeatable(tx: Transaction, caller: Caller, job_id: UUID) -> Held:
    """Lock a job that can be done again. Raises NotFound, Conflict (codes job_not_repeatable, job_retried)."""
    held = _hold(tx, caller, job_id)
    _check(held)
    return held


def repeat_held(
    ctx: Context, tx: Transaction, caller: Caller, held: Held, new: UUID, tally: Tally, *, number: int = 1
) -> None:
    """Do a held job again as the job `new`, the `number`th that this transaction makes. The caller adds the tally.

    Raises NotFound (the model has gone), Busy, TooLarge (a quota), Conflict (code job_files_gone), each before anything
    of the new job is written.
    """
    held = replace(held, prompt=begin_again(held.prompt))
    models.require_model(tx, held.model)
    admit(ctx, tx, caller.tenant_id, number)
    images = _keep_files(ctx, tx, caller, held)
    expires_at = read_now(tx) + held.lifetime if held.lifetime else None
    prompt = {name: value for name, value in held.prompt.items() if name != "channel"} | {"images": images}
    job = jobs.NewJob(
        new, caller.tenant_id, held.model, held.job_class, prompt, held.metadata, expires_at, key_id=caller.key_id,
        origin_id=held.id,
    )  # fmt: skip
    ended = store_jobs(tx, [job], tally)
    kind = INFER if all(image.get("normal") for image in images) else PREPARE
    suspected = suspect_again(ctx) if held.state is JobState.QUARANTINED else 0
    entry = queue.Entry(new, kind, caller.tenant_id, held.model, held.job_class, expires_at, suspected)
    queue.enqueue(tx, [] if ended else [entry])
    repeats.mark_repeated(tx, held.id, new)
    record(tx, [Event(caller.tenant_id, "job", held.id, "retried", caller.actor, {"job": show_id(JOB, new)})])
    tally.count(caller.tenant_id, held.model, submitted=1)


def _hold(tx: Transaction, caller: Caller, job_id: UUID) -> Held:
    held = repeats.hold_job(tx, caller.tenant_id, job_id)
    if held is None:
        raise make_missing()
    return held


def _check(held: Held) -> None:
    if held.state not in REPEATABLE:
        raise Conflict(
            f"Job {show_id(JOB, held.id)} {_say(held)}. Only a job that failed, expired, was cancelled or was "
            "quarantined can be tried again.",
            code="job_not_repeatable",
        )
    if held.retry_id is not None:
        raise Conflict(
            f"Job {show_id(JOB, held.id)} was tried again as {show_id(JOB, held.retry_id)}. Look at that one, and "
            "where it ended badly, try that one again.",
            code="job_retried",
        )


def _say(held: Held) -> str:
    return "has not ended" if held.state is None else f"ended as {held.state}"


def _keep_files(ctx: Context, tx: Transaction, caller: Caller, held: Held) -> list[dict[str, Any]]:
    """Hold on to a job's pictures until this transaction refers to them too. A page of a document whose picture was let
    go of is to be drawn again. Answers the prompt's images. Raises Conflict where others are gone."""
    images = held.prompt.get("images", [])
    found = {
        name: files.find_blob(tx, caller.tenant_id, name) for image in images for name in files.list_names(image)
    }  # fmt: skip
    files.record_blobs(tx, caller.tenant_id, [blob for blob in found.values() if blob])
    there = {name for name, blob in found.items() if blob and ctx.blobs.exists(caller.tenant_id, name)}
    return [image if _is_there(image, there) else _draw_again(image, held) for image in images]


def _is_there(image: Mapping[str, Any], there: set[str]) -> bool:
    """Whether the picture that the model is to see, or what it is made of, is there; an address has nothing yet."""
    needed = next(iter(files.list_names({**image, "thumbnail": None})), None)
    return needed in there or (needed is None and not needs_drawing(image))


def _draw_again(image: Mapping[str, Any], held: Held) -> dict[str, Any]:
    again = {name: value for name, value in image.items() if name not in ("sha256", "media_type")} | {"normal": None}
    if needs_drawing(again):
        return again
    raise Conflict(
        f"The files of job {show_id(JOB, held.id)} are gone. Submit it anew with its files.", code="job_files_gone"
    )


def delete_job(ctx: Context, caller: Caller, job_id: UUID) -> None:
    """Delete an ended job: its prompt, its result and what its tries said, at once; its files within minutes, where
    nothing else refers to them. What it counted in usage stays.

    Raises NotFound, Conflict (code job_not_ended) for one that has not ended, or whose batch has not.
    """
    caller.require("cancel")
    with ctx.db.transaction() as tx:
        delete_in(tx, caller, job_id)


def delete_in(tx: Transaction, caller: Caller, job_id: UUID) -> None:
    """The same within a transaction. What it raises, it raises before anything is written."""
    held = _hold(tx, caller, job_id)
    if held.state is None or held.awaited:
        what = "is a line of a batch that has not ended" if held.awaited else "has not ended"
        raise Conflict(
            f"Job {show_id(JOB, job_id)} {what}. Cancel it, or wait for its end, and delete it then.",
            code="job_not_ended",
        )
    repeats.forget_job(tx, caller.tenant_id, job_id, wait_s=ERASE_WAIT_S)
    record(tx, [Event(caller.tenant_id, "job", job_id, "deleted", caller.actor)])
