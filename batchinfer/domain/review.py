"""How right a run was: a random sample of its pages, judged by people, and what that says of all of them."""

from __future__ import annotations

from dataclasses import dataclass

from batchinfer.domain.fields import join, read_int, read_object, refuse_unknown

DEFAULT_SAMPLE, MAX_SAMPLE = 200, 10_000


@dataclass(frozen=True)
class Sample:
    """How many pages a run's sample has; 0 draws none."""

    size: int = DEFAULT_SAMPLE


def parse_sample(value: object, at: str = "sample") -> Sample:
    """From decoded JSON. Raises BadRequest."""
    if value is None:
        return Sample()
    given = read_object(value, at)
    refuse_unknown(given, ("size",), at)
    return Sample(read_int(given.get("size", DEFAULT_SAMPLE), join(at, "size"), 0, MAX_SAMPLE))
