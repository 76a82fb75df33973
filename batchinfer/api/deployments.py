"""Deployments over HTTP: launch, ensure, stop, resume, cancel a load, swap, roll back."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api import deployment_schemas as schemas
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply, show_error
from batchinfer.api.idempotency import check_key
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import DeploymentPath
from batchinfer.api.state import current
from batchinfer.api.submission import read_json, read_optional_json
from batchinfer.domain.deployments import parse_deployment
from batchinfer.domain.ids import DEPLOYMENT, REPLICA, parse_id, show_id
from batchinfer.domain.swaps import parse_rollback, parse_swap
from batchinfer.observe.clock import to_unix
from batchinfer.services import deployments, swapping

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.deployments import Standing
    from batchinfer.store.fleet import Replica

routes = APIBlueprint(
    "deployments",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "deployments"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_ONE = "/deployments/<deployment_id>"
_PLAIN = (
    "model", "revision", "previous_revision", "next_revision", "device", "engine", "replicas", "dtype", "quantisation",
    "memory_mib", "slots", "pinned", "idle_s", "priority", "labels", "options", "goldens", "failures",
)  # fmt: skip


@routes.post(
    "/deployments", operation_id="launch_deployment", request_body=schemas.LAUNCH,
    responses={201: schemas.DeploymentBody, **refusals(409, 413, 415, 422)},
)  # fmt: skip
def launch_deployment() -> Response:
    """Want a model on a device. The load begins within a second; jobs wait for it."""
    caller().require("launch")
    body, idempotency = read_json("/v1/deployments")
    standing, replayed = deployments.launch(
        current().context, caller(), parse_deployment(body, current().limits), idempotency
    )
    return _answer(standing, replayed=replayed, status=201)


@routes.post(
    "/deployments/ensure", operation_id="ensure_deployment", request_body=schemas.ENSURE,
    responses={200: schemas.EnsuredDeployment, **refusals(409, 413, 415)},
)  # fmt: skip
def ensure_deployment() -> Response:
    """Launch it, or change what is there to what is said; what is not said stays. Twice is as once."""
    caller().require("launch")
    body, _ = read_json("/v1/deployments/ensure")
    standing, done = deployments.ensure(current().context, caller(), parse_deployment(body, current().limits))
    return reply(schemas.EnsuredDeployment.model_validate({**_tell(standing), "done": done}))


@routes.get("/deployments", operation_id="list_deployments", responses={200: schemas.DeploymentList})
def list_deployments() -> Response:
    """What is wanted, the most urgent first, each with its replicas and the phases of their starts."""
    found = deployments.list_deployments(current().context, caller())
    return reply(schemas.DeploymentList(data=[show_deployment(one) for one in found]))


@routes.get(_ONE, operation_id="get_deployment", responses={200: schemas.DeploymentBody})
def get_deployment(path: DeploymentPath) -> Response:
    """A deployment as it stands, one that was stopped too."""
    return reply(show_deployment(deployments.get_deployment(current().context, caller(), _read_id(path))))


@routes.post(
    f"{_ONE}/swap", operation_id="swap_deployment", request_body=schemas.SWAP,
    responses={200: schemas.DeploymentBody, **refusals(409, 413, 415, 422)},
)  # fmt: skip
def swap_deployment(path: DeploymentPath) -> Response:
    """Load another revision beside the one that serves; it takes over once its golden prompts are answered rightly."""
    caller().require("launch")
    check_key()  # a key that is none is refused whatever the id is
    deployment_id = _read_id(path)
    body, idempotency = read_json(f"/v1/deployments/{deployment_id.hex}/swap")
    request = parse_swap(body, current().limits)
    standing, replayed = swapping.begin_swap(current().context, caller(), deployment_id, request, idempotency)
    return _answer(standing, replayed=replayed)


@routes.post(
    f"{_ONE}/rollback", operation_id="rollback_deployment", request_body=schemas.ROLLBACK,
    responses={200: schemas.DeploymentBody, **refusals(409, 413, 415, 422)},
)  # fmt: skip
def rollback_deployment(path: DeploymentPath) -> Response:
    """Swap back to the revision that served before."""
    caller().require("launch")
    check_key()
    deployment_id = _read_id(path)
    body, idempotency = read_optional_json(f"/v1/deployments/{deployment_id.hex}/rollback")
    request = parse_rollback(body)
    standing, replayed = swapping.rollback(current().context, caller(), deployment_id, request, idempotency)
    return _answer(standing, replayed=replayed)


@routes.post(f"{_ONE}/cancel", operation_id="cancel_load", responses={200: schemas.DeploymentBody, **refusals(409)})
def cancel_load(path: DeploymentPath) -> Response:
    """End a swap, or without one the loads: what is ready stays, and no more than that is wanted. Twice is as once."""
    caller().require("launch")
    return reply(show_deployment(deployments.cancel_load(current().context, caller(), _read_id(path))))


@routes.post(
    f"{_ONE}/resume", operation_id="resume_deployment", responses={200: schemas.DeploymentBody, **refusals(409)}
)
def resume_deployment(path: DeploymentPath) -> Response:
    """Load at once what failed and waits for its next try, and what sleeps. Twice is as once."""
    caller().require("launch")
    return reply(show_deployment(deployments.resume(current().context, caller(), _read_id(path))))


@routes.post(f"{_ONE}/stop", operation_id="stop_deployment", responses={200: schemas.DeploymentBody})
def stop_deployment(path: DeploymentPath) -> Response:
    """Want it no more; what runs ends first. Jobs of the model wait until it is launched again. Twice is as once."""
    caller().require("launch")
    return reply(show_deployment(deployments.stop(current().context, caller(), _read_id(path))))


def _answer(standing: Standing, *, replayed: bool, status: int = 200) -> Response:
    response = reply(show_deployment(standing), status)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _read_id(path: DeploymentPath) -> UUID:
    return parse_id(DEPLOYMENT, path.deployment_id)


def show_deployment(standing: Standing) -> schemas.DeploymentBody:
    """A deployment as operators see it."""
    return schemas.DeploymentBody.model_validate(_tell(standing))


def _tell(standing: Standing) -> dict[str, Any]:
    wish = standing.deployment
    return {
        **{name: getattr(wish, name) for name in _PLAIN},
        "id": show_id(DEPLOYMENT, wish.id),
        "status": standing.status,
        "class": wish.job_class,
        "next_try_at": to_unix(wish.next_try_at),
        "error": show_error(wish.error),
        "swap": _tell_swap(wish.swap),
        "placed": [show_replica(one) for one in standing.replicas],
        "created_at": to_unix(wish.created_at),
        "stopped_at": to_unix(wish.stopped_at),
    }


def _tell_swap(swap: dict[str, Any] | None) -> dict[str, Any] | None:
    if not swap:
        return None
    return {
        "status": swap["state"],
        "from_revision": swap["from"],
        "to_revision": swap["to"],
        "by": swap["by"],
        "since": _read_time(swap["since"]),
        "ended_at": _read_time(swap.get("ended_at")),
        "rollback": swap["rollback"],
        "drain_first": swap["drain_first"],
        "goldens": swap["goldens"],
        "within_s": swap.get("within_s"),
        "error": show_error(swap.get("error")),
    }


def _read_time(text: str | None) -> int | None:
    return None if text is None else to_unix(datetime.fromisoformat(text))


def show_replica(replica: Replica) -> schemas.ReplicaBody:
    """A replica as operators see it."""
    ready_at, created_at = replica.ready_at, replica.created_at
    return schemas.ReplicaBody.model_validate(
        {
            "id": show_id(REPLICA, replica.id),
            "deployment_id": show_id(DEPLOYMENT, replica.deployment_id) if replica.deployment_id else None,
            **{name: getattr(replica, name) for name in _OF_REPLICA},
            "choice": ((replica.verdict or {}).get("choice") or {}).get("reason"),
            "status": replica.state,
            "error": show_error(replica.error),
            "load_s": round((ready_at - created_at).total_seconds(), 3) if ready_at else None,
            "created_at": to_unix(created_at),
            "ready_at": to_unix(ready_at),
            "ended_at": to_unix(replica.ended_at),
        }
    )


_OF_REPLICA = (
    "model", "revision", "engine", "device", "host", "worker", "wanted", "planned_mib", "memory_mib", "phases",
    "versions",
)  # fmt: skip
