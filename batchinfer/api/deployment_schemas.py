"""The JSON of deployments, replicas, hosts and the fleet's events."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.schemas import ErrorDetail, MaybeTime, Time
from batchinfer.domain import deployments as domain
from batchinfer.domain.goldens import MAX_GOLDENS
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.launches import DTYPES, QUANTISATIONS
from batchinfer.domain.replicas import ReplicaState, Wanted
from batchinfer.domain.swaps import WITHIN_S, SwapState


class ReplicaBody(BaseModel):
    """One model in one process. `host` is null where it was started by hand, `deployment_id` too."""

    id: str
    object: Literal["replica"] = "replica"
    deployment_id: str | None
    model: str
    revision: str
    engine: str
    device: str
    host: str | None
    worker: str
    status: ReplicaState
    wanted: Wanted = Field(description="What its process is told to do; it looks each second.")
    error: ErrorDetail | None
    planned_mib: int | None
    memory_mib: int | None = Field(description="What it took, measured once it was ready.")
    load_s: float | None = Field(description="Seconds from its row to ready.")
    phases: dict[str, float] | None = Field(description="Seconds of its start: start, read, copy, warm_up, verify.")
    versions: dict[str, str] | None = Field(description="Of the engine and the libraries under it.")
    choice: str | None = Field(description="Of the engine `auto`: which one it took, and why.")
    created_at: Time
    ready_at: MaybeTime
    ended_at: MaybeTime


class ReplicaList(BaseModel):
    """Replicas that live, then those that ended in the last hour."""

    object: Literal["list"] = "list"
    data: list[ReplicaBody]
    has_more: Literal[False] = False


class SwapBody(BaseModel):
    """The swap that is under way, or the last one. `goldens`: how many prompts had to be answered rightly."""

    status: SwapState
    from_revision: str
    to_revision: str
    by: str
    since: Time
    ended_at: MaybeTime
    rollback: bool
    drain_first: bool
    goldens: int
    within_s: int | None = Field(description="The seconds after which it has failed; null: no limit.")
    error: ErrorDetail | None


class DeploymentBody(BaseModel):
    """A wish. `revision` is the one that serves; `replicas` are wanted, `placed` are there."""

    id: str
    object: Literal["deployment"] = "deployment"
    status: Literal["ready", "loading", "swapping", "waiting", "asleep", "failed", "stopped"]
    model: str
    revision: str
    previous_revision: str | None
    next_revision: str | None
    device: str
    engine: str
    replicas: int
    dtype: str
    quantisation: str
    memory_mib: int | None
    slots: int | None
    job_class: JobClass = Field(alias="class")
    pinned: bool
    idle_s: int | None
    priority: int
    labels: dict[str, str]
    options: dict[str, Any]
    goldens: int = Field(description="How many golden prompts it has, to which `auto` holds vLLM.")
    failures: int = Field(description="Loads that failed one after the other.")
    next_try_at: MaybeTime
    error: ErrorDetail | None = Field(description="What the last load that failed said.")
    swap: SwapBody | None
    placed: list[ReplicaBody]
    created_at: Time
    stopped_at: MaybeTime


class EnsuredDeployment(DeploymentBody):
    """A deployment, and what was done: launched, changed or unchanged."""

    done: Literal["launched", "changed", "unchanged"]


class DeploymentList(BaseModel):
    """What is wanted, the most urgent first."""

    object: Literal["list"] = "list"
    data: list[DeploymentBody]
    has_more: Literal[False] = False


class DeviceBody(BaseModel):
    """What a replica runs on. `total_mib` is null where nobody knows it. `taken_mib` and `use` are of all processes on
    it, as the host measures them; null where it cannot, and for a host that is silent."""

    name: str
    kind: str
    total_mib: int | None
    title: str
    taken_mib: int | None = Field(description="MiB that processes take of it, anybody's.")
    use: float | None = Field(description="The part of the last minute in which it computed, for anybody: 0 to 1.")


class HostBody(BaseModel):
    """A machine with a keeper. `silent`: its keeper has ended, or said nothing for longer than the lease time."""

    id: str
    object: Literal["host"] = "host"
    status: Literal["alive", "silent"]
    draining: bool
    devices: list[DeviceBody]
    labels: dict[str, str]
    started_at: Time
    heartbeat_at: Time


class HostList(BaseModel):
    """Every host that ever had a keeper, by name."""

    object: Literal["list"] = "list"
    data: list[HostBody]
    has_more: Literal[False] = False


class FleetEventBody(BaseModel):
    """Something that happened to a model, deployment, replica or host. `actor` is for the operator's keys alone."""

    id: str
    object: Literal["fleet_event"] = "fleet_event"
    type: str = Field(description="The subject and what happened: deployment.switched for example.")
    subject_id: str
    actor: str | None
    data: dict[str, Any]
    created_at: Time


class FleetEventList(BaseModel):
    """A page of the fleet's events."""

    object: Literal["list"] = "list"
    data: list[FleetEventBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _whole(low: int, high: int, description: str = "") -> dict[str, Any]:
    told = {"description": description} if description else {}
    return _or_null({"type": "integer", "minimum": low, "maximum": high, **told})


_WORD = {"type": "string", "minLength": 1, "maxLength": domain.MAX_REVISION_CHARS}
_SHORT = {"type": "string", "minLength": 1, "maxLength": domain.MAX_LABEL_CHARS}
_GOLDENS = _or_null({"type": "array", "items": {"type": "object"}, "maxItems": MAX_GOLDENS})
_TIME = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": domain.MAX_IDLE_S},
        {"type": "string", "pattern": "^[1-9][0-9]{0,4}[mhd]$"},
        {"type": "null"},
    ],
}
_SPEC = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "model": _WORD,
        "device": _or_null({"type": "string", "pattern": "^(auto|cpu|cuda(:[0-9]{1,2})?)$"}),
        "revision": _or_null({**_WORD, "description": "One that is fetched; null: the model's own."}),
        "engine": _or_null({"enum": list(domain.ENGINES)}),
        "replicas": _whole(0, domain.MAX_REPLICAS),
        "dtype": _or_null({"enum": list(DTYPES)}),
        "quantisation": _or_null({"enum": list(QUANTISATIONS)}),
        "memory_mib": _whole(1, domain.MAX_MEMORY_MIB, "The most that a replica may take of its device."),
        "slots": _whole(1, domain.MAX_SLOTS),
        "class": _or_null({"enum": [str(job_class) for job_class in JobClass]}),
        "pinned": _or_null({"type": "boolean"}),
        "idle_s": {**_TIME, "description": "Unloaded after so long without a job: seconds, or 30m, 8h, 7d."},
        "priority": _whole(-domain.MAX_PRIORITY, domain.MAX_PRIORITY, "The larger one is placed first."),
        "labels": _or_null(
            {
                "type": "object", "maxProperties": domain.MAX_LABELS, "propertyNames": _SHORT,
                "additionalProperties": _SHORT, "description": "What the labels of its host must hold.",
            }
        ),
        "options": _or_null({"type": "object", "description": "Of the engine."}),
        "golden": _GOLDENS,
    },
    "required": ["model"],
}  # fmt: skip
_DRAIN = {
    "type": ["boolean", "null"],
    "description": "The old revision may be drained first where both do not fit; jobs then wait for the new one.",
}
_WITHIN = {
    **_TIME,
    "description": f"It has failed after so long: seconds, or 30m, 8h, 7d; {WITHIN_S} unless set.",
}
_SWAP = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "revision": _WORD,
        "golden": _GOLDENS,
        "drain_first": _DRAIN,
        "within_s": _WITHIN,
    },
    "required": ["revision"],
}
_ROLLBACK = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"drain_first": _DRAIN, "within_s": _WITHIN},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "DeploymentSpec": _SPEC, "DeploymentSwap": _SWAP, "DeploymentRollback": _ROLLBACK,
}  # fmt: skip


def _body(name: str, example: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{name}"}, "examples": {"one": {"value": example}}}
    return {"required": required, "content": {"application/json": content}}


_GOLDEN = {"prompt": "What is 2 + 2?", "expect": {"contains": "4"}, "max_tokens": 16}
LAUNCH = _body("DeploymentSpec", {"model": "docreader", "device": "cpu", "replicas": 2, "idle_s": "30m"})
ENSURE = _body("DeploymentSpec", {"model": "docreader", "replicas": 1, "pinned": True})
SWAP = _body("DeploymentSwap", {"revision": "rev2", "golden": [_GOLDEN]})
ROLLBACK = _body("DeploymentRollback", {"drain_first": True}, required=False)
