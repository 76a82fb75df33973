"""Clients that never give up: each submission has an idempotency key and is sent until it is acknowledged."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.demo.files import File
from batchinfer.demo.ledger import Submission
from bench.chaos.calls import ANSWER_S, Answer, Caller, text_body

if TYPE_CHECKING:
    from collections.abc import Callable

ACCEPTED, UNAVAILABLE, TOO_MANY = 202, 503, 429


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    #: Of the answers that came, in seconds.
    seconds: list[float] = field(default_factory=list)
    #: Answers that must not be: a status that is none of 202, 429, 503; a 503 without Retry-After.
    wrong: list[str] = field(default_factory=list)
    replays: int = 0


class Load:
    """`total` submissions from `threads` clients, at most `rate_per_s` (0: as fast as they are taken).

    `make` gives the body of a submission's number and key; left out, jobs of text of 1 to 20 steps.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        total: int,
        *,
        make: Callable[[int, str], dict[str, Any]] | None = None,
        threads: int = 4,
        rate_per_s: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.url, self.api_key, self.total = url, api_key, total
        self.acks: dict[str, Submission] = {}
        self.tally = Tally()
        self._make = make or make_text(seed)
        self._name = f"{seed}-{random.SystemRandom().getrandbits(32):08x}"
        self._numbers = itertools.count()
        self._pause_s = threads / rate_per_s if rate_per_s else 0.0
        self._lock = threading.Lock()
        self._enough, self._quit = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._run, name="load", daemon=True) for _ in range(threads)]

    def start(self) -> Load:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    @property
    def done(self) -> bool:
        """Whether every submission is acknowledged, or the clients were stopped."""
        return not any(thread.is_alive() for thread in self._threads)

    def finish(self) -> None:
        """Submit nothing new; what was begun goes on until it is acknowledged."""
        self._enough.set()

    def stop(self) -> None:
        """Submit nothing new and give up on what is not acknowledged."""
        self._quit.set()
        for thread in self._threads:
            thread.join(ANSWER_S + 5)

    def ids(self) -> list[str]:
        """Ids of what is acknowledged, as the API shows them."""
        with self._lock:
            return [submission.id for submission in self.acks.values()]

    def percentile(self, part: float) -> float:
        """Seconds within which this part of the answers came."""
        found = sorted(self.tally.seconds)
        return found[min(len(found) - 1, int(part * len(found)))] if found else 0.0

    def _run(self) -> None:
        caller = Caller(self.url, self.api_key)
        while (number := next(self._numbers)) < self.total and not (self._enough.is_set() or self._quit.is_set()):
            started = time.monotonic()
            key = f"{self._name}-{number}"
            self._insist(caller, key, self._make(number, key))
            self._quit.wait(max(0.0, self._pause_s - (time.monotonic() - started)))
        caller.close()

    def _insist(self, caller: Caller, key: str, body: dict[str, Any]) -> None:
        pause_s = 0.05
        while not self._quit.is_set():
            answer = caller.submit(key, body)
            self._note(key, answer)
            if answer.status == ACCEPTED:
                return
            self._quit.wait(random.uniform(pause_s / 2, pause_s))
            pause_s = min(1.0, pause_s * 2)

    def _note(self, key: str, answer: Answer) -> None:
        with self._lock:
            tally = self.tally
            tally.statuses[answer.status] += 1
            if answer.status:
                tally.seconds.append(answer.seconds)
            if answer.status == ACCEPTED:
                tally.replays += answer.headers.get("Idempotency-Replayed") == "true"
                document = answer.body["object"] == "document"
                file = File(Path(key), "application/pdf" if document else "image/png")
                self.acks[key] = Submission(file, answer.body)
            elif answer.status == UNAVAILABLE and "Retry-After" not in answer.headers:
                tally.wrong.append("503 without Retry-After")
            elif answer.status not in {0, UNAVAILABLE, TOO_MANY, 409}:
                with suppress(KeyError):
                    tally.wrong.append(f"{answer.status} {answer.body['error']['code']}")


def make_text(seed: int, most_steps: int = 20) -> Callable[[int, str], dict[str, Any]]:
    """Jobs of text that take 1 to `most_steps` steps."""

    def make(number: int, key: str) -> dict[str, Any]:
        steps = random.Random(f"{seed} {number}").randint(1, most_steps)
        return text_body(f"[[steps:{steps}]] {key}", key)

    return make
