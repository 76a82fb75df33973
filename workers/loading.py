"""From a command line and a model's row to an engine that has answered once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.observe.logs import get_logger
from workers.engine.loader import KINDS, open_engine
from workers.engine.protocol import Engine, ModelError, Refused, Request

if TYPE_CHECKING:
    from batchinfer.store.fleet import Model
    from workers.pin import Pinned

_log = get_logger(__name__)


@dataclass(frozen=True)
class Plan:
    """What this process is to serve, from its command line."""

    model: str
    device: str
    engine: str
    slots: int
    threads: int
    engine_options: dict[str, Any]


def load_engine(plan: Plan, model: Model, pinned: Pinned) -> Engine:
    """Open the model's folder. Raises ModelError, whatever goes wrong; what libraries say goes to the log."""
    if plan.engine not in KINDS:
        raise ModelError("unknown_engine", f"The engine must be one of {', '.join(KINDS)}, not {plan.engine}.")
    try:
        return open_engine(
            plan.engine,
            Path(model.path),
            device=pinned.device,
            slots=plan.slots,
            threads=pinned.threads,
            **plan.engine_options,
        )
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(
            "engine_not_installed", f"The engine needs {error.name}; install batchinfer with its extra `worker`."
        ) from None
    except Exception:
        _log.exception("the engine could not be opened")
        raise ModelError("engine_failed", "The engine could not be opened; the worker's log says why.") from None


def find_verdict(engine: Engine) -> dict[str, Any] | None:
    """What the self-test at load found, as JSON; None for engines that have none."""
    verdict = getattr(engine, "verdict", None)
    return None if verdict is None else dict(verdict.as_json())


def verify_engine(engine: Engine, timeout_s: float) -> None:
    """Answer one short prompt, so that a model that cannot is found before it takes work. Raises ModelError."""
    text = {"type": "text", "text": "Hello"}
    request = Request(id="self-test", messages=({"role": "user", "content": [text]},), max_tokens=2)
    started = time.monotonic()
    try:
        done = engine.submit(request).result(timeout_s)
    except (Refused, TimeoutError) as error:
        raise ModelError("self_test_failed", f"The model does not answer a short prompt: {error}") from None
    if done.finish not in ("stop", "length"):
        why = done.error.message if done.error else done.finish
        raise ModelError("self_test_failed", f"The model does not answer a short prompt: {why}")
    _log.info("the model answers", seconds=round(time.monotonic() - started, 2))
