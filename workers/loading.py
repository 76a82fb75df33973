"""From a command line and a model's row to an engine that has answered once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.observe.logs import get_logger
from workers.engine.loader import KINDS, open_engine
from workers.engine.phases import Phases
from workers.engine.protocol import Engine, ModelError, Refused, Request
from workers.insist import Stopped

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.settings import Settings
    from batchinfer.store.fleet import Model
    from workers.engine.auto import Agrees
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
    #: The most that it may take on its device; None: what there is.
    memory_mib: int | None = None
    #: The row that a keeper started this process for; None makes one.
    replica: UUID | None = None


def load_engine(
    plan: Plan,
    model: Model,
    pinned: Pinned,
    settings: Settings | None = None,
    phases: Phases | None = None,
    agrees: Agrees | None = None,
) -> Engine:
    """Open the model's folder, or the server that answers for it; `phases` is told where the time goes. `agrees` holds
    the vLLM that `auto` would take to golden prompts. Raises ModelError, whatever goes wrong; what libraries say goes
    to the log. What `agrees` raises as Stopped goes through.
    """
    if plan.engine not in KINDS:
        raise ModelError("unknown_engine", f"The engine must be one of {', '.join(KINDS)}, not {plan.engine}.")
    try:
        return open_engine(
            plan.engine,
            Path(model.path),
            device=pinned.device,
            slots=plan.slots,
            threads=pinned.threads,
            phases=phases,
            **_complete_options(plan, settings, agrees),
        )
    except (ModelError, Stopped):
        raise
    except ImportError as error:
        raise ModelError(
            "engine_not_installed", f"The engine needs {error.name}; install batchinfer with its extra `worker`."
        ) from None
    except Exception:
        _log.exception("the engine could not be opened")
        raise ModelError("engine_failed", "The engine could not be opened; the worker's log says why.") from None


def _complete_options(plan: Plan, settings: Settings | None, agrees: Agrees | None = None) -> dict[str, Any]:
    """The engine's options, with what this host knows of vLLM and the model's name at a server where they say none."""
    options = {name: value for name, value in plan.engine_options.items() if name != "agrees"}
    if plan.engine in ("remote", "vllm"):
        options.setdefault("model", plan.model)
    here: dict[str, Any] = {}
    if settings is not None and settings.vllm_python:
        here = {
            "python": settings.vllm_python,
            "log": str(settings.logs_dir / f"vllm-{plan.model.replace('/', '_')}.log"),
        }
    if plan.engine == "vllm":
        return {**here, **options}
    if plan.engine == "auto" and agrees is not None:
        options["agrees"] = agrees
    if plan.engine == "auto" and (here or "vllm" in options):
        options["vllm"] = {**here, **options.get("vllm", {}), "model": plan.model}
    return options


def find_verdict(engine: Engine) -> dict[str, Any] | None:
    """What the self-test at load found, and why `auto` took this engine, as JSON; None where neither is there."""
    verdict, choice = getattr(engine, "verdict", None), getattr(engine, "choice", None)
    found = {} if verdict is None else dict(verdict.as_json())
    return found | ({"choice": choice} if choice else {}) or None


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
