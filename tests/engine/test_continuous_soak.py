"""Ten thousand requests with random cancels, deadlines and failures: each ends exactly once, and memory stays flat."""

from __future__ import annotations

import collections
import gc
import importlib
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.engine.engine import TransformersEngine
from workers.engine.features import Budgets
from workers.engine.protocol import Done, Request, Sampling
from workers.engine.scheduler import LengthClass

sys.path.insert(0, str(Path(__file__).parent))
families: Any = importlib.import_module("families")

PATIENCE_S = 240.0
MIB = 2**20
#: What the process may grow by between the 2,000th request and the last: the allocator's play, not a leak per request.
GROWTH_MIB = 48


def resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


class Soak:
    """Feeds an engine, cancels at random, and counts what comes back."""

    def __init__(self, engine: TransformersEngine, seed: int) -> None:
        self.engine, self.dice = engine, random.Random(seed)
        self.ends: collections.Counter[str] = collections.Counter()
        self.finishes: collections.Counter[str] = collections.Counter()
        self.room = threading.Semaphore(engine.capacity().requests)
        self.handles: list[Any] = []

    def on_done(self, done: Done) -> None:
        self.ends[done.id] += 1
        self.finishes[done.error.code if done.error else done.finish] += 1
        self.room.release()

    def draw(self, number: int) -> Request:
        dice = self.dice
        ids = [*range(20, 20 + dice.choice([0, 64])), *(dice.randrange(20, 300) for _ in range(dice.randrange(1, 12)))]
        images = tuple(f"picture {dice.randrange(400)}" for _ in range(dice.choice([0, 1, 1, 2])))
        sampling = Sampling(temperature=1.0, seed=number, logprobs=True) if number % 5 == 0 else Sampling()
        deadline = time.monotonic() + dice.random() * 0.05 if number % 50 == 0 else None
        return families.new_request(  # type: ignore[no-any-return]
            str(number), ids, images, before=1, max_tokens=dice.randrange(1, 9), sampling=sampling, deadline=deadline
        )

    def feed(self, numbers: Sequence[int]) -> None:
        recent: collections.deque[str] = collections.deque(maxlen=64)
        for number in numbers:
            assert self.room.acquire(timeout=PATIENCE_S)
            self.handles.append(self.engine.submit(self.draw(number), self.on_done))
            recent.append(str(number))
            if self.dice.random() < 0.2:
                self.engine.cancel(self.dice.choice(recent))
        for handle in self.handles:
            handle.result(PATIENCE_S)
        self.handles.clear()


def fail_at_random(dice: random.Random) -> Any:
    def fault(_: str, ids: Sequence[str]) -> None:
        if dice.random() < 0.002:
            raise torch.OutOfMemoryError("now and then")
        if any(int(request_id) % 997 == 5 for request_id in ids):
            raise ValueError("this one always fails")

    return fault


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_thousand_requests() -> None:
    loaded = families.load_family("qwen3_vl")
    engine = TransformersEngine(
        loaded,
        classes=[LengthClass(8, 128), LengthClass(8, 256)],
        budgets=Budgets(encoder_cache_bytes=MIB, prefix_cache_bytes=MIB),
        faults=fail_at_random(random.Random(2)),
    )
    soak = Soak(engine, seed=1)
    soak.feed(range(2_000))
    before = resident_mib()
    soak.feed(range(2_000, 10_000))
    after = resident_mib()
    stats = engine.stats()
    engine.close()
    assert len(soak.ends) == 10_000
    assert set(soak.ends.values()) == {1}, "each ended exactly once"
    assert stats.ended == 10_000
    assert (stats.running, stats.waiting) == (0, 0)
    assert soak.finishes["length"] > 7_000
    assert soak.finishes["cancelled"] > 200
    assert soak.finishes["generation_failed"] >= 8
    assert set(soak.finishes) <= {"length", "cancelled", "expired", "generation_failed", "out_of_memory"}
    assert after - before < GROWTH_MIB, f"{after - before:.0f} MiB more"
