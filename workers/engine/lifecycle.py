"""What every engine with a thread of its own shares: taking requests, ending each once, draining and closing.

An engine fills in `_turn`, which does one piece of work on the engine's thread, and calls `_sweep` and
`_finish` between steps.
"""

from __future__ import annotations

import logging
import operator
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from workers.engine.protocol import (
    OVER,
    Capacity,
    Done,
    EngineFailure,
    EngineStats,
    Finish,
    OnDone,
    OnToken,
    OnTouched,
    Refused,
    Request,
    Stage,
    TokenUsage,
)
from workers.engine.requests import check_request
from workers.engine.scheduler import Places
from workers.engine.tickets import Ticket
from workers.engine.yielding import Running, Wanting, choose_evicted

_log = logging.getLogger(__name__)

#: Seconds that `close` waits for the step under way, and `drain` for callbacks under way.
_PATIENCE_S = 10.0
_BY_URGENCY = operator.attrgetter("urgency")
_FAILED = EngineFailure("engine_failed", "The engine failed on this step; the request may pass again.", True)
#: Pixels set aside for each free place: a page at 300 dpi.
_PIXELS_PER_REQUEST = 8_700_000


class ThreadedEngine(ABC):
    """Owns the requests inside. `_changed` guards them; every change of it is announced on it."""

    name = "engine"

    def __init__(self, *, slots: int, context_tokens: int, max_images: int) -> None:
        if slots < 1:
            raise ValueError("slots must be at least 1.")
        self.slots = slots
        self.context_tokens = context_tokens
        self.max_images = max_images
        self.on_touched: OnTouched = lambda _id: None
        self._changed = threading.Condition(threading.RLock())
        self._inside: dict[str, Ticket] = {}
        #: Not yet started, a part of `_inside`.
        self._waiting: dict[str, Ticket] = {}
        self._draining = False
        self._closing = False
        self._is_over = False
        self._sweep_at: float | None = None
        self._moved_at = time.monotonic()
        self._steps = self._row_steps = self._ended = self._completion_tokens = self._evicted = 0
        self._thread = threading.Thread(target=self._run, name=f"engine-{self.name}", daemon=True)

    # What an engine fills in

    @abstractmethod
    def _turn(self) -> None:
        """Do one piece of work; called while something is inside, on the engine's thread."""

    @property
    @abstractmethod
    def _model(self) -> tuple[str, str]:
        """Name and revision of the model."""

    @abstractmethod
    def _accept(self, ticket: Ticket) -> None:
        """Raises Refused where this engine can never run the request; called on the submitter's thread."""

    # The seam

    def submit(self, request: Request, on_done: OnDone | None = None, on_token: OnToken | None = None) -> Ticket:
        """Take a request and return at once. Raises Refused for what can never run."""
        check_request(request, context_tokens=self.context_tokens, max_images=self.max_images)
        ticket = Ticket(request, on_done, on_token)
        self._accept(ticket)
        with self._changed:
            if self._closing:
                raise Refused("engine_closed", "The engine is closed; send the request to another worker.")
            if self._draining:
                raise Refused("engine_draining", "The engine takes no more requests; send it to another worker.")
            if request.id in self._inside:
                raise Refused("duplicate_request", f"Request {request.id} is in the engine already; wait for its end.")
            if not self._inside:
                self._moved_at = time.monotonic()
            self._inside[request.id] = self._waiting[request.id] = ticket
            if request.deadline is not None:
                soonest = request.deadline if self._sweep_at is None else self._sweep_at
                self._sweep_at = min(request.deadline, soonest)
            self._changed.notify_all()
        return ticket

    def cancel(self, request_id: str) -> bool:
        """End a request between two steps; False if it is not in the engine."""
        with self._changed:
            ticket = self._inside.get(request_id)
            if ticket is None or ticket.done():
                return False
            ticket.cancelled = True
            self._sweep_at = 0.0
            self._changed.notify_all()
        return True

    def stage(self, request_id: str) -> Stage | None:
        """What is being done with a request now; None if it is not in the engine."""
        with self._changed:
            ticket = self._inside.get(request_id)
            return None if ticket is None else self._find_stage(ticket)

    def _find_stage(self, ticket: Ticket) -> Stage:
        return ticket.stage

    def capacity(self) -> Capacity:
        """As many requests wait inside as there are slots, so that the next step never lacks rows."""
        with self._changed:
            taken = 2 * self.slots if self._draining or self._closing else len(self._inside)
        free = max(0, 2 * self.slots - taken)
        return Capacity(requests=free, tokens=free * self.context_tokens, pixels=free * _PIXELS_PER_REQUEST)

    def progress(self) -> float:
        """`time.monotonic()` of the last step, or of now where nothing is inside; `OVER` once the device is lost."""
        with self._changed:
            if self._is_over:
                return OVER
            return self._moved_at if self._inside else time.monotonic()

    def stats(self) -> EngineStats:
        model, revision = self._model
        with self._changed:
            return EngineStats(
                engine=self.name,
                model=model,
                revision=revision,
                slots=self.slots,
                steps=self._steps,
                row_steps=self._row_steps,
                ended=self._ended,
                completion_tokens=self._completion_tokens,
                running=len(self._inside) - len(self._waiting),
                waiting=len(self._waiting),
                evicted=self._evicted,
            )

    def drain(self, deadline_s: float) -> tuple[str, ...]:
        """Take no more, finish what ends within `deadline_s` seconds, give back the ids of the rest.

        Not for callbacks: it waits for the engine's thread.
        """
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._inside, timeout=max(0.0, deadline_s))
            rest = list(self._inside.values())
        given_back = tuple(ticket.id for ticket in rest if ticket.end(_over(ticket, "cancelled"), tell=False))
        with self._changed:
            for request_id in given_back:
                self._forget(request_id)
            # What ended by itself at the last moment may still be calling back.
            self._changed.wait_for(lambda: not self._inside, timeout=_PATIENCE_S)
        return given_back

    def close(self) -> None:
        """Stop at once; what is inside ends with `finish="cancelled"`. Safe twice, and from a callback."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is self._thread:
            return  # called back by the thread itself, which ends what is inside when it comes back
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE_S)
        # A step that hangs must not keep whoever waits for an end.
        self._end_all()

    # For the engine's thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_work() or self._closing)
                if self._closing:
                    break
            try:
                self._sweep()
                self._turn()
            except Exception as error:
                _log.exception("a turn of engine %s failed", self.name)
                if self._is_fatal(error):
                    self._give_up()
                    break
                self._fail_running()
        self._end_all()

    def _has_work(self) -> bool:
        """Whether the engine's thread has a turn to take. Called with `_changed` held."""
        return bool(self._inside)

    def _is_fatal(self, error: Exception) -> bool:  # noqa: ARG002 - engines with a device look at it
        """Whether no later turn can pass."""
        return False

    def _give_up(self) -> None:
        """End everything inside for another worker to try, and take nothing more."""
        with self._changed:
            self._is_over = self._closing = True
            inside = list(self._inside.values())
        _log.critical("engine %s is over", self.name)
        for ticket in inside:
            self._finish(ticket, Done(ticket.id, "", "error", error=_FAILED))

    def _sweep(self) -> None:
        """End what waits and was cancelled or is past its deadline. Cheap where nothing is due."""
        now = time.monotonic()
        with self._changed:
            if self._sweep_at is None or now < self._sweep_at:
                return
            waiting = list(self._waiting.values())
        for ticket in waiting:
            if finish := ticket.find_interruption(now):
                self._finish(ticket, _over(ticket, finish))
        with self._changed:
            deadlines = [t.request.deadline for t in self._waiting.values() if t.request.deadline is not None]
            again = any(ticket.cancelled for ticket in self._waiting.values())
            self._sweep_at = 0.0 if again else min(deadlines, default=None)

    def _wait_for_work(self, timeout_s: float) -> None:
        """Sleep until something changes, a deadline passes or the time is up. Call with `_changed` held."""
        if self._sweep_at is not None:
            timeout_s = min(timeout_s, max(0.0, self._sweep_at - time.monotonic()))
        if not self._closing:
            self._changed.wait(timeout_s)

    def _by_urgency(self) -> list[Ticket]:
        """What waits, the most urgent first."""
        with self._changed:
            return sorted(self._waiting.values(), key=_BY_URGENCY)

    def _start(self, ticket: Ticket) -> None:
        self.on_touched(ticket.id)
        with self._changed:
            self._waiting.pop(ticket.id, None)
            ticket.protected = any(
                other.is_interactive and ticket.urgency < other.urgency for other in self._waiting.values()
            )
            ticket.stage = "decoding"

    def _is_asked_to_yield(self) -> bool:
        """Whether an interactive request waits for which no row was evicted. Cheap: asked before every step."""
        with self._changed:
            return any(ticket.is_interactive and not ticket.granted for ticket in self._waiting.values())

    def _evict(
        self, ready: Sequence[Wanting], running: Sequence[Running], places: Places, *, free: int
    ) -> list[Ticket]:
        """Mark the rows that give up their slots to interactive requests; the engine ends them before it admits."""
        evicted = choose_evicted(ready, running, places, free=free, slots=self.slots)
        for ticket in evicted:
            ticket.evicted = True
        with self._changed:
            self._evicted += len(evicted)
        return evicted

    def _moved(self, rows: int = 0) -> None:
        """A sign of life; with `rows`, a step that so many shared."""
        with self._changed:
            self._moved_at = time.monotonic()
            if rows:
                self._steps += 1
                self._row_steps += rows

    def _finish(self, ticket: Ticket, done: Done) -> None:
        """End a request, and only then let it go, so that whoever sees the engine empty has every answer."""
        if ticket.end(done):
            with self._changed:
                self._ended += 1
                self._completion_tokens += done.usage.completion_tokens
        with self._changed:
            self._forget(ticket.id, ticket)

    def _forget(self, request_id: str, ticket: Ticket | None = None) -> None:
        if ticket is None or self._inside.get(request_id) is ticket:
            self._inside.pop(request_id, None)
            self._waiting.pop(request_id, None)
            self._changed.notify_all()

    def _end_all(self) -> None:
        with self._changed:
            inside = list(self._inside.values())
        for ticket in inside:
            self._finish(ticket, _over(ticket, "cancelled"))

    def _fail_running(self) -> None:
        with self._changed:
            inside = list(self._inside.values())
            running = [ticket for ticket in inside if ticket.id not in self._waiting]
        # Where none had started, what waits is the cause: left there, it would fail every turn from now on.
        for ticket in running or inside:
            self._finish(ticket, Done(ticket.id, "", "error", error=_FAILED))


def _over(ticket: Ticket, finish: Finish) -> Done:
    """The end of a request that made no text."""
    usage = TokenUsage(images=len(ticket.request.images))
    return Done(ticket.id, "", finish, usage=usage, timings={"waiting": time.monotonic() - ticket.submitted_at})
