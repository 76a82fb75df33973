"""The engine seam: plain data in, plain data out. Engines know nothing of jobs, leases or databases.

One suite, `tests/engine/test_conformance.py`, holds every engine to what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

#: What `progress` says of an engine that cannot go on.
OVER = float("-inf")
Finish = Literal["stop", "length", "cancelled", "expired", "error"]
Stage = Literal["preparing", "waiting", "prefill", "decoding"]


class Refused(Exception):
    """Raised by `submit` for what can never run, with a stable code and a sentence that says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ModelError(Exception):
    """Raised while a model folder is opened, with a stable code and a sentence that says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Image:
    """A normalised picture: its SHA-256 (of the file, hexadecimal) and where the file lies."""

    sha256: str
    path: Path


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; None leaves a choice to the model's own settings."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    logprobs: bool = False


@dataclass(frozen=True)
class Request:
    """One prompt. A message is `{"role", "content": [{"type": "text", "text"} | {"type": "image", "index"}]}`,
    where `index` counts into `images`. `deadline` is on `time.monotonic()`, in seconds. With `stop_repetition` an
    answer that says the same over and over (repetition.py) ends early, with the error `output_repeats`."""

    id: str
    messages: tuple[Mapping[str, Any], ...]
    images: tuple[Image, ...] = ()
    sampling: Sampling = Sampling()
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    response_format: Mapping[str, Any] | None = None
    job_class: str = "normal"
    deadline: float | None = None
    stop_repetition: bool = False
    #: Of class batch: whether its slot may be given to an interactive request while it runs. It then ends "cancelled".
    evictable: bool = True


@dataclass(frozen=True)
class TokenUsage:
    """Tokens in (those of pictures among them), out, and read from a cache; pictures."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    images: int = 0


@dataclass(frozen=True)
class EngineFailure:
    """Why a request ended with `finish="error"`. `transient` says whether the same request may pass another time.

    `retry_after_s` is how long a server asked to be left alone, where it did.
    """

    code: str
    message: str
    transient: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Done:
    """The one end of a request. `error` is set if and only if `finish` is "error".
    `timings` are seconds: waiting, preparing, prefill, decoding; and `rows`, the mean of rows that shared its steps."""

    id: str
    text: str
    finish: Finish
    error: EngineFailure | None = None
    usage: TokenUsage = TokenUsage()
    logprobs: tuple[Mapping[str, Any], ...] | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    #: What was generated, an end token among it; empty where an engine has no tokens.
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Capacity:
    """How much more fits now. A request fits where all three are enough."""

    requests: int
    tokens: int
    pixels: int


@dataclass(frozen=True)
class EngineStats:
    """Since the engine opened: steps, rows summed over steps, requests ended, tokens made; and what is in it now.

    `evicted` are those of the ended ones whose slot was given to an interactive request.
    """

    engine: str
    model: str
    revision: str
    slots: int
    steps: int
    row_steps: int
    ended: int
    completion_tokens: int
    running: int
    waiting: int
    evicted: int = 0

    @property
    def rows_per_step(self) -> float:
        """Mean rows that shared one step."""
        return self.row_steps / self.steps if self.steps else 0.0


class Handle(Protocol):
    """A submitted request. Ends exactly once."""

    @property
    def id(self) -> str: ...

    def result(self, timeout_s: float | None = None) -> Done:
        """Wait for the end. Raises TimeoutError."""

    def done(self) -> bool: ...


OnDone = Callable[[Done], None]
OnToken = Callable[[str, str], None]
OnTouched = Callable[[str], None]


class Engine(Protocol):
    """What a worker asks of an engine. Every method may be called from any thread."""

    name: str
    #: Set by whoever keeps breadcrumbs, before the first request: called with the id of a request just before the
    #: engine first touches it, to prepare it or to run it. On any of the engine's threads; must not block or raise.
    on_touched: OnTouched

    def submit(self, request: Request, on_done: OnDone | None = None, on_token: OnToken | None = None) -> Handle:
        """Take a request and return at once. Raises Refused for what can never run.

        `on_done(done)` is called exactly once, `on_token(id, text)` for each piece of text; both on the engine's
        thread, and must not block. An exception in a callback is logged and harms nobody else.

        Between two steps an engine may end a running request of class batch with `finish="cancelled"`, though nobody
        asked for it, where an interactive one finds no slot: send it again. `evictable` False keeps it from that.
        """

    def cancel(self, request_id: str) -> bool:
        """End a request between two steps with `finish="cancelled"`; False if it is not in the engine."""

    def stage(self, request_id: str) -> Stage | None:
        """What is being done with a request now; None if it is not in the engine. For people: a moment later it may
        be another."""

    def capacity(self) -> Capacity: ...

    def progress(self) -> float:
        """`time.monotonic()` of the last step, or of now where nothing is in the engine: the watchdog's food.

        `OVER` once no later step can pass, as after a lost device: the process should end and another be started.
        """

    def stats(self) -> EngineStats: ...

    def drain(self, deadline_s: float) -> tuple[str, ...]:
        """Take no more, finish what ends within `deadline_s` seconds, give back the ids of the rest.

        A request given back calls no callback and its handle ends with `finish="cancelled"`.
        """

    def close(self) -> None:
        """Stop at once; what is inside ends with `finish="cancelled"`. Safe to call twice."""
