"""Schedules fire: a run for each instant, whoever ticks; and due runs begin, one beside the other as is declared.

An instant is dealt with in one transaction that holds the schedule's row: its runs are stored, and the schedule says
up to where. Another ticker passes a row by that is held, and finds nothing to do in one that was. Should two ever
come to the same instant, the unique index over schedule and instant lets one of them have it.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.domain.ids import RUN, new_id, show_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.limits import Limits
from batchinfer.domain.runs import LONGEST_WINDOW, RunState, parse_spec
from batchinfer.domain.schedules import Schedule, make_run_spec
from batchinfer.domain.timing import Due, Overlap, choose_due, delay_start, find_next
from batchinfer.errors import BadRequest, BatchinferError, Conflict
from batchinfer.observe.logs import get_logger
from batchinfer.observe.traces import current_trace, following, new_trace
from batchinfer.services import batch_controls, runs
from batchinfer.services.context import Caller
from batchinfer.services.quotas import admit
from batchinfer.store import firing as store
from batchinfer.store import runs as run_store
from batchinfer.store import schedules as schedule_store
from batchinfer.store.session import read_now
from batchinfer.store.telling import tell_of_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.domain.runs import Run
    from batchinfer.services.context import Context
    from batchinfer.store.session import Transaction

#: An instant no older than this is on time.
GRACE = timedelta(minutes=5)
#: Runs of one schedule that may wait for the one before them; further ones are skipped.
MAX_WAITING = 10
_NOBODY = UUID(int=0)

_log = get_logger(__name__)


def fire_schedules(ctx: Context) -> int:
    """For upkeep: runs for all instants that have come, and the beginning of those that are due. Answers how many runs
    were made or begun. What goes wrong with one schedule leaves the others alone."""
    with ctx.db.transaction() as tx:
        ids = schedule_store.list_due(tx)
    done = sum(_alone(ctx, _fire, schedule_id) for schedule_id in ids)
    with ctx.db.transaction() as tx:
        due, working = store.list_due(tx), store.list_working(tx)
    done += sum(_alone(ctx, begin_due, one.id, one.schedule_id) for one in due)
    for run in working:
        _alone(ctx, _close_window, run)
    return done


def _alone(ctx: Context, part: Callable[..., int], *about: Any) -> int:
    """One part of it. Raises Unavailable: without a database there is no use in going on."""
    try:
        return int(part(ctx, *about))
    except BatchinferError as error:
        if error.retry_helps:
            raise
        _log.warning("a schedule could not be served", code=error.code, about=str(about[0]))
    except Exception:
        _log.exception("a schedule could not be served", about=str(about[0]))
    return 0


def _fire(ctx: Context, schedule_id: UUID) -> int:
    with ctx.db.transaction() as tx:
        schedule = schedule_store.claim_due(tx, schedule_id)
        return 0 if schedule is None else fire_instants(tx, schedule)


def fire_instants(tx: Transaction, schedule: Schedule) -> int:
    """Store a run for each instant up to now, due or missed. The caller holds the schedule. Answers how many.

    A timing that no longer works turns the schedule to `error`.
    """
    now, last = read_now(tx), schedule.last_instant or schedule.created_at
    try:
        due = choose_due(schedule.timing, last, now, grace=GRACE)
        newest = max([last, *due.run, *due.missed])
        following = find_next(schedule.timing, newest)
    except (BadRequest, StopIteration, RuntimeError) as error:
        reason = error if isinstance(error, BadRequest) else _make_never()
        schedule_store.turn_schedule(tx, schedule.id, "break", error=reason.as_dict())
        return 0
    made = _store_runs(tx, schedule, due)
    schedule_store.pass_instants(tx, schedule.id, last_instant=newest, next_at=following)
    return made


def _make_never() -> BadRequest:
    return BadRequest("`timing.cron` never fires again. Name a day that comes.", param="timing.cron")


def _store_runs(tx: Transaction, schedule: Schedule, due: Due) -> int:
    spec, made, waiting = make_run_spec(schedule.declared), 0, len(store.list_waiting(tx, schedule.id))
    for instant in sorted([*due.missed, *due.run]):
        state, cause = RunState.DUE, None
        if instant in due.missed:
            state, cause = RunState.MISSED, _MISSED
        elif waiting >= MAX_WAITING:
            state, cause = RunState.SKIPPED, _CROWDED
        new = run_store.NewRun(
            new_id(), schedule.tenant_id, spec, schedule.name, schedule.key_id, schedule.id, schedule.version,
            instant, delay_start(schedule.timing, schedule.id, instant), state, cause,
        )  # fmt: skip
        if run_store.insert_run(tx, new):
            made, waiting = made + 1, waiting + (state is RunState.DUE)
            if state is not RunState.DUE:
                tell_of_run(tx, schedule.tenant_id, new.id, state.value)
    return made


_MISSED = {
    "code": "missed",
    "message": "Nobody ticked at its instant, and `timing.misfire` does not make up for it.",
}
_CROWDED = {
    "code": "overlap",
    "message": f"{MAX_WAITING} runs of this schedule waited already. Let it fire less often.",
}
_OVERLAP = {"code": "overlap", "message": "The run before it was still at work, and `timing.overlap` is skip."}
_CLOSED = {"code": "window_closed", "message": "Its window had closed before it could begin."}
_ORPHANED = {"code": "cancelled", "message": "Its schedule was deleted before it began."}


def begin_due(ctx: Context, run_id: UUID, schedule_id: UUID, *, again: bool = True) -> bool:
    """Let a due run begin, or be passed over, or wait on. True: it began."""
    try:
        with ctx.db.transaction() as tx:
            schedule, run = schedule_store.hold_schedule(tx, schedule_id), run_store.lock_run(tx, run_id)
            if run is None or run.state is not RunState.DUE:
                return False
            if schedule is None:
                run_store.pass_over(tx, run_id, RunState.CANCELLED, _ORPHANED)
                return False
            before = store.list_live(tx, schedule_id)
            begun = not before and _begin(ctx, tx, schedule, run)
            if before and (schedule.timing.overlap is not Overlap.CANCEL_PREVIOUS or not again):
                _yield(tx, schedule, run)
                return False
    except BatchinferError as error:
        if not error.retry_helps:
            _fail(ctx, run_id, schedule_id, error)
        return False
    if before:
        cancel_runs(ctx, schedule, before)
        return begin_due(ctx, run_id, schedule_id, again=False)
    if begun:
        ctx.announcer.announce_cpu([run_id])
    return begun


def _begin(ctx: Context, tx: Transaction, schedule: Schedule, run: Run) -> bool:
    spec = parse_spec(run.spec, Limits.of(ctx.settings))
    window = spec.window or LONGEST_WINDOW
    if run.due_at is not None and run.due_at + window <= read_now(tx):
        run_store.pass_over(tx, run.id, RunState.SKIPPED, _CLOSED)
        tell_of_run(tx, run.tenant_id, run.id, RunState.SKIPPED.value)
        return False
    admit(ctx, tx, run.tenant_id, 1)
    schedule_store.note_error(tx, schedule.id, None)
    with following(current_trace() or new_trace(ctx.settings.keep_ratio)):
        return runs.begin(tx, run, spec)


def _yield(tx: Transaction, schedule: Schedule, run: Run) -> None:
    """The run before it works. One that makes up for a missed instant is never skipped for another such one."""
    late = run.instant is not None and run.created_at - run.instant > GRACE
    if schedule.timing.overlap is Overlap.SKIP and not late:
        run_store.pass_over(tx, run.id, RunState.SKIPPED, _OVERLAP)
        tell_of_run(tx, run.tenant_id, run.id, RunState.SKIPPED.value)


def _fail(ctx: Context, run_id: UUID, schedule_id: UUID, error: BatchinferError) -> None:
    """A due run that cannot begin has failed, and its schedule says why."""
    with ctx.db.transaction() as tx:
        schedule_store.note_error(tx, schedule_id, error.as_dict())
        run = run_store.load_runs(tx, [run_id]).get(run_id)
        if run is not None and run_store.pass_over(tx, run_id, RunState.FAILED, error.as_dict()):
            tell_of_run(tx, run.tenant_id, run_id, RunState.FAILED.value)


def cancel_runs(ctx: Context, schedule: Schedule, ids: list[UUID]) -> None:
    """End runs of a schedule that have begun; those that have ended meanwhile are left as they are."""
    for run_id in ids:
        with suppress(BadRequest, Conflict):
            runs.cancel_run(ctx, act_for(schedule.tenant_id, schedule.key_id), run_id)


def act_for(tenant_id: UUID, key_id: UUID | None) -> Caller:
    """Who does what a schedule asks for."""
    return Caller(tenant_id, key_id or _NOBODY, "schedule", frozenset({"cancel"}))


def _close_window(ctx: Context, working: store.Working) -> int:
    """The window of a run has closed that goes on: from now on everything else comes first."""
    with ctx.db.transaction() as tx:
        schedule, now = schedule_store.hold_schedule(tx, working.schedule_id), read_now(tx)
    window = schedule.timing.window if schedule is not None else None
    if schedule is None or window is None or working.due_at + window > now:
        return 0
    batch_controls.reclass_batch(ctx, act_for(working.tenant_id, schedule.key_id), working.id, JobClass.BATCH)
    _log.info("a run goes on after its window", run_id=show_id(RUN, working.id))
    return 1
