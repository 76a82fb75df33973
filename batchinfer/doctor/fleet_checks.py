"""Models and workers: the last load of each model, whether workers live and claim, and memory against the plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.doctor.findings import Check, fail, fine, skip, warn
from batchinfer.doctor.host_checks import read_whole_mib
from batchinfer.domain.memory import reserve_mib
from batchinfer.observe.control_group import read_memory_limit
from batchinfer.services.memory import count_held
from batchinfer.store import fleet, leases, memory

if TYPE_CHECKING:
    from batchinfer.doctor.findings import Look, Said
    from batchinfer.store.fleet import Replica


def check_models(look: Look) -> Said:
    """The last load of each model."""
    ctx = look.require_ctx()
    with ctx.db.transaction() as tx:
        models, loads = fleet.list_models(tx), {load.model: load for load in fleet.list_last_loads(tx)}
    remedy = "`batchinfer models list` shows each try; `batchinfer models verify NAME` loads it beside the service."
    failed = [model.name for model in models if model.state == "failed"]
    if failed:
        return fail(f"{', '.join(failed)} could not be loaded. {_tell_error(loads.get(failed[0]))}".strip(), remedy)
    if not models:
        return warn(
            "No model is known.", "Register one: `batchinfer models register`, then `batchinfer models launch`."
        )
    worse = [load for load in loads.values() if load.ready_at is None]
    if worse:
        names = ", ".join(load.model for load in worse)
        return warn(f"The last load of {names} failed; an earlier one serves. {_tell_error(worse[0])}".strip(), remedy)
    ready = sum(model.state == "ready" for model in models)
    times = [f"{name} in {_count_s(load):.0f} s" for name, load in loads.items() if load.ready_at is not None]
    last = f" Last loads: {', '.join(times[:10])}." if times else ""
    return fine(f"{ready} of {len(models)} models are ready.{last}")


def _tell_error(load: Replica | None) -> str:
    return str((load.error or {}).get("message", "")) if load else ""


def _count_s(load: Replica) -> float:
    """From its row to its first answer."""
    return (load.ready_at - load.created_at).total_seconds() if load.ready_at else 0.0


def check_workers(look: Look) -> Said:
    """Workers that show signs of life, and whether they claim."""
    ctx = look.require_ctx()
    with ctx.db.transaction() as tx:
        alive = [worker for worker in leases.list_workers(tx) if not worker.dead]
    silent = [worker.worker for worker in alive if worker.silent_s > 3 * ctx.settings.heartbeat_s]
    paused = {worker.worker: worker.info["paused"] for worker in alive if worker.info.get("paused")}
    if silent:
        return warn(
            f"{', '.join(silent)} shows no sign of life.",
            "It is taken for lost when its lease is over; look at its log.",
        )
    if paused:
        told = "; ".join(f"{name} is paused: {cause}" for name, cause in paused.items())
        return warn(
            f"{told}. What runs goes on, and nothing more is claimed.",
            "Give that host more memory, or let fewer models run on it; it goes on by itself. docs/tuning.md",
        )
    if not alive:
        return warn("No worker is there: jobs wait.", "Start one with `batchinfer up`, or `batchinfer host` elsewhere.")
    return fine(f"{len(alive)} workers are alive.")


def check_plan(look: Look) -> Said:
    """What is planned for models on this host's CPU, beside the memory that there is."""
    ctx = look.require_ctx()
    host = ctx.settings.machine_name
    with ctx.db.transaction() as tx:
        held = [one for one in memory.list_held(tx) if (one.host, one.device) == (host, "cpu")]
        planned = {one.worker: count_held(tx, one) for one in held}
    whole_mib = read_whole_mib(look)
    limit = read_memory_limit(look.root)
    room_mib = min(whole_mib, limit >> 20) if limit is not None else whole_mib
    if not planned:
        return skip(f"No model is planned on this host's CPU; {room_mib:,} MiB are there.")
    wanted, left = sum(planned.values()), room_mib - reserve_mib("cpu", room_mib)
    told = f"Models on the CPU are planned with {wanted:,} MiB in all ({len(planned)} of them), of {room_mib:,} MiB"
    if limit is not None and limit >> 20 < whole_mib:
        told += " that the container may take"
    if wanted > room_mib:
        return fail(
            f"{told}.",
            "Raise the container's memory, stop a model, or give it fewer slots or a smaller context: "
            "`batchinfer models plan`.",
        )
    if wanted > left:
        return warn(
            f"{told}; less than {room_mib - left:,} MiB stay for everything else.",
            "Raise the container's memory, or stop a model.",
        )
    return fine(f"{told}.")


FLEET_CHECKS = (
    Check("models", "service", "Jobs of a model that cannot be loaded wait.", check_models),
    Check("workers", "service", "Without workers jobs wait.", check_workers),
    Check(
        "memory against plans", "service", "Beyond it the kernel ends a worker in the middle of its rows.", check_plan
    ),
)
