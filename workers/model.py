"""The model worker: `celery -A workers.model worker -n model-cpu-0@%h --model NAME --device cpu --engine
auto`.

One process holds one replica, one model on one device. The model is loaded before the lease is opened, so
that loading never looks like a dead worker.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from celery.bin.base import JSON_OBJECT

from batchinfer.bus.app import INFER_TASK, queue_for
from batchinfer.bus.tokens import TokenSender
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.launches import DEFAULT_SLOTS
from batchinfer.domain.replicas import Wanted
from batchinfer.errors import BatchinferError, Failure, Unavailable
from batchinfer.observe.logs import get_logger
from batchinfer.services import replicas
from batchinfer.services.context import Context, open_context
from batchinfer.services.crumbs import Crumbs
from batchinfer.services.replicas import News
from batchinfer.settings import load_settings
from workers import budget
from workers.agreement import GoldenAgreement
from workers.answering import Answering
from workers.application import offer_app, option
from workers.bootstep import DutyStep, leave_celery, make_worker
from workers.committer import Committer
from workers.cores import CoreRules
from workers.crew import Crew
from workers.duty import Duty, StartFailed
from workers.engine.phases import Phases as EnginePhases
from workers.engine.protocol import Engine, ModelError
from workers.insist import Stopped, insist
from workers.lease import Lease
from workers.loading import Plan, find_verdict, load_engine, verify_engine
from workers.memory_readings import Residency, tell_device
from workers.orders import OrderWatch
from workers.phases import Phases, find_versions
from workers.pin import Pinned, pin
from workers.replica_row import AssignedRow, OwnRow, ReplicaRow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kombu import Queue

    from batchinfer.observe.metrics import Sheet
    from batchinfer.services.replicas import Assignment


#: Feeder, committer, heart, reaper, orders, and one to spare.
CONNECTIONS = 6
#: Rows that an engine may be at, prepared or running, for each slot.
CRUMB_PLACES = 4

_log = get_logger(__name__)


class ModelDuty(Duty):
    """Load a model, say how it stands, and answer jobs with it."""

    def __init__(self, ctx: Context, worker: str, plan: Plan) -> None:
        super().__init__(ctx, worker)
        self._plan, self._device = plan, plan.device
        self._row: ReplicaRow = OwnRow(ctx, worker, plan.model)
        self._orders: OrderWatch | None = None
        if plan.replica is not None:
            self._row = AssignedRow(ctx, plan.replica)
            self._orders = OrderWatch(
                ctx, plan.replica, on_orders=self._follow, on_end=self._leave_by_order, has_lease=self._has_lease
            )
        #: Ends the process in order.
        self.on_leave: Callable[[], None] = lambda: None
        self._phases, self._parts = Phases(), EnginePhases()
        self._goldens: GoldenAgreement | None = None
        if plan.replica is not None:
            self._goldens = GoldenAgreement(ctx, plan.replica, self.quit, self._parts)
        self._revision = self._engine_name = ""
        self._residency: Residency | None = None
        self._state = "starting"
        self._pinned: Pinned | None = None
        self._verdict: dict[str, Any] | None = None
        self._versions: dict[str, str] | None = None

    def open(self) -> Crew:
        name = self._plan.model
        try:
            pinned = pin(self._plan.device, self._plan.threads, self._make_core_rules())
        except ValueError as error:
            raise StartFailed(str(error)) from None
        self._device, self._pinned = pinned.device, pinned
        model = insist(self._row.find_model, self.quit, what="the model's row")
        if model is None:
            raise StartFailed(f"There is no model named {name!r}. Register it, or start with another name.")
        self._revision, self._residency = model.revision, Residency(Path(model.path))
        self._insist_on("loading")
        if self._orders is not None:
            self._orders.start()
        self._phases.end("start")
        try:
            plan, parts = self._plan, self._parts
            self._plan = insist(lambda: budget.bind(self.ctx, plan, model, self._device), self.quit, what="the plan")
            engine = load_engine(self._plan, model, pinned, self.ctx.settings, parts, self._goldens)
            self._phases.end("read", parts.seconds)
            self._engine_name, self._versions = engine.name, find_versions(engine)
            self._verdict = find_verdict(engine)
            self._insist_on("verifying")
            verify_engine(engine, self.ctx.settings.watchdog_s)
            self._phases.end("warm_up")
            budget.hold(self._plan, pinned.device)
        except ModelError as error:
            self._insist_on("failed", Failure(error.message, code=error.code).as_dict())
            raise StartFailed(f"The model {name} cannot be loaded ({error.code}): {error.message}") from None
        try:
            self._stand_by(engine)
        except (Stopped, StartFailed):
            engine.close()
            raise
        return self._make_crew(engine)

    def tell(self, sheet: Sheet) -> None:
        """The same with what it is, its device, and how much of the model's files is in the page cache."""
        super().tell(sheet)
        host, asked = self.ctx.settings.machine_name, self._plan.device
        # A process sees one GPU, as cuda:0, whichever of the host's it is.
        device = asked if asked.startswith("cuda:") else self._device
        model = self._plan.model
        sheet.add(
            "batchinfer_worker_info", 1, "model", self.worker, host, model, self._revision, self._engine_name, device
        )
        tell_device(sheet, host, device)
        if self._residency is not None:
            sheet.add("batchinfer_model_resident_ratio", self._residency.find_share(), model)

    def note(self, state: str) -> None:
        """A replica's row is for people: a state that cannot be written does not stop the worker."""
        try:
            if self._row.is_made:
                self._record(state)
        except Unavailable as error:
            _log.warning("the replica's state was not written", state=state, code=error.code)

    def renew(self) -> None:
        """The old lease's end has ended the replica's row: the same model goes on as a new one."""
        lease_id = self.crew.lease.id if self.crew else None
        if lease_id is None:
            return
        try:
            if self._row.renew(lease_id, self._tell(), device=self._device, revision=self._revision):
                self._state = "ready"
            if self._orders is not None and isinstance(self._row, AssignedRow):
                self._orders.replica_id = self._row.id
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
            versions=self._versions,
            crumbs=Crumbs(self.ctx.settings.crumbs_dir, CRUMB_PLACES * self._plan.slots + 16),
            tokens=TokenSender(self.ctx.redis),
        )
        crew = Crew(self.ctx, lease, committer, station)
        station.on_room = crew.feeder.wake
        if self._pinned is not None:
            crew.about |= {"threads": self._pinned.threads, "cores": self._pinned.cores or None}
        return crew

    def _make_core_rules(self) -> CoreRules | None:
        settings = self.ctx.settings
        return CoreRules(settings.reserve_cores) if settings.cpu_affinity else None

    def _insist_on(self, state: str, error: dict[str, Any] | None = None) -> None:
        """Raises Stopped where the row allows it no more: then nobody wants this process."""
        if not insist(lambda: self._record(state, error), self.quit, what="the replica's state"):
            self._leave_by_order("its row has ended")
            raise Stopped(state)

    def _record(self, state: str, error: dict[str, Any] | None = None) -> bool:
        news = self._tell(error, measured=state in ("ready", "standing_by"))
        done = self._row.record(state, news, device=self._device, revision=self._revision)
        if done:
            self._state = state
        return done

    def _tell(self, error: dict[str, Any] | None = None, *, measured: bool = True) -> News:
        return News(
            lease_id=self.crew.lease.id if self.crew else None,
            engine=self._engine_name,
            error=error,
            memory_mib=budget.measure_mib(self._device) if measured else None,
            verdict=self._verdict,
            phases=self._phases.seconds,
            versions=self._versions,
        )

    def _stand_by(self, engine: Engine) -> None:
        """Where its row says so, answer the golden prompts and wait, with the model loaded and no lease. Raises Stopped
        and StartFailed."""
        if self._orders is None or self._goldens is None:
            return
        replica_id = self._orders.replica_id
        orders = insist(lambda: replicas.read_orders(self.ctx, replica_id), self.quit, what="the orders")
        if orders is not None and orders.wanted == Wanted.STAND_BY:
            self._check_goldens(self._goldens, engine, orders.swap)
            self._insist_on("standing_by")
            self._orders.wait_for_serve(self.quit)

    def _check_goldens(self, goldens: GoldenAgreement, engine: Engine, swap: dict[str, Any] | None) -> None:
        try:
            report = goldens.check(engine, swap)
        except BatchinferError as error:
            self._insist_on("failed", error.as_dict())
            raise StartFailed(f"The golden prompts were not all answered rightly ({error.code}).") from None
        if report is not None:
            self._verdict = {**(self._verdict or {}), "golden": report.as_dict()}

    def _follow(self, orders: Assignment) -> None:
        """What could not be written when it was so is written now."""
        if orders.state in ("verifying", "standing_by") and self._has_lease() and not self.quit.is_set():
            self.note("ready")

    def _has_lease(self) -> bool:
        return self.crew is not None and self.crew.lease.id is not None

    def _leave_by_order(self, reason: str) -> None:
        _log.info("the worker leaves", reason=reason)
        self.stop()
        self.on_leave()


class ModelStep(DutyStep):
    """Started by Celery with the options of the command line."""

    requires: ClassVar[set[str]] = {"celery.worker.components:Pool"}

    def make_duty(self, worker: Any) -> Duty:
        plan = Plan(**{field.name: self.options[field.name] for field in fields(Plan)})
        name = str(worker.hostname)
        ctx = open_context(load_settings(), name=f"batchinfer {name}", pool_size=CONNECTIONS)
        duty = ModelDuty(ctx, name, plan)
        duty.on_leave = leave_celery
        return duty

    def list_queues(self) -> Sequence[Queue]:
        return [queue_for(self.options["model"], job_class) for job_class in JobClass]


OPTIONS = (
    option("--model", required=True, help="Name of the model, as it is registered."),
    option("--device", default="auto", help="cpu, cuda:N, or auto: the first GPU, else the CPU."),
    option("--engine", default="auto", help="auto, transformers, static, vllm, remote or fake."),
    option("--slots", type=click.IntRange(1, 4096), default=DEFAULT_SLOTS, help="Requests that run at once."),
    option("--threads", type=click.IntRange(0), default=0, help="Cores to compute with; 0 is half of them."),
    option("--memory-mib", type=click.IntRange(1), default=None, help="The most that it may take on its device."),
    option("--replica", type=click.UUID, help="The row that a keeper starts this worker for."),
    option("--engine-options", type=JSON_OBJECT, default="{}", help="Options of the engine's class, as JSON."),
)


#: `app`, made when Celery asks for it.
__getattr__ = offer_app(lambda: make_worker("model", OPTIONS, ModelStep, INFER_TASK))
