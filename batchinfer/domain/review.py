"""How right a run was: a random sample of its pages, judged by people, and what that says of all of them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from batchinfer.domain.fields import check_plain, join, read_int, read_object, read_text, read_word, refuse_unknown

DEFAULT_SAMPLE, MAX_SAMPLE = 200, 10_000
MAX_NOTE_CHARS = 4000
#: How a sample is drawn: the pages whose SHA-256 of run and job, as 64 hexadecimal digits, is the smallest.
ALGORITHM = "smallest sha256(run id, job id)"
#: The quantile of the normal distribution for an interval of 95 %.
_Z = 1.959963984540054


class Verdict(StrEnum):
    """What a person says of a page's answer."""

    RIGHT = "right"
    WRONG = "wrong"


@dataclass(frozen=True)
class Sample:
    """How many pages a run's sample has; 0 draws none."""

    size: int = DEFAULT_SAMPLE


@dataclass(frozen=True)
class Judgement:
    """What a person said: None takes an earlier verdict back."""

    verdict: Verdict | None
    note: str | None


@dataclass(frozen=True)
class Review:
    """A page of a sample, with its answer."""

    job_id: UUID
    number: int
    document_id: UUID | None
    name: str | None
    page: int | None
    model: str | None
    text: str | None
    engine: str | None
    prompt: dict[str, Any]
    verdict: Verdict | None
    note: str | None
    actor: str | None
    golden: bool
    judged_at: datetime | None


@dataclass(frozen=True)
class Golden:
    """A page whose right answer is known. `blob` is its picture, a SHA-256."""

    id: UUID
    tenant_id: UUID
    job_id: UUID
    run_id: UUID | None
    model: str
    prompt: dict[str, Any]
    blob: str
    answer: str
    actor: str
    created_at: datetime


@dataclass(frozen=True)
class Accuracy:
    """How many of the judged pages were right, and between which shares of all pages that lies in 95 of 100 samples.

    `population` is of how many pages the sample was drawn; the interval takes that as without end, so that it is a
    little too wide where a large part of them was judged.
    """

    right: int
    judged: int
    sampled: int
    population: int
    share: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {**vars(self), "confidence": 0.95, "method": "wilson", "drawn_by": ALGORITHM}


def parse_sample(value: object, at: str = "sample") -> Sample:
    """From decoded JSON. Raises BadRequest."""
    if value is None:
        return Sample()
    given = read_object(value, at)
    refuse_unknown(given, ("size",), at if at != "body" else "")
    size = given.get("size", DEFAULT_SAMPLE)
    return Sample(read_int(size, join("" if at == "body" else at, "size"), 0, MAX_SAMPLE))


def parse_judgement(body: object) -> Judgement:
    """What is said of a page, from decoded JSON. Raises BadRequest."""
    given = read_object(body, "body")
    refuse_unknown(given, ("verdict", "note"))
    check_plain(given)
    verdict, note = given.get("verdict"), given.get("note")
    return Judgement(
        None if verdict is None else Verdict(read_word(verdict, "verdict", list(Verdict))),
        None if note is None else read_text(note, "note", max_chars=MAX_NOTE_CHARS),
    )


def parse_golden(body: object, most_chars: int) -> str | None:
    """The right answer of a page, from decoded JSON; None takes the one that the page has. Raises BadRequest."""
    given = read_object(body, "body")
    refuse_unknown(given, ("answer",))
    check_plain(given)
    answer = given.get("answer")
    return None if answer is None else read_text(answer, "answer", max_chars=most_chars)


def rank_page(run_id: UUID, job_id: UUID) -> str:
    """The hash by which a page is drawn, as 64 hexadecimal digits: the smallest are the sample."""
    return hashlib.sha256(f"{run_id.hex}{job_id.hex}".encode()).hexdigest()


def may_be_drawn(run_id: UUID, job_id: UUID, *, size: int, ended: int) -> bool:
    """Whether a page may come into the sample of a run of which `ended` pages have an answer so far: its picture is
    worth keeping. The k-th smallest of n even hashes lies near k/n and sinks as n grows, so that all that will be drawn
    is among what is kept (but for one run in thousands), and that is no more than some 2 k (1 + ln(n/k)) pages."""
    return int(rank_page(run_id, job_id)[:16], 16) / 2**64 * max(ended, 1) < (2 * size + 20 if size else 0)


def find_interval(right: int, judged: int) -> tuple[float, float] | None:
    """The score interval of a share, 95 %: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", J. Am. Stat. Assoc. 22 (1927), 209-212; why this one: Brown, Cai and DasGupta, Stat. Sci. 16 (2001)."""
    if not judged:
        return None
    share, squared = right / judged, _Z * _Z
    middle = (share + squared / (2 * judged)) / (1 + squared / judged)
    half = _Z * math.sqrt(share * (1 - share) / judged + squared / (4 * judged * judged)) / (1 + squared / judged)
    return max(0.0, middle - half), min(1.0, middle + half)


def measure_accuracy(*, right: int, judged: int, sampled: int, population: int) -> Accuracy:
    """What the verdicts so far say."""
    bounds = find_interval(right, judged)
    low, high = bounds or (None, None)
    return Accuracy(right, judged, sampled, population, right / judged if judged else None, low, high)
