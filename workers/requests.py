"""From a stored prompt to a request of the engine, and from the engine's end to what is stored."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from batchinfer.domain.jobs import Usage
from batchinfer.domain.messages import expand_places
from batchinfer.domain.pipelines import Check
from batchinfer.domain.quality import find_fault, read_quality
from batchinfer.domain.retries import RetryClass, classify_failure
from batchinfer.errors import BadRequest, Failure
from batchinfer.services import work
from batchinfer.store.claims import Claim, Ending, Outcome
from workers.engine.protocol import Done, EngineFailure, Image, Refused, Request, Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from batchinfer.services.work import Work


def build_request(piece: Work) -> Request:
    """The request of a claim. Raises Failure: a picture is gone (`blob_missing`), or the prompt is not one
    of ours (`prompt_unreadable`)."""
    claim, prompt = piece.claim, piece.prompt
    try:
        images = tuple(
            Image(image["normal"]["sha256"], path) for image, path in zip(prompt["images"], piece.paths, strict=True)
        )
        request = Request(
            id=str(claim.id),
            messages=tuple(expand_places(prompt["messages"], prompt["images"])),
            images=images,
            sampling=Sampling(**prompt["sampling"]),
            max_tokens=prompt["max_tokens"],
            stop=tuple(prompt["stop"]),
            response_format=prompt["response_format"],
            job_class=claim.job_class.value,
            deadline=_find_deadline(claim),
            stop_repetition=_stops_loops(prompt),
            evictable=piece.yielded < work.MOST_YIELDS,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Failure("The job's stored prompt cannot be read. Submit it again.", code="prompt_unreadable") from None
    for image in images:
        if not image.path.is_file():
            raise Failure(
                "A picture of this job is no longer in the store. Submit the job again with the file.",
                code="blob_missing",
            )
    return request


def _stops_loops(prompt: Mapping[str, Any]) -> bool:
    quality = read_quality(prompt)
    return quality is not None and Check.REPETITION in quality.checks


def _find_deadline(claim: Claim) -> float | None:
    """The job's deadline on `time.monotonic()`: what was left when it was claimed, both by the database's
    clock."""
    if claim.expires_at is None or claim.leased_at is None:
        return None
    left: timedelta = claim.expires_at - claim.leased_at
    return time.monotonic() + left.total_seconds()


def read_outcome(claim: Claim, done: Done, *, revision: str, engine: str) -> Outcome:
    """A success, as it is stored."""
    usage = done.usage
    return Outcome(
        id=claim.id,
        attempt=claim.attempt,
        text=done.text,
        finish_reason=done.finish,
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            image_tokens=usage.image_tokens,
            cached_tokens=usage.cached_tokens,
            images=usage.images,
        ),
        model=claim.model,
        revision=revision,
        engine=engine,
        timings=dict(done.timings),
        logprobs=None if done.logprobs is None else [dict(entry) for entry in done.logprobs],
    )


def find_wrong_output(piece: Work, request: Request, done: Done) -> Ending | None:
    """The end of a try whose whole answer is not what was asked for: it breaks a check of its run, or is no JSON where
    JSON was wanted. None where nothing is wrong.
    """
    error = find_fault(piece.prompt, done.text, done.finish) or _find_no_json(request, done)
    if error is None:
        return None
    claim = piece.claim
    return Ending(claim.id, claim.attempt, error.as_dict(), RetryClass.MODEL_OUTPUT, timings=dict(done.timings))


def _find_no_json(request: Request, done: Done) -> Failure | None:
    """Engines that constrain their answers never come here; one that was cut, at max_tokens or by a stop, is as
    wanted."""
    wanted = (request.response_format or {}).get("type")
    if done.finish != "stop" or request.stop or wanted not in ("json_object", "json_schema"):
        return None
    try:
        json.loads(done.text)
    except (ValueError, RecursionError):
        return Failure(
            "The model's answer is not the JSON that response_format asks for. Try another prompt or model.",
            code="invalid_output",
        )
    return None


def read_failure(claim: Claim, done: Done) -> Ending:
    """An end with an error, as it is stored."""
    failure = done.error or EngineFailure("engine_failed", "The engine ended the job without a reason.", transient=True)
    return Ending(
        id=claim.id,
        attempt=claim.attempt,
        error=Failure(failure.message, code=failure.code).as_dict(),
        retry=classify_failure(failure.code, transient=failure.transient),
        timings=dict(done.timings),
    )


def read_refusal(claim: Claim, refusal: Refused) -> Ending:
    """What can never run: the request was wrong, and another try would not mend it."""
    error: dict[str, Any] = BadRequest(refusal.message, code=refusal.code).as_dict()
    return Ending(claim.id, claim.attempt, error)
