"""An engine without a model: deterministic answers at a settable rate, for trials, demonstrations and tests.

The answer is one line of JSON that names what was asked, so that whoever reads it knows which request it
belongs to. Markers in a prompt steer it: `[[steps:N]]` answers in N tokens, `[[fail:code]]` ends with that error,
`[[transient:code]]` with one that may pass another time, `[[once:code]]` with such an error the first time that
this engine sees the request. `[[loops:N]]`, `[[empty:N]]`, `[[wrong:N]]` and `[[long:N]]` answer the first N times
with text that repeats itself, says nothing, is no JSON, or never ends. With `allow_faults`, `[[crash]]` ends the
process and `[[hang]]` stops the steps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from workers.engine.lifecycle import ThreadedEngine
from workers.engine.phases import Phases
from workers.engine.protocol import Done, EngineFailure, Finish, Refused, Request, TokenUsage
from workers.engine.repetition import REPEATS_FAILURE, has_to_stop
from workers.engine.requests import list_texts
from workers.engine.scheduler import Places
from workers.engine.text import StopText
from workers.engine.tickets import Ticket
from workers.engine.yielding import Running, Wanting

#: Characters that pass for one token.
TOKEN_CHARACTERS = 4
#: Tokens that pass for one picture.
IMAGE_TOKENS = 64
#: How the process ends on `[[crash]]`.
CRASH_EXIT_CODE = 70
_MARKER = re.compile(r"\[\[(steps|fail|transient|once|loops|empty|wrong|long|crash|hang)(?::([A-Za-z0-9_]{1,64}))?\]\]")
_MOST_STEPS = 100_000
#: What stands for an answer that is none.
_BAD_ANSWERS = {
    "loops": "again and again " * 4000, "empty": " ", "wrong": "nothing that was asked for",
    "long": " ".join(str(number) for number in range(10_000)),
}  # fmt: skip
#: Requests that `[[once:…]]` and the like remember.
_REMEMBERED = 10_000

_log = logging.getLogger(__name__)


@dataclass
class _Row:
    """A request in a slot."""

    ticket: Ticket
    tokens: list[str]
    text: StopText
    markers: dict[str, str]
    waited_s: float
    started_at: float = field(default_factory=time.monotonic)
    made: int = 0
    shared: int = 0

    @property
    def limit(self) -> int:
        return min(len(self.tokens), self.ticket.request.max_tokens)


class FakeEngine(ThreadedEngine):
    """Admits a request between any two steps; each step makes one token for each row.

    `steps_per_s` and `requests_per_s` are the rates of steps and of admissions; 0 is as fast as it can.
    """

    name = "fake"

    def __init__(
        self,
        *,
        model: str = "fake",
        slots: int = 8,
        steps_per_s: float = 0.0,
        requests_per_s: float = 0.0,
        context_tokens: int = 32_768,
        max_images: int = 16,
        allow_faults: bool = False,
    ) -> None:
        super().__init__(slots=slots, context_tokens=context_tokens, max_images=max_images)
        self._name_of_model = model
        self._step_s = 1 / steps_per_s if steps_per_s > 0 else 0.0
        self._admission_s = 1 / requests_per_s if requests_per_s > 0 else 0.0
        self._allow_faults = allow_faults
        self._rows: list[_Row] = []
        self._admit_at = self._step_at = 0.0
        #: How often each was seen.
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._thread.start()

    @property
    def _model(self) -> tuple[str, str]:
        return self._name_of_model, "fake"

    def _accept(self, ticket: Ticket) -> None:
        if count_prompt_tokens(ticket.request) >= self.context_tokens:
            raise Refused(
                "context_length_exceeded",
                f"The prompt has {count_prompt_tokens(ticket.request)} tokens and the model's context holds "
                f"{self.context_tokens}; shorten the text or send fewer pictures.",
            )

    def _turn(self) -> None:
        self._admit()
        if not self._rows:
            with self._changed:
                self._wait_for_work(max(0.0, self._admit_at - time.monotonic()))
            return
        self._wait_for_step()
        self._sweep()
        self._moved(rows=len(self._rows))
        sharing = len(self._rows)
        self._rows = [row for row in self._rows if self._step(row, sharing)]

    def _admit(self) -> None:
        now = time.monotonic()
        if now >= self._admit_at and self._is_asked_to_yield():
            self._yield_slots()
        for ticket in self._by_urgency():
            if len(self._rows) >= self.slots or now < self._admit_at:
                return
            self._start(ticket)
            self._admit_at = now + self._admission_s
            self._rows.append(self._new_row(ticket, now))

    def _yield_slots(self) -> None:
        """Night work makes room, before anybody is admitted."""
        # Where admissions take time, a slot is freed when somebody can have it.
        ready = [Wanting(ticket) for ticket in self._by_urgency()][: 1 if self._admission_s else None]
        free = self.slots - len(self._rows)
        running = [Running(row.ticket, row.started_at) for row in self._rows]
        evicted = self._evict(ready, running, Places([(0, free)]), free=free)
        for row in self._rows:
            if row.ticket in evicted:
                self._end(row, "cancelled")
        self._rows = [row for row in self._rows if row.ticket not in evicted]

    def _new_row(self, ticket: Ticket, now: float) -> _Row:
        markers = dict(_MARKER.findall("\n".join(list_texts(ticket.request))))
        tokens = split_tokens(self._find_answer(ticket.request, markers), markers.get("steps", ""))
        text = StopText(ticket.request.stop)
        return _Row(ticket, tokens, text, markers, waited_s=now - ticket.submitted_at)

    def _find_answer(self, request: Request, markers: dict[str, str]) -> str:
        bad = [kind for kind in _BAD_ANSWERS if markers.get(kind, "").isdigit()]
        times = self._count_seen(request.id) if bad else 0
        return next((_BAD_ANSWERS[kind] for kind in bad if times < int(markers[kind])), None) or answer(request)

    def _wait_for_step(self) -> None:
        """Keep the rate, but let go at once when the engine closes."""
        with self._changed:
            while not self._closing and (left_s := self._step_at - time.monotonic()) > 0:
                self._changed.wait(left_s)
        # A step that came a little late does not put off the next; after a pause the rate begins anew.
        late_s = time.monotonic() - self._step_at
        self._step_at += self._step_s + (late_s if late_s > self._step_s else 0.0)

    def _step(self, row: _Row, sharing: int) -> bool:
        """One token for one row. False where it has ended."""
        if row.ticket.done():  # given back by `drain`
            return False
        if finish := row.ticket.find_interruption(time.monotonic()):
            self._end(row, finish)
            return False
        if self._meets_fault(row):
            return False
        row.shared += sharing
        row.made += 1
        row.ticket.emit(row.text.grow(row.tokens[row.made - 1]))
        if row.ticket.request.stop_repetition and has_to_stop(row.tokens[: row.made]):
            self._end(row, "error", REPEATS_FAILURE)
            return False
        if not row.text.stopped and row.made < row.limit:
            return True
        whole = row.text.stopped or row.made == len(row.tokens)
        row.ticket.emit(row.text.flush())
        self._end(row, "stop" if whole else "length")
        return False

    def _meets_fault(self, row: _Row) -> bool:
        markers, ticket = row.markers, row.ticket
        if self._allow_faults and "crash" in markers:
            os._exit(CRASH_EXIT_CODE)
        if self._allow_faults and "hang" in markers:
            with self._changed:
                self._changed.wait_for(lambda: self._closing)
            return False
        for kind in ("fail", "transient", "once"):
            if kind in markers and not (kind == "once" and self._count_seen(ticket.id)):
                code = markers[kind] or "fake_failure"
                failure = EngineFailure(code, f"The prompt asked for the failure {code}.", transient=kind != "fail")
                self._end(row, "error", failure)
                return True
        return False

    def _count_seen(self, request_id: str) -> int:
        """How often it was seen before this time."""
        times = self._seen.get(request_id, 0)
        self._seen[request_id] = times + 1
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return times

    def _end(self, row: _Row, finish: Finish, error: EngineFailure | None = None) -> None:
        request = row.ticket.request
        usage = TokenUsage(
            prompt_tokens=count_prompt_tokens(request),
            completion_tokens=row.made,
            image_tokens=IMAGE_TOKENS * len(request.images),
            images=len(request.images),
        )
        timings = {
            "waiting": row.waited_s,
            "decoding": time.monotonic() - row.started_at,
            "rows": row.shared / row.made if row.made else 0.0,
        }
        self._finish(row.ticket, Done(request.id, row.text.text, finish, error=error, usage=usage, timings=timings))


def open_fake(
    *,
    phases: Phases | None = None,
    read_s: float = 0.0,
    copy_s: float = 0.0,
    warm_up_s: float = 0.0,
    **options: Any,
) -> FakeEngine:
    """An engine whose load passes so many seconds in each phase. `options` go to `FakeEngine`."""
    phases = phases or Phases()
    for name, seconds in (("read", read_s), ("copy", copy_s), ("warm_up", warm_up_s)):
        if seconds > 0:
            _log.info("a phase of the load begins", extra={"phase": name, "seconds": seconds})
            with phases.timed(name):
                time.sleep(seconds)
    return FakeEngine(**options)


def answer(request: Request) -> str:
    """What the engine answers: the same for the same messages and pictures, whatever the id."""
    texts = list_texts(request)
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    fields = {
        "engine": "fake",
        "prompt": texts[-1][:80] if texts else "",
        "prompt_sha256": digest,
        "images": [image.sha256 for image in request.images],
    }
    return json.dumps(fields, ensure_ascii=False)


def count_prompt_tokens(request: Request) -> int:
    """What the prompt counts for."""
    characters = sum(len(text) for text in list_texts(request))
    return -(-characters // TOKEN_CHARACTERS) + IMAGE_TOKENS * len(request.images)


def split_tokens(text: str, steps: str = "") -> list[str]:
    """The answer in pieces of equal length, or in as many as `steps` says: longer by dots, if need be."""
    if not steps.isdigit() or int(steps) < 1:
        return [text[at : at + TOKEN_CHARACTERS] for at in range(0, len(text), TOKEN_CHARACTERS)]
    count = min(int(steps), _MOST_STEPS)
    if count >= len(text):
        return list(text) + ["."] * (count - len(text))
    size = len(text) // count
    pieces = [text[at * size : (at + 1) * size] for at in range(count - 1)]
    return [*pieces, text[(count - 1) * size :]]
