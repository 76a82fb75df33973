"""How often a key asks: counted in Redis for all web processes together, and in this one while Redis is away.

Two counters a minute make a sliding window: what came in the minute before counts with the share of it that still lies
within the last sixty seconds. No script runs in Redis, and nothing is kept there longer than two minutes.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from batchinfer.bus.breaker import Breaker
from batchinfer.observe.logs import get_logger

if TYPE_CHECKING:
    from redis import Redis

_log = get_logger(__name__)
WINDOW_S = 60
#: Names counted in this process; above it those that are quiet are dropped.
_MOST_NAMES = 10_000


@dataclass(frozen=True)
class Taken:
    """What one more request met: whether it is within the limit, how many more are, and the seconds until one fits
    again (0 where it did) and until all do."""

    allowed: bool
    limit: int
    remaining: int
    wait_s: float
    reset_s: float


class RateMeter:
    """Counts requests by name. Safe for threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._breaker = Breaker()
        self._local = _LocalCounts()

    def take(self, name: str, limit: int) -> Taken:
        """Count one request of `name`, of which `limit` may come in a minute. One that is refused does not count."""
        now = time.time()
        minute, elapsed = int(now // WINDOW_S), now % WINDOW_S / WINDOW_S
        before, during = self._count(name, minute)
        taken = judge(limit, before, during, elapsed)
        if not taken.allowed:
            self._give_back(name, minute)
        return taken

    def _count(self, name: str, minute: int) -> tuple[int, int]:
        local = self._local.count(name, minute)
        if not self._breaker.try_enter():
            return local
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.incr(_key(name, minute))
                pipe.expire(_key(name, minute), 2 * WINDOW_S)
                pipe.get(_key(name, minute - 1))
                during, _, before = pipe.execute()
        except RedisError:
            if self._breaker.fail():
                _log.warning("Redis does not answer: this process counts requests by itself")
            return local
        self._breaker.succeed()
        return int(before or 0), int(during)

    def _give_back(self, name: str, minute: int) -> None:
        self._local.give_back(name, minute)
        if self._breaker.is_open:
            return
        try:
            self._redis.decr(_key(name, minute))
        except RedisError:
            self._breaker.fail()


class _LocalCounts:
    """Minute, count and the count of the minute before, by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[int, int, int]] = {}

    def count(self, name: str, minute: int) -> tuple[int, int]:
        with self._lock:
            last, during, before = self._counts.get(name, (minute, 0, 0))
            if last != minute:
                during, before = 0, during if last == minute - 1 else 0
            self._counts[name] = (minute, during + 1, before)
            if len(self._counts) > _MOST_NAMES:
                self._counts = {key: seen for key, seen in self._counts.items() if seen[0] >= minute - 1}
            return before, during + 1

    def give_back(self, name: str, minute: int) -> None:
        with self._lock:
            last, during, before = self._counts.get(name, (minute, 1, 0))
            if last == minute and during:
                self._counts[name] = (last, during - 1, before)


def judge(limit: int, before: int, during: int, elapsed: float) -> Taken:
    """Whether a request fits that is counted in `during`; `elapsed` is the share of this minute that has passed."""
    used = before * (1 - elapsed) + during
    if used <= limit:
        rest = 2 - elapsed if during else 1 - elapsed
        return Taken(True, limit, math.floor(limit - used), 0.0, rest * WINDOW_S)
    earlier = during - 1
    if during <= limit:  # as the minute before fades, room comes within this one
        share = 1 - (limit - during) / before - elapsed
    else:  # only once this minute itself fades
        share = 1 - elapsed + (1 - (limit - 1) / earlier if earlier else 0.0)
    return Taken(False, limit, 0, max(0.0, share) * WINDOW_S, (2 - elapsed) * WINDOW_S)


def _key(name: str, minute: int) -> str:
    return f"batchinfer:rate:{name}:{minute}"
