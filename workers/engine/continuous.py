"""Open the continuous engine over a loaded model, or the static one where the self-test says so."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch

from workers.engine.engine import TransformersEngine
from workers.engine.features import Features
from workers.engine.loader import LoadedModel
from workers.engine.phases import Phases
from workers.engine.quick_modules import limit_copies
from workers.engine.scheduler import plan_classes
from workers.engine.static import StaticBatchEngine
from workers.engine.verify import Verdict, verify_model

_log = logging.getLogger(__name__)

#: Of the memory that is free when the engine opens, the share that slots may take.
_MEMORY_SHARE = 0.5
#: Where the platform does not say how much memory is free, in bytes.
_ASSUMED_FREE = 4 * 2**30


def open_continuous(
    loaded: LoadedModel,
    *,
    slots: int,
    verdict: Verdict | None = None,
    attempt: Sequence[str] = (),
    slot_bytes: int | None = None,
    context_tokens: int | None = None,
    copy_bytes: int | None = None,
    phases: Phases | None = None,
    **options: Any,
) -> TransformersEngine | StaticBatchEngine:
    """The engine that serves a model as the verdict says; without one the self-test runs first.

    The engine has the verdict as `verdict`. `attempt` names features that are off because no GPU has run them yet, to
    be tested and used where they match. `slot_bytes` is what keys and values of all slots may take, by default half
    of what is free; `context_tokens` the most that a request may have, at most the model's own; `copy_bytes` what
    copies of weights that are faster may take, by default a share of what is free; `phases` is told how long the
    self-test takes; `options` go to the engine's class. Raises ModelError for a model that cannot answer at all.
    """
    limit_copies(copy_bytes)
    verdict = verdict or verify_model(loaded, attempt=attempt, phases=phases)
    if verdict.engine == "static":
        _log.warning("model %s is served in static batches: %s", loaded.name, verdict.reasons.get("engine"))
        shared = {name: options[name] for name in ("preparers", "max_images") if name in options}
        static = StaticBatchEngine(loaded, slots=slots, **shared)
        static.verdict = verdict
        return static
    limit = find_slot_bytes(loaded.model.device) if slot_bytes is None else slot_bytes
    context = min(loaded.context_tokens, context_tokens or loaded.context_tokens)
    classes = plan_classes(slots, context, bytes_per_token=verdict.token_bytes, limit_bytes=limit)
    engine = TransformersEngine(loaded, classes=classes, features=Features(**verdict.features), **options)
    engine.verdict = verdict
    return engine


def find_slot_bytes(device: torch.device) -> int:
    """Half of the memory that is free on a device, in bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            free = _ASSUMED_FREE
    return int(free * _MEMORY_SHARE)
