"""The model worker: `celery -A workers.model worker -n model-cpu-0@%h --model NAME --device cpu --engine
auto`.

One process holds one replica, one model on one device. The model is loaded before the lease is opened, so
that loading never looks like a dead worker.
"""

from __future__ import annotations

import resource
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

import click
from celery.bin.base import JSON_OBJECT

from batchinfer.bus.app import INFER_TASK, queue_for
from batchinfer.bus.tokens import TokenSender
from batchinfer.domain.jobs import JobClass
from batchinfer.errors import Failure, Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.services import models, work
from batchinfer.services.context import Context, open_context
from batchinfer.services.crumbs import Crumbs
from batchinfer.settings import load_settings
from workers.answering import Answering
from workers.application import offer_app, option
from workers.bootstep import DutyStep, make_worker
from workers.committer import Committer
from workers.crew import Crew
from workers.duty import Duty, StartFailed
from workers.engine.protocol import Engine, ModelError
from workers.insist import insist
from workers.lease import Lease
from workers.loading import Plan, find_verdict, load_engine, verify_engine
from workers.pin import pin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from kombu import Queue


#: Feeder, committer, heart, reaper, and one to spare.
CONNECTIONS = 5
DEFAULT_SLOTS = 8
#: Rows that an engine may be at, prepared or running, for each slot.
CRUMB_PLACES = 4

_log = get_logger(__name__)


class ModelDuty(Duty):
    """Load a model, say how it stands, and answer jobs with it."""

    def __init__(self, ctx: Context, worker: str, plan: Plan) -> None:
        super().__init__(ctx, worker)
        self._plan, self._device = plan, plan.device
        self._replica_id: UUID | None = None
        self._revision = self._engine_name = ""
        self._state = "starting"
        self._verdict: dict[str, Any] | None = None

    def open(self) -> Crew:
        name = self._plan.model
        try:
            pinned = pin(self._plan.device, self._plan.threads)
        except ValueError as error:
            raise StartFailed(str(error)) from None
        self._device = pinned.device
        model = insist(lambda: models.find_model(self.ctx, name), self.quit, what="the model's row")
        if model is None:
            raise StartFailed(f"There is no model named {name!r}. Register it, or start with another name.")
        self._revision = model.revision
        self._insist_on("loading")
        try:
            engine = load_engine(self._plan, model, pinned)
            self._engine_name = engine.name
            self._verdict = find_verdict(engine)
            self._insist_on("verifying")
            verify_engine(engine, self.ctx.settings.watchdog_s)
        except ModelError as error:
            self._insist_on("failed", Failure(error.message, code=error.code).as_dict())
            raise StartFailed(f"The model {name} cannot be loaded ({error.code}): {error.message}") from None
        return self._make_crew(engine)

    def note(self, state: str) -> None:
        """A replica's row is for people: a state that cannot be written does not stop the worker."""
        try:
            if self._replica_id is not None:
                self._record(state)
        except Unavailable as error:
            _log.warning("the replica's state was not written", state=state, code=error.code)

    def renew(self) -> None:
        """The old lease's end has ended the replica's row: the same model goes on as a new one."""
        self._replica_id = None
        try:
            self._record("ready")
        except Unavailable as error:
            _log.warning("the replica's state was not written", state="ready", code=error.code)

    def describe(self) -> dict[str, Any]:
        return {"model": self._plan.model, "revision": self._revision, "state": self._state}

    def _make_crew(self, engine: Engine) -> Crew:
        lease = Lease(
            self.ctx,
            role="model",
            worker=self.worker,
            model=self._plan.model,
            device=self._device,
            slots=self._plan.slots,
        )
        committer = Committer(self.ctx, lease)
        station = Answering(
            engine,
            lease.held,
            committer,
            model=self._plan.model,
            revision=self._revision,
            slots=self._plan.slots,
            crumbs=Crumbs(self.ctx.settings.crumbs_dir, CRUMB_PLACES * self._plan.slots + 16),
            tokens=TokenSender(self.ctx.redis),
        )
        crew = Crew(self.ctx, lease, committer, station)
        station.on_room = crew.feeder.wake
        return crew

    def _insist_on(self, state: str, error: dict[str, Any] | None = None) -> None:
        insist(lambda: self._record(state, error), self.quit, what="the replica's state")

    def _record(self, state: str, error: dict[str, Any] | None = None) -> None:
        self._replica_id = work.record_replica(
            self.ctx,
            self._replica_id,
            worker=self.worker,
            model=self._plan.model,
            device=self._device,
            state=state,
            revision=self._revision,
            engine=self._engine_name,
            lease_id=self.crew.lease.id if self.crew else None,
            error=error,
            verdict=self._verdict,
            memory_mib=_measure_memory_mib() if self._device == "cpu" and state == "ready" else None,
        )
        self._state = state


def _measure_memory_mib() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class ModelStep(DutyStep):
    """Started by Celery with the options of the command line."""

    requires: ClassVar[set[str]] = {"celery.worker.components:Pool"}

    def make_duty(self, worker: Any) -> Duty:
        plan = Plan(**{field.name: self.options[field.name] for field in fields(Plan)})
        name = str(worker.hostname)
        ctx = open_context(load_settings(), name=f"batchinfer {name}", pool_size=CONNECTIONS)
        return ModelDuty(ctx, name, plan)

    def list_queues(self) -> Sequence[Queue]:
        return [queue_for(self.options["model"], job_class) for job_class in JobClass]


OPTIONS = (
    option("--model", required=True, help="Name of the model, as it is registered."),
    option("--device", default="auto", help="cpu, cuda:N, or auto: the first GPU, else the CPU."),
    option("--engine", default="auto", help="auto, static, transformers or fake."),
    option("--slots", type=click.IntRange(1, 4096), default=DEFAULT_SLOTS, help="Requests that run at once."),
    option("--threads", type=click.IntRange(0), default=0, help="Cores to compute with; 0 is half of them."),
    option("--engine-options", type=JSON_OBJECT, default="{}", help="Options of the engine's class, as JSON."),
)


#: `app`, made when Celery asks for it.
__getattr__ = offer_app(lambda: make_worker("model", OPTIONS, ModelStep, INFER_TASK))
