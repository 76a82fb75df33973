"""The station of a model worker: an engine that answers, between the feeder and the committer."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.bus.tokens import TokenSender
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.retries import RetryClass, classify_error
from batchinfer.errors import BatchinferError, Internal
from batchinfer.observe.logs import bind, get_logger
from batchinfer.services import work
from batchinfer.services.crumbs import Crumbs
from batchinfer.store.claims import Claim, Ending
from workers.committer import Committer, Finished
from workers.engine.protocol import Done, Engine, OnToken, Refused, Request
from workers.engine.yielding import count_kept
from workers.requests import build_request, find_wrong_output, read_failure, read_outcome, read_refusal
from workers.times import Times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchinfer.observe.metrics import Sheet
    from batchinfer.services.work import Work
    from workers.lease import Held

#: Rows claimed beyond the slots, as a part of them, so that the next step never lacks rows.
AHEAD = 0.25
#: Of an answer's timings those that are told.
_STAGES = ("waiting", "preparing", "prefill", "decoding")
#: What the engine says when it is the process that ends, and not the request that is wrong.
_NOT_NOW = {"engine_closed", "engine_draining", "duplicate_request"}

_log = get_logger(__name__)


class Answering:
    """Implements Station over an engine."""

    kinds: tuple[str, ...] = (work.INFER,)

    def __init__(
        self,
        engine: Engine,
        held: Held,
        committer: Committer,
        *,
        model: str,
        revision: str,
        slots: int,
        versions: dict[str, str] | None = None,
        crumbs: Crumbs | None = None,
        tokens: TokenSender | None = None,
    ) -> None:
        self.model: str | None = model
        self.slots = slots
        #: Called when a request has ended: the feeder's `wake`.
        self.on_room: Callable[[], None] = lambda: None
        self._engine, self._held, self._committer = engine, held, committer
        self._revision, self._versions = revision, versions
        self._crumbs = crumbs or Crumbs()
        #: Tells answers while they are made, to those who stream them.
        self._tokens = tokens
        engine.on_touched = lambda request_id: self._crumbs.enter(UUID(request_id))
        self._ahead = max(1, math.ceil(slots * AHEAD))
        #: Holds answers against the checks of their runs: that may take a while, and the engine must not wait for it.
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="checker")
        self._stages = Times("batchinfer_stage_seconds")
        self._inside_lock = threading.Lock()
        #: Of these the interactive ones, for which others yield.
        self._inside = self._urgent = 0

    def count_inside(self) -> int:
        """Requests submitted that have not ended."""
        with self._inside_lock:
            return self._inside

    def count_room(self) -> int:
        """Rows to claim now: none until the engine is down to its slots, then up to a quarter more than
        these."""
        free = self.slots + self._ahead - self.count_inside()
        if free < self._ahead:
            return 0
        capacity = self._engine.capacity()
        if capacity.tokens <= 0 or capacity.pixels <= 0:
            return 0
        return max(0, min(free, capacity.requests))

    def count_urgent_room(self) -> int:
        """Interactive rows to claim though the engine has more than its slots: as many as it makes room for, which is
        all but the slots that rows of later classes keep."""
        with self._inside_lock:
            return max(0, self.slots - count_kept(self.slots) - self._urgent)

    def take(self, pieces: Sequence[Work]) -> None:
        """Submit each to the engine."""
        if pieces:
            self._crumbs.begin(pieces[0].claim.lease_id)
        for piece in pieces:
            self._submit(piece)

    def find_stage(self, claim: Claim) -> str:
        """The engine's word; before the engine has it, it waits."""
        return self._engine.stage(str(claim.id)) or "waiting"

    def cancel(self, claims: Sequence[Claim]) -> None:
        """End these between two steps."""
        for claim in claims:
            self._engine.cancel(str(claim.id))

    def progress(self) -> float:
        """The engine's last step."""
        return self._engine.progress()

    def drain(self, deadline_s: float) -> None:
        """What the engine gives back stays held, and is released with the lease."""
        given_back = self._engine.drain(deadline_s)
        self._checker.shutdown()
        _log.info("engine drained", given_back=len(given_back))

    def info(self) -> dict[str, Any]:
        stats = self._engine.stats()
        return {
            "model": self.model,
            "revision": self._revision,
            "engine": self._engine.name,
            "versions": self._versions,
            "slots": self.slots,
            "running": stats.running,
            "waiting": stats.waiting,
            "ended": stats.ended,
            "steps": stats.steps,
            "rows_per_step": round(stats.rows_per_step, 2),
            "completion_tokens": stats.completion_tokens,
            "evicted": stats.evicted,
        }

    def tell(self, sheet: Sheet) -> None:
        stats, model = self._engine.stats(), self.model or ""
        sheet.add("batchinfer_engine_slots", self.slots, model)
        sheet.add("batchinfer_engine_rows", stats.running, model, "running")
        sheet.add("batchinfer_engine_rows", stats.waiting, model, "waiting")
        sheet.add("batchinfer_engine_steps_total", stats.steps, model)
        sheet.add("batchinfer_engine_row_steps_total", stats.row_steps, model)
        sheet.add("batchinfer_engine_ended_total", stats.ended, model)
        sheet.add("batchinfer_engine_evicted_total", stats.evicted, model)
        sheet.add("batchinfer_engine_completion_tokens_total", stats.completion_tokens, model)
        self._stages.tell(sheet)

    def close(self) -> None:
        self._engine.close()
        self._checker.shutdown()
        self._crumbs.close()
        if self._tokens is not None:
            self._tokens.close()

    def _submit(self, piece: Work) -> None:
        claim = piece.claim
        with bind(**claim.tags):
            self._try_submit(piece)

    def _try_submit(self, piece: Work) -> None:
        claim = piece.claim
        try:
            request = build_request(piece)
            self._enter(claim, 1)
            try:
                self._engine.submit(
                    request, on_done=partial(self._on_done, piece, request), on_token=self._find_listener(piece)
                )
            except BaseException:
                self._enter(claim, -1)
                raise
        except Refused as refusal:
            self._end(Finished(claim, ending=None if refusal.code in _NOT_NOW else read_refusal(claim, refusal)))
        except BatchinferError as error:
            _log.warning("a job could not be started", code=error.code)
            self._end(Finished(claim, ending=Ending(claim.id, claim.attempt, error.as_dict(), classify_error(error))))
        except Exception:
            _log.exception("a request could not be submitted")
            fault = Internal("The job could not be started. The log of the worker says why.")
            self._end(Finished(claim, ending=Ending(claim.id, claim.attempt, fault.as_dict(), RetryClass.TRANSIENT)))

    def _find_listener(self, piece: Work) -> OnToken | None:
        """What pieces of the answer are handed to; None, and no piece is made, where nobody asked for them."""
        channel = piece.prompt.get("channel")
        if self._tokens is None or not isinstance(channel, str):
            return None
        tell = self._tokens.open(channel, piece.claim.attempt)
        return lambda _request_id, text: tell(text)

    def _on_done(self, piece: Work, request: Request, done: Done) -> None:
        """On the engine's thread: hand over and return."""
        if "quality" not in piece.prompt:
            self._take_end(piece, request, done)
            return
        try:
            self._checker.submit(self._take_end, piece, request, done)
        except RuntimeError:  # we stop: what is held is given back with the lease
            self._let_go(piece.claim)

    def _take_end(self, piece: Work, request: Request, done: Done) -> None:
        for stage in _STAGES:
            if stage in done.timings:
                self._stages.note(done.timings[stage], self.model or "", stage)
        try:
            finished = self._judge(piece, request, done)
        except Exception:
            _log.exception("an answer could not be read", **piece.claim.tags)
            fault = Internal("The answer could not be read. The log of the worker says why.")
            ending = Ending(piece.claim.id, piece.claim.attempt, fault.as_dict(), RetryClass.TRANSIENT)
            finished = Finished(piece.claim, ending=ending)
        self._let_go(piece.claim)
        if finished is not None:
            self._end(finished)
        self.on_room()

    def _judge(self, piece: Work, request: Request, done: Done) -> Finished | None:
        """What is written of an end; None where nothing is."""
        claim = piece.claim
        if done.finish in ("stop", "length"):
            if wrong := find_wrong_output(piece, request, done):
                return Finished(claim, ending=wrong)
            return Finished(claim, outcome=read_outcome(claim, done, revision=self._revision, engine=self._engine.name))
        if done.finish == "error":
            return Finished(claim, ending=read_failure(claim, done))
        # Nobody here asked for a cancelled one, or the claim would not be held any more: it runs again. An expired one
        # stays held until upkeep ends its row, by the database's clock; the heart then lets it go.
        return Finished(claim) if done.finish == "cancelled" else None

    def _let_go(self, claim: Claim) -> None:
        self._crumbs.leave(claim.id)
        self._enter(claim, -1)

    def _end(self, finished: Finished) -> None:
        if self._held.pop(finished.claim):
            self._committer.put(finished)

    def _enter(self, claim: Claim, number: int) -> None:
        with self._inside_lock:
            self._inside += number
            self._urgent += number if claim.job_class is JobClass.INTERACTIVE else 0
