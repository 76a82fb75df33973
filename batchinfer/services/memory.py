"""Memory plans before a launch: what a replica would take, where it fits, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer.domain.launches import DeviceFit, Holding, LaunchSpec, fit_device, make_plan, read_sizes
from batchinfer.domain.memory import count_free, find_dtype, hold_mib
from batchinfer.domain.memory_facts import read_facts
from batchinfer.errors import BatchinferError, Conflict
from batchinfer.media.weight_headers import read_model_facts
from batchinfer.services.models import make_unknown
from batchinfer.store import hosts, memory

if TYPE_CHECKING:
    from batchinfer.domain.memory import MemoryPlan
    from batchinfer.domain.memory_facts import ModelFacts
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.deployments import Deployment
    from batchinfer.store.fleet import Model
    from batchinfer.store.memory import Files, Held
    from batchinfer.store.session import Transaction

__all__ = [
    "WEIGHTLESS", "FactsUnknown", "LaunchPlan", "LaunchSpec", "count_held", "estimate_replica", "free_of_device",
    "make_launch_plan", "plan_launch", "plan_worker", "require_room",
]  # fmt: skip


#: Engines that hold no weights on a device of ours.
WEIGHTLESS = ("fake", "remote")
#: Placement's transactions know no settings: a host that was silent for longer has no devices for it.
_SILENT_S = 60.0


class FactsUnknown(Conflict):
    """No plan can be made of a model's files."""

    default_code = "model_facts_unknown"


@dataclass(frozen=True)
class LaunchPlan:
    """What a launch would take, beside each device that it may go to; no devices where no host is alive."""

    model: str
    revision: str
    spec: LaunchSpec
    #: On the kind of device that it would go to.
    plan: MemoryPlan
    devices: tuple[DeviceFit, ...]

    @property
    def fits(self) -> bool | None:
        """Whether a device has room; None where nobody knows."""
        answers = {device.fits for device in self.devices}
        return True if True in answers else None if None in answers or not answers else False

    @property
    def text(self) -> str:
        """For people: where it fits, or why nowhere and what to do."""
        if not self.devices:
            return (
                f"{self.model} needs {self.plan.total_mib:,} MiB on a device of kind {self.plan.device_kind}; no host "
                "that is alive has one of those asked for."
            )
        good = [device for device in self.devices if device.fits] or self.devices
        return "\n".join(device.text for device in good)


def plan_launch(ctx: Context, caller: Caller, model: str, spec: LaunchSpec, revision: str | None = None) -> LaunchPlan:
    """Compare what a launch takes with what each device has, and with what earlier loads took.

    Raises NotFound (model_not_found), Conflict (model_facts_unknown) and BadRequest (memory_budget_too_small).
    """
    caller.require("read")
    with ctx.db.transaction() as tx:
        return make_launch_plan(tx, model, spec, revision, silent_s=ctx.settings.lease_ttl_s)


def require_room(plan: LaunchPlan) -> None:
    """Go on only if the launch fits somewhere, or nobody knows. Raises Conflict (code no_memory) with what to do."""
    if plan.fits is False:
        raise Conflict(plan.text, code="no_memory")


def estimate_replica(
    tx: Transaction, deployment: Deployment, *, device_kind: str | None = None, revision: str | None = None
) -> MemoryPlan | None:
    """What a replica of a deployment takes on a kind of device, for placement; None where nobody knows.

    Without `device_kind`, the deployment's own; auto is a GPU where a host has one. `revision` stands for the one that
    is served. A budget that is too small for one slot counts as it is: the load then says so.
    """
    if deployment.engine in WEIGHTLESS:
        return None
    files = memory.find_files(tx, deployment.model, revision or deployment.revision)
    facts = _find_facts(files) if files else None
    if files is None or facts is None:
        return None
    kind = device_kind or _find_kind(deployment.device, _list_kinds(tx))
    spec = read_sizes(deployment.device, vars(deployment))
    try:
        return make_plan(facts, spec, kind, _find_measured(tx, files, spec, kind))
    except BatchinferError:
        return None


def plan_worker(ctx: Context, model: Model, spec: LaunchSpec) -> MemoryPlan | None:
    """A worker's own plan, the same that was made when it was placed. None where nothing is known of the files.

    Raises BadRequest (memory_budget_too_small) where its budget does not hold one slot.
    """
    with ctx.db.transaction() as tx:
        files = memory.find_files(tx, model.name, model.revision)
        facts = _find_facts(files) if files else None
        if files is None or facts is None:
            return None
        return make_plan(facts, spec, spec.device, _find_measured(tx, files, spec, spec.device))


def free_of_device(tx: Transaction, host: str, device: str, *, silent_s: float) -> int | None:
    """What is free of a device, in MiB, by what is held of it; None where nobody knows what it has."""
    for found in hosts.list_hosts(tx, silent_s=silent_s):
        for one in found.devices:
            if (found.host, one.name) == (host, device) and one.total_mib is not None:
                return count_free(one.kind, one.total_mib, [held.mib for held in _hold(tx, host, device)])
    return None


def make_launch_plan(
    tx: Transaction, model: str, spec: LaunchSpec, revision: str | None, *, silent_s: float
) -> LaunchPlan:
    """The same within a transaction, for whoever may launch. Raises as `plan_launch` does, less Forbidden."""
    files = memory.find_files(tx, model, revision)
    if files is None:
        raise make_unknown(model)
    facts = _find_facts(files)
    if facts is None:
        raise FactsUnknown(
            f"Nothing is known of the files of {model}, so nothing can be planned. Register it again from the machine "
            "that has its folder, with a config.json of a language model and safetensors files.",
            code="model_facts_unknown",
        )
    alive = [host for host in hosts.list_hosts(tx, silent_s=silent_s) if host.alive and not host.draining]
    places = [(host.host, one) for host in alive for one in host.devices if spec.matches(one.name, one.kind)]
    if spec.device == "auto" and any(one.kind == "cuda" for _, one in places):
        places = [(host, one) for host, one in places if one.kind == "cuda"]

    def replan(kind: str, other: LaunchSpec) -> MemoryPlan:
        return make_plan(facts, other, kind, _find_measured(tx, files, other, kind))

    devices = [
        fit_device(
            model,
            one,
            host,
            _hold(tx, host, one.name),
            replan(one.kind, spec),
            partial(replan, one.kind),
            spec,
        )
        for host, one in places
    ]
    kind = _find_kind(spec.device, {one.kind for _, one in places})
    plan = next((device.plan for device in devices if device.fits), None)
    return LaunchPlan(model, files.revision, spec, plan or replan(kind, spec), tuple(devices))


def _find_facts(files: Files) -> ModelFacts | None:
    """From the row, else from the folder where this machine has it."""
    return read_facts(files.facts) or (read_facts(read_model_facts(Path(files.path))) if files.path else None)


def _find_measured(tx: Transaction, files: Files, spec: LaunchSpec, kind: str) -> int | None:
    return memory.find_measured(
        tx,
        model=files.model,
        revision=files.revision,
        kind=kind,
        dtype=find_dtype(spec.dtype, kind),
        quantisation=spec.quantisation,
        slots=spec.slots,
    )


def _find_kind(device: str, kinds: set[str]) -> str:
    kind = device.partition(":")[0]
    return kind if kind != "auto" else "cuda" if "cuda" in kinds else "cpu"


def _list_kinds(tx: Transaction) -> set[str]:
    return {one.kind for host in hosts.list_hosts(tx, silent_s=_SILENT_S) if host.alive for one in host.devices}


def _hold(tx: Transaction, host: str, device: str) -> list[Holding]:
    """What a device keeps for the replicas on it. One that nobody planned or measured yet is planned here."""
    return [
        Holding(held.worker, held.model, count_held(tx, held), held.pinned)
        for held in memory.list_held(tx)
        if (held.host, held.device) == (host, device)
    ]


def count_held(tx: Transaction, held: Held) -> int:
    """What a device keeps for a replica, in MiB; 0 where nobody knows."""
    if held.planned_mib is not None:
        loaded = (held.plan or {}).get("loaded_mib")
        return hold_mib(held.planned_mib, loaded if isinstance(loaded, int) else None, held.memory_mib)
    files = memory.find_files(tx, held.model, held.revision or None)
    facts = _find_facts(files) if files else None
    if facts is None:
        return held.memory_mib or 0
    return make_plan(facts, LaunchSpec(), held.device.partition(":")[0], held.memory_mib).total_mib
