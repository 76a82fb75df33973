"""For machines that watch: `/healthz` says that the process answers, `/readyz` that work gets done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from redis.exceptions import RedisError

from batchinfer.api.bodies import reply
from batchinfer.api.schemas import Announcements, Check, Health, Readiness
from batchinfer.api.state import current
from batchinfer.errors import Unavailable
from batchinfer.store.leases import list_workers

if TYPE_CHECKING:
    from batchinfer.services.context import Context

routes = APIBlueprint("health", __name__, abp_tags=[{"name": "health"}])


@routes.get("/healthz", operation_id="healthz", responses={200: Health})
def healthz() -> Response:
    """The process answers. Asks nobody else."""
    return reply(Health())


@routes.get("/readyz", operation_id="readyz", responses={200: Readiness, 503: Readiness})
def readyz() -> Response:
    """Whether work that is submitted now is done now; 503 without the database or without a model worker."""
    context = current().context
    checks, counts = check_parts(context), Announcements(**context.announcer.counts())
    if not (checks["database"].ok and checks["model_worker"].ok):
        return reply(Readiness(status="unready", checks=checks, announcements=counts), 503)
    status: Literal["ready", "degraded"] = "ready" if all(check.ok for check in checks.values()) else "degraded"
    return reply(Readiness(status=status, checks=checks, announcements=counts))


def check_parts(context: Context) -> dict[str, Check]:
    """Each part by name, with a reason where it is not there."""
    return {**_check_database(context), "redis": _check_redis(context)}


def _check_database(context: Context) -> dict[str, Check]:
    """The database, and what it knows of the workers."""
    try:
        with context.db.transaction() as tx:
            roles = {worker.role for worker in list_workers(tx) if not worker.dead}
    except Unavailable:
        lost = Check(ok=False, reason="The database does not answer. Start it; submissions fail until then.")
        unknown = Check(ok=False, reason="Unknown while the database does not answer.")
        return {"database": lost, "model_worker": unknown, "cpu_worker": unknown}
    return {
        "database": Check(ok=True),
        "model_worker": _check_role("model" in roles, "Jobs wait until a model worker runs."),
        "cpu_worker": _check_role("cpu" in roles, "Pictures and documents wait until a CPU worker runs."),
    }


def _check_role(there: bool, sentence: str) -> Check:
    return Check(ok=True) if there else Check(ok=False, reason=sentence)


def _check_redis(context: Context) -> Check:
    try:
        context.redis.ping()
    except RedisError:
        return Check(ok=False, reason="Redis does not answer. Nothing is lost: jobs start up to a second later.")
    return Check(ok=True)
