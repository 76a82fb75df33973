"""Golden prompts run through an engine and judged: before a revision takes over, and where two models are compared."""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.domain.goldens import GoldenPrompt, find_mismatch
from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.errors import Failure
from batchinfer.media.sandbox import SandboxPool
from batchinfer.observe.logs import get_logger
from workers.engine.protocol import Engine, Handle, Image, Refused, Request, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from uuid import UUID

    from batchinfer.domain.goldens import Picture
    from batchinfer.media.blobs import BlobStore
    from batchinfer.services.context import Context
    from batchinfer.settings import Settings

_log = get_logger(__name__)
#: Requests that are in the engine at once.
_TOGETHER = 16
_SEARCH_S = 2.0
#: How often somebody who waits looks whether the answer is still wanted, in seconds.
_LOOK_S = 1.0


@dataclass(frozen=True)
class GoldenCase:
    """A golden prompt as a request of the engine, and what its answer is held to."""

    name: str
    request: Request
    kind: str
    expected: Any


@dataclass(frozen=True)
class GoldenResult:
    """What an engine answered. `fault` is None where that is right; `seconds` from its submission to its end."""

    name: str
    answer: str
    fault: str | None
    seconds: float
    completion_tokens: int = 0


@dataclass(frozen=True)
class GoldenReport:
    """How an engine did on all of them."""

    results: tuple[GoldenResult, ...] = ()
    seconds: float = 0.0

    @property
    def right(self) -> int:
        """How many were answered rightly."""
        return sum(result.fault is None for result in self.results)

    @property
    def passed(self) -> bool:
        """Whether all were."""
        return self.right == len(self.results)

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for a replica's verdict: counts, seconds, and the first faults."""
        faults = [{"name": one.name, "fault": one.fault} for one in self.results if one.fault is not None]
        return {"right": self.right, "of": len(self.results), "seconds": round(self.seconds, 3), "faults": faults[:10]}

    def describe_fault(self) -> str:
        """The first that was not answered rightly, as a sentence; empty where all were."""
        first = next((one for one in self.results if one.fault is not None), None)
        return "" if first is None else f"The first that it does not, `{first.name}`: {first.fault}"

    def find_error(self) -> Failure | None:
        """The error that a replica ends with; None where all were answered rightly."""
        if self.passed:
            return None
        return Failure(
            f"It answers {self.right} of {len(self.results)} golden prompts rightly. {self.describe_fault()}",
            code="golden_failed",
        )


def read_stored_goldens(stored: Sequence[Mapping[str, Any]] | None) -> list[GoldenPrompt]:
    """Golden prompts as a deployment or its swap keeps them. Raises Failure (code prompt_unreadable)."""
    try:
        return [GoldenPrompt.from_stored(entry) for entry in stored or ()]
    except (KeyError, TypeError, AttributeError):
        raise Failure(
            "A golden prompt cannot be read. Begin a swap with them again.", code="prompt_unreadable"
        ) from None


def ask_goldens(
    ctx: Context, engine: Engine, stored: Sequence[Mapping[str, Any]], *, wanted: Callable[[], bool] = lambda: True
) -> GoldenReport:
    """Let an engine answer golden prompts that are stored.

    Raises Failure (codes prompt_unreadable, blob_missing), BadImage, Unavailable.
    """
    goldens = read_stored_goldens(stored)
    with tempfile.TemporaryDirectory(prefix="batchinfer-golden-") as scratch:
        cases = prepare_goldens(goldens, Path(scratch), ctx.settings, blobs=ctx.blobs, tenant_id=DEFAULT_TENANT)
        return run_golden(engine, cases, wanted=wanted)


def prepare_goldens(
    goldens: Sequence[GoldenPrompt], scratch: Path, settings: Settings, *, blobs: BlobStore, tenant_id: UUID
) -> list[GoldenCase]:
    """Golden prompts as requests. Their pictures, by value or from a tenant's blobs, are made plain by the sandbox and
    lie in `scratch` until the caller removes it.

    Raises BadImage for one that is broken, Failure (code blob_missing), Unavailable.
    """
    if not any(golden.pictures for golden in goldens):
        return [_make_case(number, golden, ()) for number, golden in enumerate(goldens)]
    desk = _Desk(scratch, settings, blobs, tenant_id)
    try:
        return [
            _make_case(number, golden, tuple(desk.normalise(picture) for picture in golden.pictures))
            for number, golden in enumerate(goldens)
        ]
    finally:
        desk.close()


class _Desk:
    """Where pictures are made plain, each once."""

    def __init__(self, scratch: Path, settings: Settings, blobs: BlobStore, tenant_id: UUID) -> None:
        self._scratch, self._settings, self._blobs, self._tenant_id = scratch, settings, blobs, tenant_id
        self._sandbox = SandboxPool(1, settings.sandbox_memory_mib, settings.sandbox_timeout_s)
        self._made: dict[str, Image] = {}

    def close(self) -> None:
        self._sandbox.close()

    def normalise(self, picture: Picture) -> Image:
        name = picture.sha256 or hashlib.sha256(picture.data).hexdigest()
        if name not in self._made:
            source, target = self._scratch / f"sent-{name}", self._scratch / f"golden-{name}"
            source.write_bytes(picture.data or self._blobs.read(self._tenant_id, name))
            settings = self._settings
            self._sandbox.run(
                "normalise", source=str(source), target=str(target), max_pixels=settings.max_image_pixels,
                max_side=settings.max_side, max_frames=settings.max_frames,
            )  # fmt: skip
            source.unlink()
            self._made[name] = Image(hashlib.sha256(target.read_bytes()).hexdigest(), target)
        return self._made[name]


def _make_case(number: int, golden: GoldenPrompt, images: tuple[Image, ...]) -> GoldenCase:
    request = Request(
        id=f"golden-{number}", messages=golden.messages, images=images, sampling=Sampling(**golden.sampling),
        max_tokens=golden.max_tokens, stop=golden.stop, response_format=golden.response_format, evictable=False,
    )  # fmt: skip
    return GoldenCase(golden.name, request, golden.kind, golden.expected)


@dataclass
class _Flight:
    """A case in the engine."""

    case: GoldenCase
    handle: Handle
    began_s: float = field(default_factory=time.monotonic)


def run_golden(
    engine: Engine,
    goldens: Sequence[GoldenCase],
    *,
    timeout_s: float = 600.0,
    wanted: Callable[[], bool] = lambda: True,
) -> GoldenReport:
    """Let an engine answer every golden prompt, some at once, and judge it. What has no answer after `timeout_s`
    seconds, or once it is no longer `wanted`, counts as wrong. Raises nothing of the engine's."""
    began_s, results = time.monotonic(), []
    _log.info("golden prompts are asked", of=len(goldens))
    for start in range(0, len(goldens), _TOGETHER):
        flights = [_submit(engine, case) for case in goldens[start : start + _TOGETHER]]
        for flight in flights:
            if isinstance(flight, GoldenResult):
                results.append(flight)
            else:
                results.append(_wait(engine, flight, began_s + timeout_s, wanted))
    report = GoldenReport(tuple(results), time.monotonic() - began_s)
    _log.info("golden prompts were answered", right=report.right, of=len(results), seconds=round(report.seconds, 2))
    return report


def _submit(engine: Engine, case: GoldenCase) -> _Flight | GoldenResult:
    try:
        return _Flight(case, engine.submit(case.request))
    except Refused as refusal:
        return GoldenResult(case.name, "", f"It is refused: {refusal.message}", 0.0)


def _wait(engine: Engine, flight: _Flight, until_s: float, wanted: Callable[[], bool]) -> GoldenResult:
    case = flight.case
    for left_s in _count_down(until_s):
        try:
            done = flight.handle.result(left_s)
        except TimeoutError:
            if wanted():
                continue
            break
        spent_s, tokens = time.monotonic() - flight.began_s, done.usage.completion_tokens
        if done.finish in ("stop", "length"):
            fault = find_mismatch(case.kind, case.expected, done.text, search=_search)
            return GoldenResult(case.name, done.text, fault, spent_s, tokens)
        why = done.error.message if done.error else f"It ended as {done.finish}."
        return GoldenResult(case.name, done.text, why, spent_s, tokens)
    engine.cancel(case.request.id)
    return GoldenResult(
        case.name, "", "It has no answer in the time that there was.", time.monotonic() - flight.began_s
    )


def _count_down(until_s: float) -> Iterator[float]:
    """How long to wait for the next look, until there is no time left; at least one look."""
    yield max(0.0, min(_LOOK_S, until_s - time.monotonic()))
    while (left_s := until_s - time.monotonic()) > 0:
        yield min(_LOOK_S, left_s)


def _search(pattern: str, answer: str) -> bool:
    """Whether an expression finds something, within seconds: one of them can keep a process for hours."""
    try:
        import regex  # type: ignore[import-untyped,unused-ignore]
    except ImportError:  # only transformers brings it
        return re.search(pattern, answer) is not None
    try:
        return regex.search(pattern, answer, timeout=_SEARCH_S) is not None
    except (TimeoutError, regex.error):
        return False
