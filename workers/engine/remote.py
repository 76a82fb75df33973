"""An engine that asks a server for its answers: any that speaks OpenAI's chat completions, as vLLM, SGLang, TGI,
Xinference and other servers of ours do.

The engine's one thread runs an event loop with a task for each request at the server, so that every callback comes from
it. What waits stays here, most urgent first, and the server gets no more than the window allows. Nothing is tried again
here: a failure says by its class whether the queue should. Users' texts go out as texts; whether a server's tokenizer
takes control tokens in them for what they look like is the server's affair, and nothing here can keep it from it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from functools import partial
from typing import Any

from workers.engine.chat_bodies import Bodies, Writer, as_stream
from workers.engine.dialects import find_dialect
from workers.engine.exchange import Exchange, Patience
from workers.engine.lifecycle import ThreadedEngine
from workers.engine.looking import Looker
from workers.engine.protocol import Done, EngineFailure, ModelError, OnDone, OnToken, Refused, Request
from workers.engine.remote_options import RemoteOptions, read_options
from workers.engine.remote_rows import Row
from workers.engine.repetition import REPEATS_FAILURE
from workers.engine.scheduler import Places
from workers.engine.tickets import Ticket
from workers.engine.upstream import Served, Upstream, UpstreamError, find_served, read_address, read_key
from workers.engine.window import Window
from workers.engine.yielding import Running, Wanting

_log = logging.getLogger(__name__)

#: Where neither the server nor the options name the model's context, in tokens.
_DEFAULT_CONTEXT = 131_072
#: Seconds: the longest pass, and that a connection is kept without use. The servers' own limit is 5 and more; a
#: connection that they close just as it is used again would cost a request.
_PASS_S, _KEEP_S = 0.5, 2.0
#: Silence after which a server whose answers all come whole is asked whether it is there, in seconds.
_QUIET_S = 5.0
#: An answer that ended so lately, in seconds, is sign enough of a server that lives: nothing need stream for that.
_LATELY_S = 1.0


class UpstreamLostError(Exception):
    """The server is gone for good, as far as this engine can tell."""


class RemoteEngine(ThreadedEngine):
    """Opened by `open_remote`, which has asked the server what it serves."""

    name = "remote"

    def __init__(self, options: RemoteOptions, upstream: Upstream, served: Served, *, slots: int) -> None:
        context = options.context_tokens or served.context_tokens or _DEFAULT_CONTEXT
        super().__init__(slots=slots, context_tokens=context, max_images=options.max_images)
        self._options, self._upstream, self._served = options, upstream, served
        self._dialect = find_dialect(options.dialect)
        writer = Writer(upstream.model, self._dialect, options.priority, options.server_loops, dict(options.extra))
        self._bodies = Bodies(writer, slots)
        self._window = Window(min(slots, options.concurrency or slots), adaptive=options.adaptive)
        self._rows: list[Row] = []
        self._lost = ""
        self._answered_at = -math.inf
        self._loop = asyncio.new_event_loop()
        self._woken = asyncio.Event()
        self._exchange: Exchange | None = None
        self._looker: Looker | None = None
        self._thread.start()

    @property
    def _model(self) -> tuple[str, str]:
        return self._upstream.model, self._options.revision

    @property
    def upstream_version(self) -> str | None:
        """Of the server's program, as it said when the engine was opened."""
        return self._served.version

    def _accept(self, ticket: Ticket) -> None:
        self._dialect.check(ticket.request)

    # The seam: what changes something wakes the loop

    def submit(self, request: Request, on_done: OnDone | None = None, on_token: OnToken | None = None) -> Ticket:
        """Take a request and return at once. Raises Refused for what can never run."""
        ticket = super().submit(request, on_done, on_token)
        self._wake()
        return ticket

    def cancel(self, request_id: str) -> bool:
        """End a request: its connection is dropped. False if it is not in the engine."""
        found = super().cancel(request_id)
        self._wake()
        return found

    def drain(self, deadline_s: float) -> tuple[str, ...]:
        """Take no more, finish what ends in time, and give back the rest, whose connections are dropped."""
        given_back = super().drain(deadline_s)
        self._wake()
        return given_back

    def close(self) -> None:
        """Stop at once; what is inside ends with `finish="cancelled"`. Safe twice, and from a callback."""
        with self._changed:
            self._closing = True
        self._wake()
        super().close()

    def lose(self, why: str) -> None:
        """The server will not come back: end everything for another worker to try, and take nothing more."""
        with self._changed:
            self._lost = why
            self._changed.notify_all()
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._woken.set)

    # For the engine's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            super()._run()
        finally:
            self._loop.run_until_complete(self._hang_up())
            self._bodies.close()
            self._loop.close()

    def _has_work(self) -> bool:
        # Rows that were given back are inside no more, but their connections are to be dropped.
        return bool(self._inside or self._rows or self._lost)

    def _is_fatal(self, error: Exception) -> bool:
        return isinstance(error, UpstreamLostError)

    def _turn(self) -> None:
        self._loop.run_until_complete(self._pass())

    async def _pass(self) -> None:
        """Drop, send, then wait until something changes."""
        self._woken.clear()
        now = time.monotonic()
        self._check_lost()
        self._drop(now)
        self._admit(now)
        if self._looker is not None:
            self._looker.look(now, self._is_quiet(now), len(self._rows))
        if self._rows or self._window.find_hold(now):
            timer = self._loop.call_later(self._find_pause(now), self._woken.set)
            await self._woken.wait()
            timer.cancel()

    def _check_lost(self) -> None:
        if self._window.gone_s > self._options.gone_s:
            self._lost = f"The server could not be reached for {self._window.gone_s:.0f} s."
        if self._lost:
            raise UpstreamLostError(self._lost)

    def _drop(self, now: float) -> None:
        for row in self._rows:
            finish = row.ticket.find_interruption(now) or ("cancelled" if row.ticket.done() else None)
            if finish and not row.finish and row.task is not None:
                row.finish = finish
                row.task.cancel()

    def _find_pause(self, now: float) -> float:
        """Until the next deadline or the end of a hold, and no longer than a pass."""
        with self._changed:
            deadlines = [ticket.request.deadline for ticket in self._inside.values()]
        moments = [deadline - now for deadline in deadlines if deadline is not None]
        hold = self._window.find_hold(now)
        return max(0.0, min([_PASS_S, *moments, *([hold] if hold else [])]))

    def _admit(self, now: float) -> None:
        if self._window.find_hold(now):
            if not self._rows:
                self._moved()  # it waits because it was asked to
            return
        if self._is_asked_to_yield():
            self._yield_places(now)
        waiting = [ticket for ticket in self._by_urgency() if not ticket.cancelled]
        free = max(0, self._window.limit - len(self._rows))
        for ticket in waiting[:free]:
            self._send(ticket)
        for ticket in waiting[free : free + self._bodies.ahead]:
            if self._bodies.prepare(ticket):
                self.on_touched(ticket.id)

    def _yield_places(self, now: float) -> None:
        """Night work makes room: its connections are dropped."""
        free = max(0, self._window.limit - len(self._rows))
        ready = [Wanting(ticket) for ticket in self._by_urgency()]
        running = [Running(row.ticket, row.started_at) for row in self._rows if not row.finish]
        if self._evict(ready, running, Places([(0, free)]), free=free):
            self._drop(now)

    def _send(self, ticket: Ticket) -> None:
        self._start(ticket)
        row = Row(ticket, self._streams(ticket), time.monotonic() - ticket.submitted_at)
        self._rows.append(row)
        row.task = self._loop.create_task(self._serve(row))

    def _streams(self, ticket: Ticket) -> bool:
        wanted = self._options.stream
        if ticket.listens or (ticket.request.stop_repetition and not self._options.server_loops):
            return True
        if wanted == "auto" and time.monotonic() - self._answered_at > _LATELY_S:
            return not any(row.streams for row in self._rows)
        return wanted == "always"

    async def _serve(self, row: Row) -> None:
        try:
            done = await self._find_done(row)
        except asyncio.CancelledError:
            done = row.close(row.finish or "cancelled")
        except UpstreamError as error:
            self._window.note_failure(error, time.monotonic())
            done = row.close("error", error.failure)
        except Exception:
            _log.exception("a request could not be put to the server")
            broken = EngineFailure("engine_failed", "The request could not be put to the server.", True)
            done = row.close("error", broken)
        self._rows.remove(row)
        self._finish(row.ticket, done)
        self._woken.set()

    async def _find_done(self, row: Row) -> Done:
        ticket = row.ticket
        ticket.stage = "preparing"
        try:
            body = await self._bodies.take(ticket)
        except Refused as refusal:
            return row.close("error", EngineFailure(refusal.code, refusal.message))
        except OSError:
            return row.close("error", EngineFailure("blob_missing", "A picture of the request cannot be read."))
        ticket.stage, row.sent_at = "prefill", time.monotonic()
        exchange = self._exchange or self._open_exchange()
        on_piece = partial(self._on_piece, row)
        full = len(self._rows) >= self._window.limit
        await exchange.ask(as_stream(body) if row.streams else body, row.answer, stream=row.streams, on_piece=on_piece)
        finish = row.answer.find_end()
        self._window.note_answer(full=full)
        self._answered_at = time.monotonic()
        return row.close(finish)

    def _on_piece(self, row: Row, piece: str) -> None:
        """A sign of life of the server, mostly with text. Raises UpstreamError where the answer is to end."""
        self._window.note_sign()
        if not piece:
            self._moved()
            return
        row.first_at = row.first_at or time.monotonic()
        row.ticket.stage = "decoding"
        row.pieces += 1
        row.shared += len(self._rows)
        self._moved(rows=len(self._rows))
        row.ticket.emit(piece)
        if row.ticket.request.stop_repetition and row.loops():
            raise UpstreamError(REPEATS_FAILURE)

    def _is_quiet(self, now: float) -> bool:
        """Whether answers that all come whole have told nothing for long."""
        return bool(self._rows) and not any(row.streams for row in self._rows) and now - self._moved_at > _QUIET_S

    def _open_exchange(self) -> Exchange:
        import httpx

        options = self._options
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.slots + 1, keepalive_expiry=_KEEP_S)
        client = httpx.AsyncClient(headers=self._upstream.headers, limits=limits, trust_env=False)
        patience = Patience(options.connect_s, options.silence_s, options.answer_s)
        names = self._served.names if options.check_model else frozenset()
        metric = self._dialect.waiting if options.adaptive else None
        self._looker = Looker(client, self._upstream, self._window, self._moved, metric)
        self._exchange = Exchange(client, f"{self._upstream.base}/chat/completions", patience, names)
        return self._exchange

    async def _hang_up(self) -> None:
        """Drop every connection."""
        tasks = [row.task for row in self._rows if row.task is not None]
        tasks += self._looker.list_tasks() if self._looker is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._exchange is not None:
            await self._exchange.client.aclose()
        await self._loop.shutdown_asyncgens()


def open_remote(*, slots: int, model: str = "", **given: Any) -> RemoteEngine:
    """Ask the server what it serves, and open an engine over it. `model` is its name there.

    Raises ModelError: bad options, no key, no such server, no such model.
    """
    options = read_options(RemoteOptions, {"model": model, **given})
    try:
        dialect = find_dialect(options.dialect)
    except ValueError as error:
        raise ModelError("engine_options", f"{error}") from None
    if not options.model:
        raise ModelError("engine_options", "The option model must be the model's name at the server.")
    upstream = Upstream(read_address(options.url), options.model, read_key(options.key_env))
    served = find_served(upstream, wait_s=options.wait_s, timeout_s=options.connect_s, version_at=dialect.version_at)
    return RemoteEngine(options, upstream, served, slots=slots)
