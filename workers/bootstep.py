"""Where a duty meets Celery: a bootstep starts it before the consumer, so that work flows while Redis is
away, adds the queues when the worker is ready, and ends it in order."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from celery import bootsteps, signals
from celery.worker import state as worker_state
from celery.worker.control import control_command, inspect_command

from batchinfer.bus.app import URGENT_QUEUE
from batchinfer.bus.control import CANCEL_JOB, DRAIN, JOBS
from batchinfer.domain.ids import JOB, parse_id, show_id
from batchinfer.errors import NotFound
from batchinfer.observe.logs import get_logger
from workers.application import make_application
from workers.consumer import messages
from workers.watchdog import end_process_after

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import click
    from celery import Celery
    from kombu import Queue

    from workers.duty import Duty

#: Time for Celery to end by itself before the process is ended.
END_S = 10.0

_log = get_logger(__name__)
#: The duty of this process, for the tasks and control commands, which Celery looks up by name.
_current: list[Duty] = []


class DutyStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Subclasses make the duty and name the queues that announce its work."""

    requires: ClassVar[set[str]] = {"celery.worker.components:Pool"}
    label = "Duty"

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.options = options
        self.duty: Duty | None = None

    def make_duty(self, worker: Any) -> Duty:
        """Make it, without starting anything."""
        raise NotImplementedError

    def list_queues(self) -> Sequence[Queue]:
        """The queues whose messages announce work for this worker."""
        raise NotImplementedError

    def create(self, parent: Any) -> None:
        """Nothing is consumed before the worker is ready: before that a message is wasted."""
        queues = parent.app.amqp.queues
        queues.deselect(list(queues.consume_from))

    def start(self, parent: Any) -> None:
        duty = self.duty = self.make_duty(parent)
        duty.on_ready = lambda: self._consume(parent)
        duty.on_failed = _end_celery
        _current[:] = [duty]
        # The signal handler calls it: the drain begins while Celery still closes its connections.
        signals.worker_shutting_down.connect(_on_shutting_down, weak=False)
        duty.start()

    def stop(self, _parent: Any) -> None:
        """After the consumer has stopped."""
        if self.duty is not None:
            self.duty.stop()
            if not self.duty.wait():
                # Ended by Python, a thread that loads a model would bring the process down with a crash.
                self.duty.note("stopped")
                os._exit(0)
            self.duty.ctx.close()

    def terminate(self, parent: Any) -> None:
        """A cold shutdown ends in order all the same: the drain has its own limit."""
        self.stop(parent)

    def info(self, _parent: Any) -> dict[str, Any]:
        """Part of `celery inspect stats`."""
        duty = self.duty
        if duty is None:
            return {}
        return {"batchinfer": duty.crew.describe() if duty.crew else duty.describe()}

    def _consume(self, worker: Any) -> None:
        """Consume from our queues, on Celery's own thread; after a reconnect Celery does it by itself."""
        queues = worker.app.amqp.queues
        for queue in self.list_queues():
            queues.select_add(queue)
        worker.hub.call_soon(_add_queues, worker, [queue.name for queue in self.list_queues()])


def _add_queues(worker: Any, names: Sequence[str]) -> None:
    consumer = getattr(worker, "consumer", None)
    if consumer is None or consumer.task_consumer is None:
        return  # not connected: the consumer takes all selected queues when it is
    for name in names:
        consumer.add_task_queue(name)


def _on_shutting_down(**_: Any) -> None:
    for duty in _current:
        duty.stop()


def _end_celery(status: int) -> None:
    """Have Celery's main thread end the process with `status`, and end it ourselves where that hangs."""
    worker_state.should_stop = status
    end_process_after(END_S, status, "the worker could not start")


def leave_celery() -> None:
    """Have Celery's main thread end the process in order, whoever calls; the duty was told to stop before."""
    worker_state.should_stop = 0


def wake_current(task: Any, *_args: Any, **_options: Any) -> None:
    """The body of the tasks that announce ids. What they say is information: the claim alone decides."""
    messages.note_announcement()
    queue = (task.request.delivery_info or {}).get("routing_key")
    for duty in _current:
        duty.wake(urgent=str(queue).endswith(URGENT_QUEUE))


def make_worker(role: str, options: Sequence[click.Option], step: type[DutyStep], task: str) -> Celery:
    """The application of `celery -A workers.<role> worker`, which is woken by `task`."""
    app = make_application(role, options)
    app.steps["worker"].add(step)
    # A message is no job: jobs have events of their own.
    app.task(wake_current, name=task, bind=True, ignore_result=True, typing=False, send_events=False)
    return app


@inspect_command(name=JOBS)  # type: ignore[untyped-decorator]
def list_jobs(_state: Any, **_: Any) -> list[dict[str, Any]]:
    """What this worker holds: id, kind, stage (preparing, waiting, prefill, decoding, storing), attempt, age, lease."""
    return [job for duty in _current for job in duty.list_jobs()]


# Celery hands what stands on its command line over as a list, under the name of `variadic`.
@control_command(name=CANCEL_JOB, variadic="ids", signature="[id1 [id2 ...]]")  # type: ignore[untyped-decorator]
def cancel_job(_state: Any, ids: Sequence[str] = (), **_: Any) -> dict[str, Any]:
    """Cancel jobs that this worker holds; they stop between two steps. Others wait for the API's cancel."""
    wanted = _parse_ids(ids)
    held = [job_id for duty in _current for job_id in duty.cancel(wanted)]
    return {"ok": f"cancelling {len(held)} of {len(wanted)} jobs", "held": [show_id(JOB, job_id) for job_id in held]}


def _parse_ids(ids: Any) -> set[UUID]:
    """Those that can be ids of jobs; anybody who reaches Redis can send anything."""
    found = set()
    for text in ids if isinstance(ids, (list, tuple)) else ():
        digits = str(text).removeprefix(JOB).replace("-", "")
        with suppress(NotFound):
            found.add(parse_id(JOB, JOB + digits))
    return found


@control_command(name=DRAIN)  # type: ignore[untyped-decorator]
def drain(_state: Any, **_: Any) -> dict[str, Any]:
    """Take no more work, finish what fits in the drain time, give back the rest and end the process."""
    for duty in _current:
        duty.stop()
    worker_state.should_stop = 0
    return {"ok": "draining"}
