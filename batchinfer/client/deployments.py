"""Deployments, replicas and hosts: launch, ensure, swap, roll back, stop; drain and resume; the fleet's events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import Field

from batchinfer.client.nouns import Noun, Problem
from batchinfer.client.waiting import wait_for
from batchinfer.domain.ids import DEPLOYMENT
from batchinfer.errors import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchinfer.client.transport import Transport


class Replica(Noun):
    """One model in one process. `phases` are the seconds of its start by phase; `choice` is which engine `auto` took,
    and why."""

    id: str
    deployment_id: str | None = None
    model: str
    revision: str
    engine: str = ""
    device: str
    host: str | None = None
    worker: str
    status: str
    wanted: str = "serve"
    error: Problem | None = None
    planned_mib: int | None = None
    memory_mib: int | None = None
    load_s: float | None = None
    phases: dict[str, float] | None = None
    versions: dict[str, str] | None = None
    choice: str | None = None
    created_at: int
    ready_at: int | None = None
    ended_at: int | None = None


class Swap(Noun):
    """The swap that is under way, or the last one."""

    status: str
    from_revision: str
    to_revision: str
    by: str
    since: int
    ended_at: int | None = None
    rollback: bool = False
    drain_first: bool = False
    goldens: int = 0
    within_s: int | None = None
    error: Problem | None = None


class Deployment(Noun):
    """A wish: `replicas` of a model's revision; `placed` are there. `done` says what `ensure` did."""

    id: str
    status: str
    model: str
    revision: str
    previous_revision: str | None = None
    next_revision: str | None = None
    device: str
    engine: str
    replicas: int
    labels: dict[str, str] = Field(default_factory=dict)
    goldens: int = 0
    failures: int = 0
    next_try_at: int | None = None
    error: Problem | None = None
    swap: Swap | None = None
    placed: tuple[Replica, ...] = ()
    created_at: int
    stopped_at: int | None = None
    done: str | None = None


class Host(Noun):
    """A machine with a keeper. `status` is alive or silent."""

    id: str
    status: str
    draining: bool
    devices: tuple[dict[str, Any], ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    started_at: int
    heartbeat_at: int


class FleetEvent(Noun):
    """Something that happened to a model, deployment, replica or host."""

    id: str
    type: str
    subject_id: str
    actor: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    created_at: int


class _Look:
    """A deployment as `wait_for` asks: whether what is waited for has come."""

    def __init__(self, deployment: Deployment, *, ended: bool) -> None:
        self.id, self.ended, self.deployment = deployment.id, ended, deployment


class Deployments:
    """`client.deployments`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def launch(self, model: str, *, idempotency_key: str | None = None, **spec: Any) -> Deployment:
        """Want a model on a device; it does not wait for the load. Raises NotFound, Conflict (it is wanted there)."""
        made = self._transport.create("/v1/deployments", key=idempotency_key, json={"model": model, **spec})
        return Deployment.model_validate(made)

    def ensure(self, model: str, **spec: Any) -> Deployment:
        """Launch it, or change what is there to what is said. Twice is as once. Raises NotFound, Conflict."""
        body = {"model": model, **spec}
        return Deployment.model_validate(self._transport.ask("POST", "/v1/deployments/ensure", json=body))

    def list(self) -> tuple[Deployment, ...]:
        """What is wanted, the most urgent first."""
        return tuple(map(Deployment.model_validate, self._transport.ask("GET", "/v1/deployments")["data"]))

    def get(self, deployment_id: str) -> Deployment:
        """A deployment as it stands. Raises NotFound."""
        return Deployment.model_validate(self._transport.ask("GET", self._path(deployment_id)))

    def find(self, name: str, device: str | None = None) -> Deployment:
        """A deployment by its id, or by the model's name and, where there are several, the device. Raises NotFound,
        Conflict (several)."""
        if name.startswith(DEPLOYMENT):
            return self.get(name)
        found = [one for one in self.list() if one.model == name and device in (None, one.device)]
        if not found:
            where = f" on {device}" if device else ""
            raise NotFound(f"'{name}' is not wanted{where}. Launch it first.", code="deployment_not_found")
        if len(found) > 1:
            raise Conflict(f"'{name}' is wanted on {', '.join(one.device for one in found)}. Say which device.")
        return found[0]

    def swap(
        self,
        deployment_id: str,
        revision: str,
        *,
        golden: Sequence[Mapping[str, Any]] = (),
        drain_first: bool = False,
        within_s: int | str | None = None,
        idempotency_key: str | None = None,
    ) -> Deployment:
        """Load another revision beside the one that serves; it takes over once it answers its golden prompts, and has
        failed after `within_s` (seconds, or 30m, 8h). It does not wait. Raises NotFound, BadRequest, Conflict (a swap
        is under way, the revision is not fetched)."""
        body = {
            "revision": revision, "golden": [dict(one) for one in golden], "drain_first": drain_first,
            "within_s": within_s,
        }  # fmt: skip
        made = self._transport.create(f"{self._path(deployment_id)}/swap", key=idempotency_key, json=body)
        return Deployment.model_validate(made)

    def rollback(
        self,
        deployment_id: str,
        *,
        drain_first: bool = False,
        within_s: int | str | None = None,
        idempotency_key: str | None = None,
    ) -> Deployment:
        """Swap back to the revision that served before. It does not wait. Raises NotFound, Conflict."""
        body = {"drain_first": drain_first, "within_s": within_s}
        made = self._transport.create(f"{self._path(deployment_id)}/rollback", key=idempotency_key, json=body)
        return Deployment.model_validate(made)

    def cancel(self, deployment_id: str) -> Deployment:
        """End a swap, or without one the loads. Raises NotFound, Conflict (it was stopped)."""
        return self._do(deployment_id, "cancel")

    def resume(self, deployment_id: str) -> Deployment:
        """Try again at once what failed, and wake up what sleeps. Raises NotFound, Conflict (it was stopped)."""
        return self._do(deployment_id, "resume")

    def stop(self, deployment_id: str) -> Deployment:
        """Want it no more. Raises NotFound."""
        return self._do(deployment_id, "stop")

    def wait_ready(
        self, deployment_id: str, timeout_s: float | None = None, *, tell: Callable[[Deployment], None] = lambda _: None
    ) -> Deployment:
        """The deployment once as many replicas are ready as are wanted, or it was stopped, or its load failed. Raises
        Overrun after `timeout_s` seconds."""
        return self._wait(deployment_id, timeout_s, tell, _is_settled)

    def wait_swapped(
        self, deployment_id: str, timeout_s: float | None = None, *, tell: Callable[[Deployment], None] = lambda _: None
    ) -> Deployment:
        """The deployment once no swap of it is under way; its `swap` says how it ended. Raises Overrun."""
        return self._wait(deployment_id, timeout_s, tell, lambda found: found.next_revision is None)

    def events(self, deployment_id: str | None = None, *, limit: int | None = None) -> Iterator[FleetEvent]:
        """What happened in the fleet, or to one deployment, newest first."""
        found = self._transport.list("/v1/fleet/events", {"deployment": deployment_id}, limit)
        return map(FleetEvent.model_validate, found)

    def _wait(
        self,
        deployment_id: str,
        timeout_s: float | None,
        tell: Callable[[Deployment], None],
        ended: Callable[[Deployment], bool],
    ) -> Deployment:
        def look(_hold_s: float) -> _Look:
            found = self.get(deployment_id)
            return _Look(found, ended=ended(found))

        return wait_for(look, timeout_s, tell=lambda seen: tell(seen.deployment), longest_s=1.0).deployment

    def _do(self, deployment_id: str, verb: str) -> Deployment:
        return Deployment.model_validate(self._transport.ask("POST", f"{self._path(deployment_id)}/{verb}"))

    @staticmethod
    def _path(deployment_id: str) -> str:
        return f"/v1/deployments/{deployment_id}"


def _is_settled(found: Deployment) -> bool:
    ready = sum(one.status == "ready" and one.revision == found.revision for one in found.placed)
    return found.status in ("failed", "stopped", "asleep") or ready >= found.replicas


class Hosts:
    """`client.hosts`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[Host, ...]:
        """Every host that ever had a keeper."""
        return tuple(map(Host.model_validate, self._transport.ask("GET", "/v1/hosts")["data"]))

    def drain(self, host: str) -> Host:
        """Place nothing on it any more, and drain what is there. Raises NotFound."""
        return Host.model_validate(self._transport.ask("POST", f"/v1/hosts/{quote(host, safe='')}/drain"))

    def resume(self, host: str) -> Host:
        """Take it back. Raises NotFound."""
        return Host.model_validate(self._transport.ask("POST", f"/v1/hosts/{quote(host, safe='')}/resume"))

    def list_replicas(self) -> tuple[Replica, ...]:
        """Replicas that live, then those that ended in the last hour."""
        return tuple(map(Replica.model_validate, self._transport.ask("GET", "/v1/replicas")["data"]))

    def drain_replica(self, replica_id: str) -> Replica:
        """Let one replica end what runs, and end. Raises NotFound, Conflict (it was started by hand)."""
        return Replica.model_validate(self._transport.ask("POST", f"/v1/replicas/{replica_id}/drain"))
