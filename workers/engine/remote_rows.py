"""A request that is at the server: what came of it until now, and its end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from workers.engine.chat_answers import Answer
from workers.engine.protocol import Done, EngineFailure, Finish
from workers.engine.repetition import EVERY, ends_in_loop
from workers.engine.tickets import Ticket


@dataclass(eq=False)
class Row:
    """A request at the server."""

    ticket: Ticket
    streams: bool
    waited_s: float
    answer: Answer = field(default_factory=Answer)
    started_at: float = field(default_factory=time.monotonic)
    sent_at: float | None = None
    first_at: float | None = None
    pieces: int = 0
    shared: int = 0
    #: Tokens that were looked at for loops.
    looked: int = 0
    finish: Finish | None = None
    task: asyncio.Task[None] | None = None

    def loops(self) -> bool:
        """Whether the answer says the same over and over; looked at after every so many tokens."""
        tokens, first = self.answer.tokens, self.looked + 1
        self.looked = len(tokens)
        return any(ends_in_loop(tokens[:made]) for made in range(first, len(tokens) + 1) if made % EVERY == 0)

    def close(self, finish: Finish, error: EngineFailure | None = None) -> Done:
        """The end, with what came until now."""
        now, request = time.monotonic(), self.ticket.request
        sent, first = self.sent_at or now, self.first_at or now
        timings = {
            "waiting": self.waited_s,
            "preparing": sent - self.started_at,
            "prefill": first - sent if self.streams else 0.0,
            "decoding": now - (first if self.streams else sent),
            "rows": self.shared / self.pieces if self.pieces else 0.0,
        }
        logprobs = self.answer.logprobs if request.sampling.logprobs else ()
        usage = self.answer.count(len(request.images))
        return Done(request.id, self.answer.text, finish, error, usage, logprobs or None, timings)
