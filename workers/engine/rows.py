"""A row: one request while tokens are made for it. Turns tokens into text as they come, and knows when to end."""

from __future__ import annotations

import time
from typing import Any

from workers.engine.constrain import Grammar
from workers.engine.prepared import Prepared
from workers.engine.protocol import Done, EngineFailure, Finish, TokenUsage
from workers.engine.repetition import REPEATS_FAILURE, has_to_stop
from workers.engine.sampling import RowSampler
from workers.engine.text import Decode, StopText, TokenText
from workers.engine.tickets import Ticket


class Row:
    """Owns one slot from its prefill to its end."""

    def __init__(
        self, ticket: Ticket, item: Prepared, sampler: RowSampler, decode: Decode, grammar: Grammar | None
    ) -> None:
        self.ticket, self.item, self.sampler, self.grammar = ticket, item, sampler, grammar
        self.tokens: list[int] = []
        self.logprobs: list[dict[str, Any]] = []
        self.cached_tokens = 0
        self.prefill_s = 0.0
        self.started_at = time.monotonic()
        #: Rows that shared its steps, summed, and those steps.
        self.row_steps = self.steps = 0
        self._first_token_at: float | None = None
        self._decode = decode
        self._words, self._text = TokenText(decode), StopText(ticket.request.stop)
        #: Whether text is wanted at every token: decoding it costs more than the rest of a row's step.
        self._reads_along = ticket.listens or bool(ticket.request.stop)
        self._watches = ticket.request.stop_repetition

    @property
    def id(self) -> str:
        """The request's id."""
        return self.ticket.id

    def push(self, token: int, eos: frozenset[int], logprob: float | None) -> Finish | None:
        """Take the next token. Returns how the row ended, or None where it goes on; "error" where it repeats itself."""
        if self._first_token_at is None:
            self._first_token_at = time.monotonic()
        self.tokens.append(token)
        if logprob is not None:
            self.logprobs.append({"token": self._decode([token]), "logprob": logprob})
        if token in eos:
            return "stop"
        if self._reads_along:
            self.ticket.emit(self._text.grow(self._words.grow(token)))
            if self._text.stopped:
                return "stop"
        else:
            self._words.hold(token)
        if self.grammar is not None and (not self.grammar.accept(token) or self.grammar.ended()):
            return "stop"
        if self._watches and has_to_stop(self.tokens):
            return "error"
        return "length" if len(self.tokens) >= self.item.request.max_tokens else None

    def end(self, finish: Finish, error: EngineFailure | None = None) -> Done:
        """What the handle gives back. The one error that a row finds itself is that it repeats itself."""
        now = time.monotonic()
        if finish == "error" and error is None:
            error = REPEATS_FAILURE
        item = self.item
        if finish in ("stop", "length") or not self._reads_along:
            self.ticket.emit(self._text.grow(self._words.flush()) + self._text.flush())
        usage = TokenUsage(
            prompt_tokens=item.prompt_tokens,
            completion_tokens=len(self.tokens),
            image_tokens=item.image_tokens,
            cached_tokens=self.cached_tokens,
            images=len(item.request.images),
        )
        timings = {
            "waiting": max(0.0, self.started_at - item.prepared_at),
            "preparing": item.prepared_at - item.arrived_at,
            "prefill": self.prefill_s,
            "decoding": now - (self._first_token_at or now),
            "rows": self.row_steps / self.steps if self.steps else 1.0,
        }
        logprobs = tuple(self.logprobs) if item.request.sampling.logprobs else None
        return Done(item.id, self._text.text, finish, error, usage, logprobs, timings, tuple(self.tokens))
