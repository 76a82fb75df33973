"""The text of an answer while it is made, from the worker to whoever streams it: Redis pub/sub, small groups.

Losable: what is missing, or comes too late, is part of the answer that Postgres has in the end. A message says which
try of the job it belongs to and at which character it begins, so that a gap is seen and nothing is told twice.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from batchinfer.bus.breaker import Breaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

log = logging.getLogger(__name__)
PREFIX = "tokens:"
#: How long pieces are gathered before they are sent.
GROUP_S = 0.04
_LISTEN_S = 0.25
_RETRY_S = 1.0
#: Longest wait for the first subscription; who streams then does so without pieces.
_SUBSCRIBE_S = 0.5


class Ear:
    """What was heard of one answer: the text of its newest try, as far as it has no gap. Safe for threads."""

    def __init__(self) -> None:
        #: Called when the text has grown.
        self.on_piece: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._text, self._attempt = "", 0

    def hear(self, attempt: int, at: int, text: str) -> None:
        """A piece of try `attempt` that begins at character `at`. One behind a gap, or of an older try, is nothing."""
        with self._lock:
            if attempt > self._attempt:
                self._text, self._attempt = "", attempt
            if attempt != self._attempt or at != len(self._text):
                return
            self._text += text
        self.on_piece()

    def find_more(self, sent: str) -> str:
        """What was heard beyond `sent`; nothing where the newest try does not begin with that."""
        with self._lock:
            return self._text[len(sent) :] if self._text.startswith(sent) else ""


class TokenListener:
    """Hears all pieces that are sent, over one connection a process, and keeps those that somebody streams."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._ears: dict[str, set[Ear]] = defaultdict(set)
        self._lock = threading.Lock()
        self._subscribed = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0

    @contextmanager
    def listening(self, channel: str) -> Iterator[Ear]:
        """An ear for a channel, from now on. Waits up to half a second for the subscription; never raises."""
        ear = Ear()
        with self._lock:
            self._ears[channel].add(ear)
        try:
            self._ensure_thread()
            self._subscribed.wait(_SUBSCRIBE_S)
            yield ear
        finally:
            with self._lock:
                self._ears[channel].discard(ear)
                if not self._ears[channel]:
                    del self._ears[channel]

    def close(self) -> None:
        """Stop the thread. Safe to call twice."""
        self._closed.set()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(timeout=5)

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._pid != os.getpid() or self._thread is None or not self._thread.is_alive():
                self._pid = os.getpid()
                self._subscribed.clear()
                self._thread = threading.Thread(target=self._listen, name="token-listener", daemon=True)
                self._thread.start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                with self._redis.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.psubscribe(PREFIX + "*")
                    while not self._closed.is_set():
                        self._take(channel.get_message(timeout=_LISTEN_S))
            except (RedisError, OSError, ValueError):
                self._subscribed.clear()
                self._closed.wait(_RETRY_S)

    def _take(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        if message["type"] == "psubscribe":
            self._subscribed.set()
        if message["type"] != "pmessage":
            return
        with self._lock:
            ears = list(self._ears.get(str(message["channel"]).removeprefix(PREFIX), ()))
        piece = _read_piece(message["data"]) if ears else None
        for ear in ears if piece else ():
            ear.hear(*piece)  # type: ignore[misc]


def _read_piece(data: str) -> tuple[int, int, str] | None:
    """A message of ours, or None: anybody who reaches Redis can publish."""
    try:
        attempt, at, text = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return None
    return (attempt, at, text) if (type(attempt), type(at), type(text)) == (int, int, str) else None


class TokenSender:
    """Sends pieces from a thread of its own. Nothing here blocks or raises; what fails is left out."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.breaker = Breaker()
        self._lock = threading.Lock()
        #: By channel and try: where the gathered text begins, and its pieces.
        self._gathered: dict[tuple[str, int], tuple[int, list[str]]] = {}
        self._filled = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, channel: str, attempt: int) -> Callable[[str], None]:
        """What the pieces of one try are handed to, in order, by one thread at a time."""
        told = 0

        def tell(text: str) -> None:
            nonlocal told
            self._put(channel, attempt, told, text)
            told += len(text)

        return tell

    def close(self) -> None:
        """Stop the thread; what is gathered goes nowhere. Safe to call twice."""
        self._closed.set()
        self._filled.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _put(self, channel: str, attempt: int, at: int, text: str) -> None:
        with self._lock:
            self._gathered.setdefault((channel, attempt), (at, []))[1].append(text)
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._send, name="token-sender", daemon=True)
                self._thread.start()
        self._filled.set()

    def _send(self) -> None:
        while not self._closed.is_set():
            self._filled.wait()
            self._closed.wait(GROUP_S)
            self._filled.clear()
            with self._lock:
                gathered, self._gathered = self._gathered, {}
            if gathered and self.breaker.try_enter():
                self._publish(gathered)

    def _publish(self, gathered: dict[tuple[str, int], tuple[int, list[str]]]) -> None:
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for (channel, attempt), (at, pieces) in gathered.items():
                    pipe.publish(PREFIX + channel, json.dumps([attempt, at, "".join(pieces)]))
                pipe.execute()
        except (RedisError, OSError) as error:
            if self.breaker.fail():
                log.warning("streams get no pieces (%s); they end with the whole answer", type(error).__name__)
        else:
            self.breaker.succeed()
