"""A request inside an engine: its handle, its callbacks and its one end."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from workers.engine.protocol import Done, Finish, OnDone, OnToken, Request, Stage

_log = logging.getLogger(__name__)

_RANKS = {"interactive": 0, "normal": 1, "batch": 2}
#: Seconds of waiting that lift a request by one class, so that no class starves another.
AGEING_S = 30.0


class Ticket:
    """The handle of a submitted request. Whoever ends it first has ended it; later ends are no-ops."""

    def __init__(self, request: Request, on_done: OnDone | None = None, on_token: OnToken | None = None) -> None:
        self.request = request
        self.submitted_at = time.monotonic()
        #: The least is the most urgent. All wait equally fast, so the order of two never changes.
        rank = _RANKS.get(request.job_class, _RANKS["normal"])
        self.urgency = (rank + self.submitted_at / AGEING_S, self.submitted_at)
        #: Set by `cancel` from any thread, read by the engine's thread between steps.
        self.cancelled = False
        #: Set by the engine's thread: its slot goes to an interactive request.
        self.evicted = False
        #: Its age brought it before an interactive request: it may not be evicted for one.
        self.protected = False
        #: A row was evicted for it: nobody is more urgent, and no second one is evicted.
        self.granted = False
        #: Characters that were handed out, and how many of the next ones were handed out before.
        self.sent = 0
        self._muted = 0
        #: What the engine made of the request when it took it.
        self.plan: Any = None
        #: What is being done with it; set by the engine's thread, read by any.
        self.stage: Stage = "waiting"
        self._on_done = on_done
        self._on_token = on_token
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._done: Done | None = None

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def is_interactive(self) -> bool:
        return self.request.job_class == "interactive"

    @property
    def is_evictable(self) -> bool:
        """Whether its slot may be given to an interactive request while it runs."""
        return self.request.job_class == "batch" and self.request.evictable and not self.protected

    def grant(self) -> None:
        """A slot is freed for it, which nobody else may take."""
        self.granted, self.urgency = True, (float("-inf"), self.submitted_at)

    @property
    def listens(self) -> bool:
        """Whether somebody wants the text as it comes."""
        return self._on_token is not None

    def done(self) -> bool:
        return self._ended.is_set()

    def result(self, timeout_s: float | None = None) -> Done:
        """Wait for the end. Raises TimeoutError."""
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"Request {self.id} has not ended within {timeout_s} s.")
        if self._done is None:
            raise RuntimeError(f"Request {self.id} ended without an answer.")
        return self._done

    def find_interruption(self, now: float) -> Finish | None:
        """Why this request must not go on, if so. `now` is on `time.monotonic()`."""
        if self.cancelled or self.evicted:
            return "cancelled"
        deadline = self.request.deadline
        return "expired" if deadline is not None and now >= deadline else None

    def emit(self, text: str) -> None:
        """Hand a piece of text to whoever listens; none after the end, and nothing twice after `mute`."""
        if self._on_token is None or not text:
            return
        # Under the lock, so that a request given back by another thread hears nothing afterwards.
        with self._lock:
            heard = min(self._muted, len(text))
            self._muted -= heard
            text = text[heard:]
            if self._done is not None or not text:
                return
            self.sent += len(text)
            try:
                self._on_token(self.id, text)
            except Exception:
                _log.exception("on_token of request %s failed", self.id)

    def mute(self, characters: int) -> None:
        """The request begins again, and its first `characters` were heard."""
        with self._lock:
            self._muted = characters

    def end(self, done: Done, *, tell: bool = True) -> bool:
        """End with `done`, and call back where `tell`. False where it had ended before."""
        with self._lock:
            if self._done is not None:
                return False
            self._done = done
        self._ended.set()
        if tell and self._on_done is not None:
            try:
                self._on_done(done)
            except Exception:
                _log.exception("on_done of request %s failed", self.id)
        return True
