"""Where the time of a job went: stages that add up to the time from its submission to its end, or to now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from batchinfer.domain.jobs import Attempt

#: In the order in which a try goes through them. `storing` is what is left of a try that said how long the others took:
#: handing over and the commit. `other` is a try that said nothing: it was lost, given back, cancelled or is under way.
STAGES = ("waiting", "preparing", "prefill", "decoding", "storing", "other")
_OF_A_TRY = STAGES[:4]


@dataclass(frozen=True)
class Span:
    """A stretch of time. `kind` is waiting, or what was tried (prepare, infer); `try_` is the try, where it has ended.

    `stages` are seconds by stage and add up to its length.
    """

    kind: str
    started_at: datetime
    #: None: it goes on.
    finished_at: datetime | None
    stages: dict[str, float]
    try_: Attempt | None = None


@dataclass(frozen=True)
class Timeline:
    """The spans of a job without gaps, oldest first, and their stages added up."""

    spans: list[Span]
    stages: dict[str, float]
    total_s: float
    trace_id: str | None = None


def build_timeline(
    created_at: datetime,
    tries: Sequence[Attempt],
    *,
    ended_at: datetime | None,
    now: datetime,
    held: tuple[str, datetime] | None = None,
    trace_id: str | None = None,
) -> Timeline:
    """Lay the ended tries of a job out between its submission and its end.

    `held` is the kind of the try that is under way and when it began; `now` is the time of the database, which all of
    these were taken from.
    """
    spans: list[Span] = []
    reached, last = created_at, max(ended_at or now, created_at)
    for ended in tries:
        begun = min(max(ended.started_at or ended.finished_at, reached), last)
        over = min(max(ended.finished_at, begun), last)
        spans += _wait(reached, begun)
        spans.append(Span(ended.kind, begun, over, _split(ended, (over - begun).total_seconds()), ended))
        reached = over
    if ended_at is not None:
        spans += _wait(reached, last)
    elif held is not None:
        kind, begun = held[0], min(max(held[1], reached), last)
        spans += _wait(reached, begun)
        spans.append(Span(kind, begun, None, {"other": (last - begun).total_seconds()}))
    else:
        spans.append(Span("waiting", reached, None, {"waiting": (last - reached).total_seconds()}))
    stages = {stage: sum(span.stages.get(stage, 0.0) for span in spans) for stage in STAGES}
    return Timeline(spans, stages, (last - created_at).total_seconds(), trace_id)


def _wait(since: datetime, until: datetime) -> list[Span]:
    seconds = (until - since).total_seconds()
    return [Span("waiting", since, until, {"waiting": seconds})] if seconds > 0 else []


def _split(ended: Attempt, length_s: float) -> dict[str, float]:
    """What a try says of its stages, never more together than it took: its worker's clock may run faster."""
    if ended.kind == "prepare":
        return {"preparing": length_s}
    said = _read_stages(ended.timings or {})
    total_s = sum(said.values())
    if not total_s:
        return {"storing" if ended.outcome == "succeeded" else "other": length_s}
    fit = min(1.0, length_s / total_s)
    return {stage: seconds * fit for stage, seconds in said.items()} | {"storing": max(0.0, length_s - total_s)}


def _read_stages(timings: Mapping[str, Any]) -> dict[str, float]:
    return {stage: float(timings[stage]) for stage in _OF_A_TRY if timings.get(stage, 0.0) > 0}
