"""Open arrivals: requests come when they come, whether or not the ones before have been answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.contestants import PATIENCE_S, Served, check_ends
from bench.figures import percentile
from workers.engine.protocol import Done, Request

SHARES = (50, 95, 99)


@dataclass(frozen=True)
class Latencies:
    """Seconds from the moment a request was due to its first token and to its end, and how long the whole took."""

    first_token_s: tuple[float, ...]
    end_s: tuple[float, ...]
    seconds: float

    def percentiles(self) -> dict[str, float]:
        """In seconds, by name."""
        named = (("first_token", self.first_token_s), ("latency", self.end_s))
        return {f"{name}_p{share}_s": percentile(values, share) for name, values in named for share in SHARES}


class _Clock:
    """Notes when each request gave its first text and its end; called on the engine's thread."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._left = len(requests)
        self._lock = threading.Lock()
        self.all_ended = threading.Event()
        self.first: dict[str, float] = {}
        self.end: dict[str, float] = {}

    def on_token(self, request_id: str, _: str) -> None:
        self.first.setdefault(request_id, time.perf_counter())

    def on_done(self, done: Done) -> None:
        self.end[done.id] = time.perf_counter()
        with self._lock:
            self._left -= 1
            if not self._left:
                self.all_ended.set()


def run_arrivals(
    contestant: Served, requests: Sequence[Request], due_s: Sequence[float], warm: Sequence[Request]
) -> Latencies:
    """Send each request when it is due, in seconds from the start, to a fresh engine.

    Times count from when a request was due, not from when it could be sent, so that a slow submitter hides nothing.
    Raises TimeoutError and RuntimeError.
    """
    engine, clock = contestant.open(), _Clock(requests)
    try:
        for handle in [engine.submit(request) for request in warm]:
            handle.result(PATIENCE_S)
        began = time.perf_counter()
        handles = []
        for request, due in zip(requests, due_s, strict=True):
            time.sleep(max(0.0, began + due - time.perf_counter()))
            handles.append(engine.submit(request, clock.on_done, clock.on_token))
        if not clock.all_ended.wait(PATIENCE_S):
            raise TimeoutError("requests with open arrivals did not all end.")
        seconds = time.perf_counter() - began
        check_ends([handle.result(PATIENCE_S) for handle in handles])
    finally:
        engine.close()
    due_at = {request.id: began + due for request, due in zip(requests, due_s, strict=True)}
    # An answer whose text only became complete at its end has its first token there.
    first = tuple(clock.first.get(name, clock.end[name]) - at for name, at in due_at.items())
    return Latencies(first, tuple(clock.end[name] - at for name, at in due_at.items()), seconds)
