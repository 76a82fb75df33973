"""The row of a model worker's replica: one that it makes itself, or one that a keeper was told to start it for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from batchinfer.domain.replicas import ReplicaState
from batchinfer.services import models, replicas, work

if TYPE_CHECKING:
    from batchinfer.services.context import Context
    from batchinfer.services.replicas import News
    from batchinfer.store.fleet import Model


class ReplicaRow(Protocol):
    """Where a replica is, for people and for placement."""

    @property
    def is_made(self) -> bool:
        """Whether there is one yet."""
        ...

    def find_model(self) -> Model | None:
        """What is to be loaded; None where there is no such model. Raises Unavailable."""
        ...

    def record(self, state: str, news: News, *, device: str, revision: str) -> bool:
        """Write a state. False where the row allows it no more. Raises Unavailable."""
        ...

    def renew(self, lease_id: UUID, news: News, *, device: str, revision: str) -> bool:
        """The lease was taken for dead, and the row ended with it: go on under this one. False where that may not be.

        Raises Unavailable.
        """
        ...


class OwnRow:
    """Of a worker that was started by hand: made when it loads."""

    def __init__(self, ctx: Context, worker: str, model: str) -> None:
        self._ctx, self._worker, self._model = ctx, worker, model
        self._id: UUID | None = None

    def find_model(self) -> Model | None:
        return models.find_model(self._ctx, self._model)

    def record(self, state: str, news: News, *, device: str, revision: str) -> bool:
        self._id = work.record_replica(
            self._ctx,
            self._id,
            worker=self._worker,
            model=self._model,
            device=device,
            state=state,
            revision=revision,
            engine=news.engine,
            lease_id=news.lease_id,
            error=news.error,
            verdict=news.verdict,
            memory_mib=news.memory_mib,
            phases=news.phases,
            versions=news.versions,
        )
        return True

    def renew(self, lease_id: UUID, news: News, *, device: str, revision: str) -> bool:  # noqa: ARG002 - `news` has it
        self._id = None
        return self.record("ready", news, device=device, revision=revision)

    @property
    def is_made(self) -> bool:
        """Whether there is one yet."""
        return self._id is not None


class AssignedRow:
    """Of a worker that a keeper started: made by placement, and moved along the table of moves alone."""

    is_made = True

    def __init__(self, ctx: Context, replica_id: UUID) -> None:
        self._ctx = ctx
        self.id = replica_id

    def find_model(self) -> Model | None:
        orders = replicas.read_orders(self._ctx, self.id)
        return None if orders is None else replicas.read_model(self._ctx, orders)

    def record(self, state: str, news: News, *, device: str, revision: str) -> bool:  # noqa: ARG002 - its row has them
        return replicas.move(self._ctx, self.id, ReplicaState(state), news) is not None

    def renew(self, lease_id: UUID, news: News, *, device: str, revision: str) -> bool:  # noqa: ARG002
        new = replicas.renew(self._ctx, self.id, lease_id)
        if new is not None:
            self.id = new
        return new is not None
