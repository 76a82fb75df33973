"""A memory budget, held to: sizes chosen before the load, a bound set on the process, and what it really took.

A replica is a process of its own, so whatever goes past a budget fails in it and nowhere else.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from batchinfer.domain.launches import find_context
from batchinfer.domain.memory import CUDA_BASE_MIB, MIB
from batchinfer.errors import BadRequest
from batchinfer.observe.logs import get_logger
from batchinfer.services import memory
from workers.engine.features import Budgets
from workers.engine.protocol import ModelError
from workers.vitals import read_reserved_mib, read_status

if TYPE_CHECKING:
    from batchinfer.domain.memory import MemoryPlan
    from batchinfer.services.context import Context
    from batchinfer.store.fleet import Model
    from workers.loading import Plan

#: Engines whose sizes are ours to choose.
_SIZED = ("auto", "transformers", "static")
#: What a process on the CPU may map beyond its plan: stacks of threads, arenas of the allocator.
_SLACK_MIB = 512

_log = get_logger(__name__)


def bind(ctx: Context, plan: Plan, model: Model, device: str) -> Plan:
    """The plan with slots, lengths and caches that its budget holds; as it is where it has none.

    On a GPU the process is bound from here on. Raises ModelError where not even one slot fits.
    """
    if plan.memory_mib is None or plan.engine not in _SIZED:
        return plan
    words = {"dtype": "auto", "quantisation": "none", **plan.engine_options}
    kind = device.partition(":")[0]
    context = find_context(plan.engine_options)
    spec = memory.LaunchSpec(
        kind, plan.slots, str(words["dtype"]), str(words["quantisation"]), plan.memory_mib, context
    )
    try:
        planned = memory.plan_worker(ctx, model, spec)
    except BadRequest as error:
        raise ModelError(error.code, error.message) from None
    if kind == "cuda":
        _bind_device(device, plan.memory_mib)
    if planned is None:
        _log.warning("nothing is known of the model's files, so its budget chooses no sizes", model=model.name)
        return plan
    _log.info("planned", **{part: getattr(planned, part) for part in _SHOWN}, budget_mib=plan.memory_mib)
    options = {**_choose(planned, plan.engine), **plan.engine_options}
    return replace(plan, slots=planned.slots, engine_options=options)


_SHOWN = ("weights_mib", "activations_mib", "kv_mib", "workspace_mib", "total_mib", "slots", "context_tokens")


def hold(plan: Plan, device: str) -> None:
    """Bound what the process may add to what it holds by now, where it has a budget on the CPU.

    Beyond, the allocator refuses, and the engine makes its forwards smaller or fails the one request.
    """
    if plan.memory_mib is None or device != "cpu":
        return
    left = max(0, plan.memory_mib - read_status("VmRSS"))
    mapped = read_status("VmData")
    limit = (mapped + left + _SLACK_MIB) * MIB
    with suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


@cache
def measure_mib(device: str) -> int | None:
    """What this process held on its device when it was first asked: resident memory, or what torch reserved at the
    most and the context. Work adds to it later, which is no part of what a load takes.

    Pages of weights that are mapped from their files count: they must be there to compute with.
    """
    if device == "cpu":
        return read_status("VmRSS")
    return read_reserved_mib(most=True)


def _choose(planned: MemoryPlan, engine: str) -> dict[str, Any]:
    """The engine's options that stand for a plan."""
    if engine == "static":
        return {}
    allowance = planned.allowance
    budgets = Budgets(
        prefill_tokens=allowance.prefill_tokens,
        chunk_tokens=min(Budgets.chunk_tokens, allowance.prefill_tokens),
        encoder_cache_bytes=allowance.encoder_cache_mib * MIB,
        prefix_cache_bytes=allowance.prefix_cache_mib * MIB,
        pixel_cache_bytes=allowance.pixel_cache_mib * MIB,
        ready_bytes=allowance.ready_mib * MIB,
    )
    return {
        "budgets": budgets,
        "slot_bytes": planned.kv_mib * MIB,
        "context_tokens": planned.context_tokens,
        # What was planned, not what happens to be free.
        "copy_bytes": planned.copies_mib * MIB,
    }


def _bind_device(device: str, budget_mib: int) -> None:
    """Let torch reserve no more on the GPU than the budget, less what CUDA keeps for itself. Raises ModelError."""
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    share = (budget_mib - CUDA_BASE_MIB) * MIB / total
    if share <= 0:
        raise ModelError(
            "memory_budget_too_small",
            f"A budget of {budget_mib:,} MiB is too small: CUDA alone takes about {CUDA_BASE_MIB:,} MiB of a GPU.",
        )
    torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
