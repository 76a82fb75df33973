"""The JSON of launches before they are made: what is asked, and what it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from batchinfer.domain.launches import DTYPES, MOST_CONTEXT, MOST_MIB, MOST_SLOTS, QUANTISATIONS

if TYPE_CHECKING:
    from batchinfer.domain.launches import DeviceFit
    from batchinfer.domain.memory import MemoryPlan
    from batchinfer.services.memory import LaunchPlan


class MemoryPlanBody(BaseModel):
    """What a replica takes, in MiB by part. `loaded_mib` of `total_mib` it holds once it is ready; `measured`: by what
    an earlier load took."""

    weights_mib: int
    activations_mib: int
    kv_mib: int
    workspace_mib: int
    total_mib: int
    loaded_mib: int
    measured: bool
    device_kind: str
    dtype: str
    quantisation: str
    slots: int
    context_tokens: int


class HoldingBody(BaseModel):
    """What a device keeps for a replica."""

    worker: str
    model: str
    mib: int
    pinned: bool


class AdviceBody(BaseModel):
    """Something that would make the launch fit, and what it comes to."""

    action: Literal["stop", "slots", "context", "dtype", "quantise", "budget"]
    text: str
    needs_mib: int
    free_mib: int


class DeviceFitBody(BaseModel):
    """A device beside the launch. `fits` is null where nobody knows what the device has."""

    host: str
    device: str
    kind: str
    title: str
    total_mib: int | None
    reserved_mib: int
    free_mib: int | None
    held: list[HoldingBody]
    plan: MemoryPlanBody
    fits: bool | None
    missing_mib: int
    advice: list[AdviceBody]
    text: str


class LaunchPlanBody(BaseModel):
    """A launch that nobody made yet. `devices` are those that it may go to, of the hosts that are alive."""

    object: Literal["launch_plan"] = "launch_plan"
    model: str
    revision: str
    plan: MemoryPlanBody
    fits: bool | None = Field(description="Whether a device has room; null where nobody knows.")
    text: str
    devices: list[DeviceFitBody]


def show_plan(found: LaunchPlan) -> LaunchPlanBody:
    """A launch's plan as people see it."""
    return LaunchPlanBody(
        model=found.model,
        revision=found.revision,
        plan=_show_memory(found.plan),
        fits=found.fits,
        text=found.text,
        devices=[_show_device(device) for device in found.devices],
    )


def _show_memory(plan: MemoryPlan) -> MemoryPlanBody:
    return MemoryPlanBody.model_validate(plan.as_json())


def _show_device(found: DeviceFit) -> DeviceFitBody:
    lists: dict[str, Any] = {
        "held": [HoldingBody.model_validate(vars(one)) for one in found.held],
        "advice": [AdviceBody.model_validate(vars(one)) for one in found.advice],
        "plan": _show_memory(found.plan),
    }
    return DeviceFitBody.model_validate({**vars(found), **lists})


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_LAUNCH = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "device": _or_null({"type": "string", "maxLength": 32, "description": "auto, cpu, cuda or cuda:N."}),
        "slots": _or_null({"type": "integer", "minimum": 1, "maximum": MOST_SLOTS}),
        "dtype": _or_null({"enum": list(DTYPES)}),
        "quantisation": _or_null({"enum": list(QUANTISATIONS)}),
        "memory_mib": _or_null({"type": "integer", "minimum": 1, "maximum": MOST_MIB, "description": "A budget."}),
        "context_tokens": _or_null({"type": "integer", "minimum": 1, "maximum": MOST_CONTEXT}),
    },
}
PLAN_MODEL: dict[str, Any] = {
    "required": False,
    "content": {
        "application/json": {
            "schema": _LAUNCH,
            "examples": {"on the CPU": {"value": {"device": "cpu", "slots": 4, "dtype": "bfloat16"}}},
        }
    },
}
