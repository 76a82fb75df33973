"""The engine that wraps transformers' `generate`: rows that came together run together until all have ended.

No row yields its slot to an interactive request: the slots of a micro-batch are free when all its rows have ended, so
that ending one of them early would help nobody. Interactive requests go into the next one.

It serves every model that `generate` serves. Pictures and prompts are prepared in threads of their own while the
step loop runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import torch

from workers.engine.loader import LoadedModel
from workers.engine.microbatch import MicroBatch, Place
from workers.engine.preparing import PreparingEngine
from workers.engine.protocol import EngineFailure, Finish, Refused
from workers.engine.survival import explain, is_out_of_memory
from workers.engine.tickets import Ticket

_log = logging.getLogger(__name__)

#: Seconds to wait for company once a request is ready: while others are prepared, and otherwise.
_GATHER_S = 0.2
_WINDOW_S = 0.005
#: Seconds after which an idle thread looks around, though every change wakes it.
_IDLE_S = 1.0


class StaticBatchEngine(PreparingEngine):
    """Micro-batches of up to `slots` rows. `preparers` threads prepare up to twice as many requests ahead."""

    name = "static"

    def __init__(self, loaded: LoadedModel, *, slots: int = 16, preparers: int = 1, max_images: int = 16) -> None:
        super().__init__(loaded, slots=slots, preparers=preparers, max_images=max_images)

    def _accept(self, ticket: Ticket) -> None:
        wanted = (ticket.request.response_format or {}).get("type", "text")
        if wanted != "text":
            raise Refused(
                "unsupported_response_format",
                f"response_format {wanted} needs constrained decoding, which this engine does not have; leave "
                "response_format out and ask for JSON in the prompt.",
            )
        super()._accept(ticket)

    def _turn(self) -> None:
        self._end_unpreparable()
        places = [Place(self._new_row(ticket)) for ticket in self._gather()]
        if places:
            self._run_places(places)

    def _gather(self) -> list[Ticket]:
        """Wait for the first ready request, then shortly for company of the same shape; the most urgent first."""
        with self._changed:
            since = None
            while not self._closing and not any(ticket.plan.failure for ticket in self._waiting.values()):
                order = self._by_urgency()
                ready = [ticket for ticket in order if ticket.plan.prepared]
                if not ready:
                    self._wait_for_work(_IDLE_S)
                    return []
                since = since or time.monotonic()
                patience_s = _GATHER_S if len(ready) < len(order) else _WINDOW_S
                left_s = since + patience_s - time.monotonic()
                full = len(order) >= self.slots and all(ticket.plan.prepared for ticket in order[: self.slots])
                if full or left_s <= 0:
                    return self._start_group(ready)
                self._changed.wait(left_s)
        return []

    def _start_group(self, ready: Sequence[Ticket]) -> list[Ticket]:
        key = ready[0].plan.prepared.group_key()
        group = [ticket for ticket in ready if ticket.plan.prepared.group_key() == key][: self.slots]
        for ticket in group:
            self._start(ticket)
        self._changed.notify_all()
        return group

    def _run_places(self, places: list[Place]) -> None:
        """Run a micro-batch; where it fails, split it until only the culprit is left."""
        self._interrupt(places)
        live = [place for place in places if not place.over]
        if not live:
            return
        self._moved()
        for place in live:
            place.row.ticket.stage = "prefill"
        try:
            MicroBatch(self._loaded, live, on_end=self._end, on_step=self._between_steps).run()
        except Exception as error:
            self._recover([place for place in live if not place.over], error)

    def _recover(self, places: list[Place], error: Exception) -> None:
        """Out of memory: two halves, each alone. Anything else: one by one."""
        out_of_memory = is_out_of_memory(error)
        _log.warning("a micro-batch of %d rows failed", len(places), exc_info=error)
        if out_of_memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(places) == 1:
            self._end(places[0], "error", explain(error, places[0].row.item))
            return
        size = -(-len(places) // 2) if out_of_memory else 1
        again = [Place(self._new_row(place.row.ticket)) for place in places]
        for start in range(0, len(again), max(1, size)):
            self._run_places(again[start : start + size])

    def _between_steps(self, shared: Sequence[Place]) -> None:
        self._moved(rows=len(shared))
        for place in shared:
            place.row.ticket.stage = "decoding"
        self._sweep()
        self._end_unpreparable()
        self._interrupt(shared)

    def _interrupt(self, places: Sequence[Place]) -> None:
        """End rows that were cancelled, are too late, or were given back; all of them when the engine closes."""
        now = time.monotonic()
        for place in places:
            if place.over:
                continue
            if place.row.ticket.done():
                place.over = True
            elif finish := place.row.ticket.find_interruption(now):
                self._end(place, finish, None)
            elif self._closing:
                self._end(place, "cancelled", None)

    def _end(self, place: Place, finish: Finish, failure: EngineFailure | None) -> None:
        place.over = True
        self._finish(place.row.ticket, place.row.end(finish, failure))
