"""What the contestants are asked: the same for all, decided by seeds. Pictures are sample pages, made small."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Resampling

from batchinfer.samples import draw_page
from bench.wording import QUESTIONS, RULES
from workers.engine.protocol import Image, Request

#: Tokens of every answer of the uniform workload, and the mean of the ragged one before its cut.
TOKENS = 32
#: The longest ragged answer, and the spread of the logarithm of their lengths.
LONGEST, _SPREAD = 128, 0.8


@dataclass(frozen=True)
class Workload:
    """Requests in the order in which they come; the answer to each has exactly `max_tokens` tokens."""

    name: str
    about: str
    requests: tuple[Request, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(request.max_tokens for request in self.requests)


@dataclass(frozen=True)
class Studio:
    """Draws distinct pictures into a folder; `sides` are the lengths, in pixels, that they may have."""

    folder: Path
    sides: tuple[int, ...]
    #: Added to every number: another one gives other pictures to the same requests.
    first: int = 0

    def draw(self, number: int) -> Image:
        """The picture of a number, the same every time."""
        number += self.first
        rng = random.Random(f"picture/{number}")
        size = (rng.choice(self.sides), rng.choice(self.sides))
        path = self.folder / f"{number}.png"
        if not path.is_file():
            draw_page(number).image.convert("RGB").resize(size, Resampling.BILINEAR).save(path)
        return Image(hashlib.sha256(path.read_bytes()).hexdigest(), path)


def draw_lengths(count: int, seed: int = 0) -> list[int]:
    """Log-normal lengths with mean `TOKENS`, at least 1 and cut at `LONGEST`, in tokens."""
    rng = random.Random(f"lengths/{seed}")
    # The mean of a log-normal is exp(mu + sigma^2 / 2).
    middle = math.log(TOKENS) - _SPREAD**2 / 2
    return [min(LONGEST, max(1, round(rng.lognormvariate(middle, _SPREAD)))) for _ in range(count)]


def draw_arrivals(count: int, rate: float, seed: int = 0) -> list[float]:
    """Seconds from the start at which requests of a Poisson process come, `rate` a second."""
    rng, now, found = random.Random(f"arrivals/{seed}"), 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        found.append(now)
    return found


def uniform(studio: Studio, count: int) -> Workload:
    """Every answer has the same length."""
    return Workload("uniform", f"every answer {TOKENS} tokens", _compose("uniform", studio, [TOKENS] * count))


def ragged(studio: Studio, count: int, name: str = "ragged") -> Workload:
    """Answers of very different lengths, as documents have them; `name` begins the ids of the requests."""
    lengths = draw_lengths(count)
    mean = sum(lengths) / max(1, count)
    about = f"log-normal lengths, mean {mean:.1f} tokens here, longest {max(lengths, default=0)}"
    return Workload(name, about, _compose(name, studio, lengths))


def shared(studio: Studio, count: int) -> Workload:
    """One long system text before distinct pictures."""
    about = f"one system text of {len(' '.join(RULES))} characters, then distinct pictures; {TOKENS} tokens each"
    return Workload("shared", about, _compose("shared", studio, [TOKENS] * count, " ".join(RULES)))


#: What throughput is measured on, by name.
KINDS = {"uniform": uniform, "ragged": ragged, "shared": shared}


def warm_up(studio: Studio, count: int) -> tuple[Request, ...]:
    """Requests whose texts and pictures no workload has."""
    return tuple(_ask(f"warm-{n}", studio.draw(900_000 + n), f"Is this page number {n}?", 4) for n in range(count))


def single(studio: Studio, number: int, tokens: int) -> Request:
    """The request of a number, for runs too long to be drawn beforehand."""
    return _ask(f"single-{number}", studio.draw(number), QUESTIONS[number % len(QUESTIONS)], tokens)


def _compose(name: str, studio: Studio, lengths: Sequence[int], system: str | None = None) -> tuple[Request, ...]:
    rng = random.Random(f"questions/{name}")
    return tuple(
        _ask(f"{name}-{number}", studio.draw(number), rng.choice(QUESTIONS), tokens, system)
        for number, tokens in enumerate(lengths)
    )


def _ask(request_id: str, picture: Image, text: str, tokens: int, system: str | None = None) -> Request:
    user = {"role": "user", "content": [{"type": "image", "index": 0}, {"type": "text", "text": text}]}
    before = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return Request(request_id, (*before, user), (picture,), max_tokens=tokens)
