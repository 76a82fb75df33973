"""Models, hosts and replicas for the pages, registered, placed and moved through services as keepers and workers do."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from batchinfer.domain.deployments import parse_deployment
from batchinfer.domain.replicas import ReplicaState
from batchinfer.media.weight_headers import read_model_facts
from batchinfer.services import deployments, models, placing, replicas, work
from batchinfer.services.context import Caller, Context
from batchinfer.services.replicas import News
from batchinfer.store import fetches, hosts, revisions
from batchinfer.store.hosts import Device, DeviceLoad

DOCREADER = Path(__file__).resolve().parents[2] / "workers/models/docreader"
FACTS = read_model_facts(DOCREADER)
S = ReplicaState
UP = (S.LOADING, S.VERIFYING, S.READY)


@dataclass
class Fleet:
    """An installation with a host or more, each moved by the test."""

    context: Context
    caller: Caller
    keepers: dict[str, UUID] = field(default_factory=dict)
    leases: list[UUID] = field(default_factory=list)
    #: Of the bundled model.
    folder: Path = DOCREADER

    def know(self, name: str = "reader", revision: str = "r1", **facts: Any) -> str:
        """A model whose folder is here."""
        models.register_model(self.context, name, str(DOCREADER), revision, {**FACTS, **facts})
        return name

    def add_revision(self, name: str, revision: str, state: str = "fetched") -> None:
        """Another revision beside the one that serves."""
        with self.context.db.transaction() as tx:
            path = str(DOCREADER) if state == "fetched" else ""
            source = {"kind": "huggingface", "repo": "some/reader", "asked": "main"}
            revisions.save_revision(tx, name, revision, source=source, path=path, state=state, facts=FACTS)

    def list_fetching(self, name: str, revision: str, size_mib: int) -> None:
        """A repository that was registered, and whose fetch has begun."""
        files = [{"name": "model.safetensors", "size": size_mib * 2**20, "sha256": None}]
        source = {"kind": "huggingface", "repo": "some/large", "asked": "main"}
        with self.context.db.transaction() as tx:
            fetches.register(tx, name, revision, source=source, files=files, facts={"licence": "apache-2.0"})
            found = revisions.find_revision(tx, name, revision)
            assert found is not None
            assert fetches.begin(tx, found, "tests")

    def open(self, host: str = "box", total_mib: int | None = 24_152, **labels: str) -> None:
        """A host with one device comes up."""
        self.keepers[host] = uuid4()
        devices = [Device("cpu", "cpu", total_mib, "EPYC 7B13")]
        replicas.open_host(self.context, host, self.keepers[host], devices, labels)

    def beat(self, load: DeviceLoad | None = None, info: dict[str, Any] | None = None) -> None:
        """Every host and every worker gives a sign of life, with what they measured."""
        with self.context.db.transaction() as tx:
            for host, keeper in self.keepers.items():
                assert hosts.beat_host(tx, host, keeper, {"cpu": load} if load else None)
        for lease in self.leases:
            work.beat(self.context, lease, info)

    def launch(self, name: str = "reader", **spec: Any) -> UUID:
        """Want a model; nothing is placed by it."""
        made, _ = deployments.launch(
            self.context, self.caller, parse_deployment({"model": name, "device": "cpu", **spec})
        )
        return made.deployment.id

    def place(self) -> list[Any]:
        """One look of the placement; answers the replicas that are planned."""
        self.beat()
        assert placing.reconcile(self.context) is not None
        return [one for one in self.list_all() if one.state == S.PLANNED]

    def list_all(self) -> list[Any]:
        return [one for found in deployments.list_deployments(self.context, self.caller) for one in found.replicas]

    def move(self, replica_id: UUID, *states: ReplicaState, **news: Any) -> None:
        for state in states:
            assert replicas.move(self.context, replica_id, state, News(**news)) is not None, state

    def bring_up(self, replica: Any, memory_mib: int = 507) -> UUID:
        """A planned replica loads, is tested, and serves under a lease; answers the lease."""
        lease = work.open_lease(
            self.context, role="model", worker=replica.worker, host=replica.host, pid=os.getpid(), model=replica.model,
            device=replica.device, slots=8,
        )  # fmt: skip
        self.move(replica.id, S.LOADING, S.VERIFYING)
        self.leases.append(lease)
        phases = {"start": 2.1, "read": 0.4, "copy": 0.1, "warm_up": 0.9, "verify": 3.0}
        self.move(replica.id, S.READY, lease_id=lease, memory_mib=memory_mib, phases=phases, engine="transformers",
                  versions={"batchinfer": "0.3.0", "torch": "2.13.0"})  # fmt: skip
        return lease

    def fail(self, replica: Any, message: str, code: str = "load_failed") -> None:
        """A load fails."""
        error = {"message": message, "type": "server_error", "param": None, "code": code}
        self.move(replica.id, S.LOADING)
        self.move(replica.id, S.FAILED, error=error)
