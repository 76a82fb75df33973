"""The done-bell: whoever waits for a job is woken when it ends. Losable: who waits also looks by himself."""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from redis.exceptions import RedisError

from batchinfer.bus.breaker import Breaker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from redis import Redis

log = logging.getLogger(__name__)
CHANNEL = "done"
_MESSAGE_IDS = 1000
_LISTEN_S = 0.25
_RETRY_S = 1.0


class DoneBell:
    """Rings for ended jobs and wakes those who wait in this process. Safe for threads and after a fork."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.breaker = Breaker()
        #: Told of the same ids in this process.
        self.on_ring: Callable[[Collection[UUID]], None] | None = None
        self._waiting: dict[UUID, set[threading.Event]] = defaultdict(set)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def ring(self, ids: Collection[UUID]) -> None:
        """Say that jobs have ended. Never raises."""
        if ids and self.on_ring is not None:
            self.on_ring(ids)
        if not ids or not self.breaker.try_enter():
            return
        digits = [value.hex for value in ids]
        try:
            for start in range(0, len(digits), _MESSAGE_IDS):
                self._redis.publish(CHANNEL, ",".join(digits[start : start + _MESSAGE_IDS]))
        except (RedisError, OSError) as error:
            if self.breaker.fail():
                log.warning("the done-bell fails (%s); those who wait find out by polling", type(error).__name__)
        else:
            self.breaker.succeed()

    @contextmanager
    def listening(self, job_id: UUID) -> Iterator[threading.Event]:
        """An event that is set when the job rings, from now on. Look at the job after entering, then wait on it."""
        event = threading.Event()
        self._ensure_thread()
        with self._lock:
            self._waiting[job_id].add(event)
        try:
            yield event
        finally:
            with self._lock:
                self._waiting[job_id].discard(event)
                if not self._waiting[job_id]:
                    del self._waiting[job_id]

    def wait(self, job_id: UUID, timeout_s: float) -> bool:
        """Wait until the job rings. False after `timeout_s`: look for yourself."""
        with self.listening(job_id) as event:
            return event.wait(timeout_s)

    def close(self) -> None:
        """Stop the thread. Safe to call twice."""
        self._closed.set()
        thread = self._thread
        if thread is not None and self._pid == os.getpid():
            thread.join(timeout=5)

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._pid != os.getpid() or self._thread is None or not self._thread.is_alive():
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._listen, name="done-bell", daemon=True)
                self._thread.start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(CHANNEL)
                    while not self._closed.is_set():
                        message = channel.get_message(timeout=_LISTEN_S)
                        if message is not None:
                            self._wake(str(message["data"]))
            except (RedisError, OSError, ValueError):
                self._closed.wait(_RETRY_S)

    def _wake(self, digits: str) -> None:
        for text in digits.split(","):
            try:
                job_id = UUID(hex=text)
            except ValueError:
                continue  # not ours: anybody who reaches Redis can publish
            with self._lock:
                for event in self._waiting.get(job_id, ()):
                    event.set()
