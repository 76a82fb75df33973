"""Who is compared: our engines, opened afresh for each run, and transformers' `generate` in static batches.

Everybody prepares pictures and prompts with the same code inside the measured time, and is shown a few other requests
before it. Rates are over the processor time that this process took: with everything on one core that is the time which
an otherwise idle core would take, and other work on the machine does not decide who wins, though it shares the caches.
A fresh engine has empty caches, so that no run profits from the one before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from workers.engine.loader import LoadedModel
from workers.engine.pixel_bytes import join_vision
from workers.engine.prepared import Prepared
from workers.engine.protocol import Done, Engine, Handle, Request

#: Seconds after which a request that has not ended stops the bench.
PATIENCE_S = 3600.0


@dataclass(frozen=True)
class Run:
    """One pass over requests: seconds, and the tokens of each answer. `occupancy` is that of slots under backlog.

    `cpu_s` is the time that the process was on a processor meanwhile, all of its threads together.
    """

    seconds: float
    cpu_s: float
    answers: dict[str, tuple[int, ...]]
    occupancy: float | None = None
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Tokens asked for and made, per second of processor time."""
        return self._tokens / self.cpu_s

    @property
    def clock_rate(self) -> float:
        """The same per second by the clock."""
        return self._tokens / self.seconds

    @property
    def _tokens(self) -> int:
        return sum(len(tokens) for tokens in self.answers.values())


class Contestant(Protocol):
    """Answers requests as fast as it can, all of them waiting from the start."""

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...

    def run(self, requests: Sequence[Request], warm: Sequence[Request]) -> Run: ...


@dataclass(frozen=True)
class Generate:
    """Plain `generate` on batches in the order in which the requests come; each runs until its longest has ended."""

    loaded: LoadedModel
    batch: int
    #: At most so many requests are answered, where more of them would take hours.
    most: int | None = None

    @property
    def name(self) -> str:
        return f"generate, batch {self.batch}"

    @property
    def about(self) -> str:
        """For the table's legend."""
        few = f"; the first {self.most} requests only" if self.most else ""
        return f"transformers' generate in static batches of {self.batch}{few}"

    def run(self, requests: Sequence[Request], warm: Sequence[Request]) -> Run:
        """Answer all; rows that have ended go on with their batch, and their surplus does not count."""
        self._answer(warm)
        began, cpu = time.perf_counter(), time.process_time()
        answers = self._answer(requests[: self.most])
        return Run(time.perf_counter() - began, time.process_time() - cpu, answers)

    def _answer(self, requests: Sequence[Request]) -> dict[str, tuple[int, ...]]:
        answers: dict[str, tuple[int, ...]] = {}
        processing = self.loaded.processing
        for first in range(0, len(requests), self.batch):
            group = requests[first : first + self.batch]
            items = [processing.prepare(request, processing.render(request), 0.0) for request in group]
            for item, tokens in zip(items, generate(self.loaded, items), strict=True):
                answers[item.id] = tuple(tokens[: item.request.max_tokens])
        return answers


@torch.inference_mode()
def generate(loaded: LoadedModel, items: Sequence[Prepared]) -> list[list[int]]:
    """New tokens of each row of one greedy batch, as many as its longest wants, whatever ends an answer."""
    width = max(item.prompt_tokens for item in items)
    inputs: dict[str, Tensor] = {}
    for name in items[0].sequence:
        fill = loaded.pad_id if name == "input_ids" else 0
        rows = [item.sequence[name] for item in items]
        padded = [torch.nn.functional.pad(row, (width - row.shape[1], 0), value=fill) for row in rows]
        inputs[name] = torch.cat(padded).to(loaded.model.device)
    inputs |= join_vision(items, loaded.model.device, loaded.model.dtype) if items[0].vision else {}
    output: Any = loaded.model.generate(
        **inputs,
        max_new_tokens=max(item.request.max_tokens for item in items),
        do_sample=False,
        eos_token_id=None,
        pad_token_id=loaded.pad_id,
    )
    made: list[list[int]] = output[:, width:].tolist()
    return made


@dataclass(frozen=True)
class Served:
    """One of our engines behind its seam, fed as a worker feeds it: twice as many inside as there are slots."""

    name: str
    about: str
    open: Callable[[], Engine]
    slots: int

    def run(self, requests: Sequence[Request], warm: Sequence[Request]) -> Run:
        """Answer all in a fresh engine, whose opening is not measured."""
        engine = self.open()
        try:
            for handle in [engine.submit(request) for request in warm]:
                handle.result(PATIENCE_S)
            began, cpu = time.perf_counter(), time.process_time()
            handles, occupancy = feed(engine, requests, self.slots)
            done = [handle.result(PATIENCE_S) for handle in handles]
            seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        finally:
            engine.close()
        check_ends(done)
        texts = {answer.id: answer.text for answer in done}
        return Run(seconds, cpu_s, {answer.id: answer.token_ids for answer in done}, occupancy, texts)


def feed(engine: Engine, requests: Sequence[Request], slots: int) -> tuple[list[Handle], float | None]:
    """Submit all, never more than twice the slots at once.

    Returns the handles, and the mean share of slots in use between the end of the first `slots` requests and the last
    submission; None where there were too few requests for that.
    """
    places = threading.Semaphore(2 * slots)
    handles, start = [], None
    for number, request in enumerate(requests):
        places.acquire()
        # By now `number` minus what is inside have ended.
        if number == 3 * slots:
            start = engine.stats()
        handles.append(engine.submit(request, on_done=lambda _: places.release()))
    end = engine.stats()
    if start is None or end.steps == start.steps:
        return handles, None
    return handles, (end.row_steps - start.row_steps) / (end.steps - start.steps) / slots


def check_ends(done: Sequence[Done]) -> None:
    """Raises RuntimeError where an answer did not end by its length."""
    for answer in done:
        if answer.finish != "length":
            reason = answer.error.message if answer.error else answer.finish
            raise RuntimeError(f"request {answer.id} did not run to its length: {reason}")
