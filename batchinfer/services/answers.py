"""A user who waits: the job's answer once it is there, or piece by piece while it is made.

The work under it is a durable job like any other; who stops waiting loses nothing but the wait.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from batchinfer.domain.ids import JOB, new_id, show_id
from batchinfer.domain.jobs import TERMINAL, Job, JobState
from batchinfer.errors import BadRequest, BatchinferError, Conflict, Internal, Overrun, Unavailable
from batchinfer.services import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from uuid import UUID

    from batchinfer.bus.tokens import Ear
    from batchinfer.domain.prompts import JobRequest
    from batchinfer.services.context import Caller, Context, Idempotency

#: Who waits looks this often by himself, should the bell be lost; and whether anybody still listens to him.
_LOOK_S = 1.0
#: After a piece the end is often near, and its bell may have rung together with the piece.
_SOON_S = 0.15
#: A stream says something this often, if only that it lives.
KEEP_ALIVE_S = 10.0


def submit(
    ctx: Context, caller: Caller, request: JobRequest, idempotency: Idempotency | None = None
) -> tuple[Job, bool]:
    """Store a request whose files are all part of one prompt. Answers the job, and whether it is a replay.

    Raises what jobs.submit raises; Forbidden beforehand where the key may not read what it asks for.
    """
    caller.require("read")
    made, replayed = jobs.submit(ctx, caller, request, idempotency)
    if not isinstance(made, Job):
        raise Internal("The request became a document. The log of the web server says more.")
    return made, replayed


def wait_for_answer(
    ctx: Context, caller: Caller, job_id: UUID, wait_s: float, wanted: Callable[[], bool] = lambda: True
) -> Job:
    """The job once it has succeeded. Raises what `require_answer` does, and Overrun after `wait_s` seconds, or as soon
    as `wanted` says that nobody listens any more. A database that is away for a while is waited for."""
    deadline = time.monotonic() + wait_s
    with ctx.bell.listening(job_id) as rung:
        while True:
            rung.clear()
            job = _look(ctx, caller, job_id)
            if job is not None and job.state in TERMINAL:
                return require_answer(job)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not wanted():
                raise _overrun(job_id, wait_s)
            rung.wait(min(_LOOK_S, left_s))


@contextmanager
def listening(ctx: Context, request: JobRequest) -> Iterator[tuple[JobRequest, Ear]]:
    """The request with a channel on which its worker tells the answer, and what is heard there from now on.

    Entered before the job is submitted, so that no piece is missed.
    """
    channel = new_id().hex
    with ctx.tokens.listening(channel) as ear:
        yield replace(request, channel=channel), ear


def follow_answer(
    ctx: Context, caller: Caller, job_id: UUID, wait_s: float, ear: Ear
) -> Generator[str | None, None, Job]:
    """Pieces of the answer as they come, None as a sign of life; returns the job that succeeded.

    What was not heard comes as the last piece, from Postgres. Raises as `wait_for_answer`, and Internal (code
    stream_diverged) where another try made an answer that does not begin with what was told already.
    """
    deadline, said_at, sent = time.monotonic() + wait_s, time.monotonic(), ""
    with ctx.bell.listening(job_id) as rung:
        ear.on_piece = rung.set
        while True:
            rung.clear()
            if piece := ear.find_more(sent):
                sent, said_at = sent + piece, time.monotonic()
                yield piece
            else:
                job = _look(ctx, caller, job_id)
                if job is not None and job.state in TERMINAL:
                    break
            if time.monotonic() > deadline:
                raise _overrun(job_id, wait_s)
            if time.monotonic() - said_at > KEEP_ALIVE_S:
                said_at = time.monotonic()
                yield None
            rung.wait(_SOON_S if piece else _LOOK_S)
    text = (require_answer(job).result or {})["text"]
    if not text.startswith(sent):
        raise _about(job_id, Internal(_DIVERGED, code="stream_diverged"))
    if text != sent:
        yield text[len(sent) :]
    return job


_DIVERGED = (
    "The job was begun again, and its answer is another one than was being told. GET /v1/jobs/{id} has the whole of it."
)


def require_answer(job: Job) -> Job:
    """The job if it succeeded. Raises for one that ended otherwise, with its own code and sentence and its id:
    BadRequest where the request was wrong, Conflict where it was cancelled, Overrun where it expired, else Internal."""
    if job.state is JobState.SUCCEEDED:
        return job
    error = job.error or {}
    if job.state is JobState.CANCELLED:
        raise _about(job.id, Conflict("The job was cancelled before it had an answer.", code="job_cancelled"))
    said, code, param = error.get("message", "The job failed."), error.get("code", "failed"), error.get("param")
    if job.state is JobState.EXPIRED:
        raise _about(job.id, Overrun(said, code=code))
    kind = BadRequest if error.get("type") == BadRequest.kind else Internal
    raise _about(job.id, kind(said, code=code, param=param))


def _look(ctx: Context, caller: Caller, job_id: UUID) -> Job | None:
    """The job, or None while the database does not answer: an error would make the client submit it anew."""
    try:
        return jobs.get_job(ctx, caller, job_id)
    except Unavailable:
        return None


def _overrun(job_id: UUID, wait_s: float) -> BatchinferError:
    shown = show_id(JOB, job_id)
    return _about(
        job_id,
        Overrun(f"No answer within {wait_s:.0f} s. The job goes on: GET /v1/jobs/{shown} has its answer later."),
    )


def _about(job_id: UUID, error: BatchinferError) -> BatchinferError:
    error.job_id = show_id(JOB, job_id)
    return error
