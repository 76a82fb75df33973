"""What engines over a real model share: requests are made ready on threads of their own, ahead of the step loop."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from workers.engine.constrain import Grammar, GrammarCompiler
from workers.engine.lifecycle import ThreadedEngine
from workers.engine.loader import LoadedModel
from workers.engine.prepared import Prepared
from workers.engine.processing import Rendered, UnpreparableError
from workers.engine.protocol import Done, EngineFailure, Refused, Stage, TokenUsage
from workers.engine.rows import Row
from workers.engine.sampling import RowSampler
from workers.engine.tickets import Ticket
from workers.engine.verify import Verdict

_log = logging.getLogger(__name__)

#: Bytes that requests which are prepared and wait for a slot may hold.
READY_BYTES = 512 * 2**20


@dataclass
class Plan:
    """How far a waiting request is: rendered, in preparation, then ready or failed."""

    rendered: Rendered
    taken: bool = False
    prepared: Prepared | None = None
    grammar: Grammar | None = None
    failure: EngineFailure | None = None
    #: Bytes of what is prepared.
    nbytes: int = 0

    @property
    def settled(self) -> bool:
        """Prepared or failed."""
        return self.prepared is not None or self.failure is not None


class PreparingEngine(ThreadedEngine):
    """`preparers` threads prepare up to twice as many requests ahead as there are slots, up to `ready_bytes` of them.

    Each thread may go past the bound by the request in its hands, and interactive requests may take as much again.
    """

    #: What the self-test found, where one was run.
    verdict: Verdict | None = None

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        slots: int,
        preparers: int,
        max_images: int,
        context_tokens: int | None = None,
        grammars: GrammarCompiler | None = None,
        ready_bytes: int = READY_BYTES,
    ) -> None:
        context_tokens = min(loaded.context_tokens, context_tokens or loaded.context_tokens)
        super().__init__(slots=slots, context_tokens=context_tokens, max_images=max_images)
        self._loaded = loaded
        self._vocabulary = count_logits(loaded)
        self._grammars = grammars
        self._ready_bytes = ready_bytes
        self._preparers = [
            threading.Thread(target=self._prepare_all, name=f"engine-prepare-{number}", daemon=True)
            for number in range(preparers)
        ]
        for thread in (self._thread, *self._preparers):
            thread.start()

    @property
    def _model(self) -> tuple[str, str]:
        return self._loaded.name, self._loaded.revision

    def _accept(self, ticket: Ticket) -> None:
        ticket.plan = Plan(self._loaded.processing.render(ticket.request))

    def _prepare_all(self) -> None:
        while ticket := self._take_unprepared():
            plan: Plan = ticket.plan
            prepared, grammar, failure = None, None, None
            try:
                prepared = self._loaded.processing.prepare(
                    ticket.request, plan.rendered, ticket.submitted_at, self.context_tokens
                )
                grammar = self._compile(ticket)
            except UnpreparableError as error:
                failure = error.failure
            except Refused as error:
                failure = EngineFailure(error.code, error.message)
            except Exception:
                _log.exception("preparing request %s failed", ticket.id)
                failure = EngineFailure("preparing_failed", "The request could not be prepared.")
            with self._changed:
                plan.prepared, plan.grammar, plan.failure = prepared, grammar, failure
                plan.nbytes = prepared.nbytes if prepared else 0
                self._moved()
                self._changed.notify_all()

    def _find_stage(self, ticket: Ticket) -> Stage:
        plan: Plan = ticket.plan
        return "preparing" if plan.taken and not plan.settled and ticket.id in self._waiting else ticket.stage

    def _compile(self, ticket: Ticket) -> Grammar | None:
        return self._grammars.compile(ticket.request.response_format) if self._grammars else None

    def _take_unprepared(self) -> Ticket | None:
        """The most urgent request that nobody prepares, among those that can run soon. None at the end."""
        with self._changed:
            while not self._closing:
                soon = self._by_urgency()[: 2 * self.slots]
                ticket = next((ticket for ticket in soon if not ticket.plan.taken), None)
                if ticket and self._has_room(ticket):
                    ticket.plan.taken = True
                    self.on_touched(ticket.id)
                    return ticket
                self._changed.wait()
        return None

    def _has_room(self, ticket: Ticket) -> bool:
        """Whether what is ready leaves memory for one more. Call with `_changed` held."""
        held: int = sum(waiting.plan.nbytes for waiting in self._waiting.values())
        return held < self._ready_bytes * (2 if ticket.request.job_class == "interactive" else 1)

    def _start(self, ticket: Ticket) -> None:
        super()._start(ticket)
        with self._changed:
            self._changed.notify_all()  # its bytes no longer keep others from being prepared

    def _ready(self) -> list[Ticket]:
        """What is prepared and waits, the most urgent first."""
        return [ticket for ticket in self._by_urgency() if ticket.plan.prepared]

    def _end_unpreparable(self) -> None:
        with self._changed:
            failed = [ticket for ticket in self._waiting.values() if ticket.plan.failure]
        for ticket in failed:
            usage = TokenUsage(images=len(ticket.request.images))
            timings = {"waiting": time.monotonic() - ticket.submitted_at}
            self._finish(ticket, Done(ticket.id, "", "error", ticket.plan.failure, usage, timings=timings))

    def _finish(self, ticket: Ticket, done: Done) -> None:
        super()._finish(ticket, done)
        # Whoever keeps the handle need not keep the pixels. Other threads leave them: this one may be using them.
        if threading.current_thread() is self._thread:
            ticket.plan.prepared = ticket.plan.grammar = None

    def _new_row(self, ticket: Ticket) -> Row:
        """A fresh row; what the request streamed before a restart is not streamed again."""
        item: Prepared = ticket.plan.prepared
        sampler = RowSampler.for_request(
            item.request.sampling,
            item.prompt_ids,
            vocabulary=self._vocabulary,
            device=self._loaded.model.device,
        )
        ticket.mute(ticket.sent)
        grammar = ticket.plan.grammar.fresh() if ticket.plan.grammar else None
        return Row(ticket, item, sampler, self._loaded.processing.decode, grammar)


def count_logits(loaded: LoadedModel) -> int:
    """The width of a loaded model's logits."""
    return int(loaded.model.get_output_embeddings().weight.shape[0])
