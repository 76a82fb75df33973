"""A job's time as a waterfall, a row a stage, and its way through the state machine; numbers for inline SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.jobs import TERMINAL, JobState
from batchinfer.domain.timelines import STAGES

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.domain.jobs import Job
    from batchinfer.domain.timelines import Span, Timeline

#: Rows of a job that was tried often: the first ones are left out.
MOST_ROWS = 24


@dataclass(frozen=True)
class Row:
    """A stage of one stretch. Times in seconds since the submission; `x` and `width` are thousandths of the whole."""

    stage: str
    #: The try that it belongs to; None for waiting.
    attempt: int | None
    begin_s: float
    seconds: float
    x: float
    width: float
    #: Tokens a second, where the stage reads or writes tokens and their number is known.
    tokens_per_s: float | None
    open: bool


@dataclass(frozen=True)
class Station:
    """A state on the way: how often it was entered, the seconds in it, and when first. `mark`: was, is or not."""

    state: str
    mark: str
    times: int
    seconds: float
    entered_at: datetime | None


def draw_rows(timeline: Timeline, usage: dict[str, Any] | None) -> list[Row]:
    """The rows in the order in which they happened. Tokens are those of the answer: they belong to the last try."""
    whole = timeline.total_s
    begun = timeline.spans[0].started_at if timeline.spans else None
    last = max((place for place, span in enumerate(timeline.spans) if span.kind == "infer"), default=-1)
    rows: list[Row] = []
    for place, span in enumerate(timeline.spans):
        at_s = (span.started_at - begun).total_seconds() if begun else 0.0
        for stage in STAGES:
            seconds = span.stages.get(stage)
            if seconds is None or (seconds <= 0 and span.finished_at is not None):
                continue
            rate = _find_rate(stage, seconds, usage) if place == last else None
            number = span.try_.number if span.try_ else None
            x, width = (1000 * at_s / whole, 1000 * seconds / whole) if whole else (0.0, 0.0)
            # A sliver is still to be seen.
            shown = max(2.5, width)
            row = Row(stage, number, at_s, seconds, round(min(x, 1000 - shown), 2), round(shown, 2), rate,
                      span.finished_at is None)  # fmt: skip
            rows.append(row)
            at_s += seconds
    return rows[-MOST_ROWS:]


def _find_rate(stage: str, seconds: float, usage: dict[str, Any] | None) -> float | None:
    name = {"prefill": "prompt_tokens", "decoding": "completion_tokens"}.get(stage)
    tokens = (usage or {}).get(name) if name else None
    return tokens / seconds if isinstance(tokens, int) and tokens and seconds > 0 else None


def draw_way(job: Job, timeline: Timeline) -> list[Station]:
    """The states of a job's way, in the order of the state machine, the end last."""
    spent: dict[str, list[Span]] = {}
    for place, span in enumerate(timeline.spans):
        spent.setdefault(_name_state(job, timeline.spans, place), []).append(span)
    path = [JobState.PREPARING.value] if job.prompt.get("images") or "preparing" in spent else []
    path += [JobState.QUEUED.value, JobState.RUNNING.value]
    stations = [_draw(state, spent.get(state, []), job) for state in path]
    ended = job.state in TERMINAL
    end = job.state.value if ended else JobState.SUCCEEDED.value
    return [*stations, Station(end, "is" if ended else "not", int(ended), 0.0, job.finished_at)]


def _draw(state: str, spans: list[Span], job: Job) -> Station:
    mark = "is" if job.state.value == state else "was" if spans else "not"
    seconds = sum(sum(span.stages.values()) for span in spans)
    entries = sum(span.kind != "waiting" for span in spans) or int(bool(spans))
    return Station(state, mark, entries, seconds, spans[0].started_at if spans else None)


def _name_state(job: Job, spans: list[Span], place: int) -> str:
    """The state in which a stretch was spent: one of waiting belongs to what was tried next, the last to the job."""
    if job.state not in TERMINAL and place == len(spans) - 1:
        return job.state.value
    kind = next((span.kind for span in spans[place:] if span.kind != "waiting"), None)
    if kind == "infer":
        return JobState.RUNNING.value if spans[place].kind == "infer" else JobState.QUEUED.value
    unprepared = any(not image.get("normal") for image in job.prompt.get("images") or [])
    return JobState.PREPARING.value if kind == "prepare" or unprepared else JobState.QUEUED.value
