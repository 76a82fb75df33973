"""Resident memory over a long run of distinct requests, some of them cancelled."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.contestants import PATIENCE_S
from bench.machine import read_resident_mib
from workers.engine.protocol import Engine, Handle, Request

#: Measurements taken over a run, and the share of requests that are cancelled.
SAMPLES, _CANCELLED = 20, 0.05


def run_long(engine: Engine, ask: Callable[[int], Request], count: int, slots: int) -> dict[str, Any]:
    """Feed `ask(0)` to `ask(count - 1)` and note the memory that the process holds.

    `growth_mib` is the last of the measurements less the one after a fifth of the run, by when slots and caches of the
    sizes given to the engine are filled. Raises TimeoutError where a request does not end, RuntimeError for an error.
    """
    places, rng = threading.Semaphore(2 * slots), random.Random("cancels")
    began, samples, handles = time.perf_counter(), [], list[Handle]()
    ended = {"answered": 0, "cancelled": 0}
    every = max(1, count // SAMPLES)
    for number in range(count):
        places.acquire()
        handles.append(engine.submit(ask(number), on_done=lambda _: places.release()))
        if rng.random() < _CANCELLED:
            engine.cancel(rng.choice(handles[-2 * slots :]).id)
        if (number + 1) % every == 0:
            _count_ends(handles[: -2 * slots], ended)
            del handles[: -2 * slots]
            samples.append(round(read_resident_mib(), 1))
    _count_ends(handles, ended)
    samples.append(round(read_resident_mib(), 1))
    return {
        "requests": count,
        "ended": ended,
        "seconds": round(time.perf_counter() - began, 1),
        "resident_mib": samples,
        "growth_mib": round(samples[-1] - samples[len(samples) // 5], 1),
    }


def _count_ends(handles: list[Handle], ended: dict[str, int]) -> None:
    for handle in handles:
        done = handle.result(PATIENCE_S)
        if done.finish not in ("length", "stop", "cancelled"):
            raise RuntimeError(f"request {done.id} ended as {done.finish}.")
        ended["cancelled" if done.finish == "cancelled" else "answered"] += 1
