"""A user's verbs for schedules: create, apply, get, list, change, delete, pause, resume, run now, next instants."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import SCHEDULE, new_id, parse_id, show_id
from batchinfer.domain.runs import RunState
from batchinfer.domain.schedules import Schedule, ScheduleState, make_run_spec, merge_change, parse_schedule
from batchinfer.domain.timing import Overlap, find_next, list_next
from batchinfer.errors import Conflict, NotFound
from batchinfer.services import firing, runs
from batchinfer.services.audit import note
from batchinfer.services.context import Page
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.store import firing as firing_store
from batchinfer.store import runs as run_store
from batchinfer.store import schedules as store
from batchinfer.store.events import Event, record
from batchinfer.store.session import read_now

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.domain.runs import Run
    from batchinfer.domain.schedules import ScheduleRequest
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.session import Transaction

_DELETED = {"code": "cancelled", "message": "Its schedule was deleted before it began."}


def check_schedule(ctx: Context, caller: Caller, body: object) -> ScheduleRequest:
    """A declaration, held against what is there, as its runs would be. Raises BadRequest, NotFound."""
    request = parse_schedule(body)
    runs.check_spec(ctx, caller, make_run_spec(request.declared))
    return request


def create_schedule(
    ctx: Context, caller: Caller, body: object, idempotency: Idempotency | None = None
) -> tuple[Schedule, bool]:
    """Keep a schedule. Its first instant is the next one. Answers it, and whether it is a replay.

    Raises BadRequest, NotFound (a model, template or file), Conflict (code schedule_exists), KeyReused.
    """
    caller.require("submit")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return get_own(ctx, caller, found.resource_id), True
    request, schedule_id = check_schedule(ctx, caller, body), new_id()
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "schedule", schedule_id)
            _insert(tx, caller, schedule_id, request)
    except Replayed as replay:
        return get_own(ctx, caller, replay.found.resource_id), True
    return get_own(ctx, caller, schedule_id), False


def _insert(tx: Transaction, caller: Caller, schedule_id: UUID, request: ScheduleRequest) -> None:
    now, enabled = read_now(tx), request.enabled is not False
    stored = store.insert_schedule(
        tx, schedule_id, caller.tenant_id, name=request.name, key_id=caller.key_id, declared=request.declared,
        state=ScheduleState.ENABLED if enabled else ScheduleState.PAUSED, last_instant=now,
        next_at=find_next(request.timing, now) if enabled else None,
    )  # fmt: skip
    if not stored:
        raise _make_taken(request.name)
    _note(tx, caller, schedule_id, "created")


def apply_schedule(ctx: Context, caller: Caller, body: object) -> tuple[Schedule, str]:
    """Create the schedule of this name, or make it what is declared. Twice is as once.

    Answers it, and what was done: created, changed or unchanged. Raises as `create_schedule` does.
    """
    caller.require("submit")
    request = check_schedule(ctx, caller, body)
    with ctx.db.transaction() as tx:
        held = store.lock_named(tx, caller.tenant_id, request.name)
        if held is None:
            schedule_id, done = new_id(), "created"
            _insert(tx, caller, schedule_id, request)
        else:
            schedule_id, done = held.id, _replace(tx, caller, held, request)
    return get_own(ctx, caller, schedule_id), done


def change_schedule(
    ctx: Context, caller: Caller, schedule_id: UUID, body: object, *, version: int | None = None
) -> Schedule:
    """Another declaration: a field that is given replaces the former one, null takes it away. Runs keep theirs.

    Raises NotFound, BadRequest, Conflict (codes schedule_exists: the name; schedule_changed: it is no longer of the
    `version` that the change was made for).
    """
    caller.require("submit")
    request = check_schedule(ctx, caller, merge_change(get_own(ctx, caller, schedule_id).declared, body))
    with ctx.db.transaction() as tx:
        held = _require(store.lock_schedule(tx, caller.tenant_id, schedule_id))
        if version is not None and held.version != version:
            raise _make_changed(held)
        if store.is_taken(tx, caller.tenant_id, request.name, but=schedule_id):
            raise _make_taken(request.name)
        _replace(tx, caller, held, request)
    return get_own(ctx, caller, schedule_id)


def _replace(tx: Transaction, caller: Caller, held: Schedule, request: ScheduleRequest) -> str:
    """Make a schedule that is held what is declared. Answers changed or unchanged."""
    done = "unchanged"
    now = read_now(tx)
    if request.declared != held.declared:
        if held.next_at is not None and held.next_at <= now:
            firing.fire_instants(tx, held)  # what has come is still fired as it was declared
        store.change_schedule(
            tx, held.id, name=request.name, declared=request.declared, last_instant=now,
            next_at=find_next(request.timing, now),
        )  # fmt: skip
        _note(tx, caller, held.id, "changed")
        done = "changed"
    if request.enabled is not None and request.enabled is not (held.state is ScheduleState.ENABLED):
        _turn(tx, caller, held.id, request, now)
        done = "changed"
    return done


def _turn(tx: Transaction, caller: Caller, schedule_id: UUID, request: ScheduleRequest, now: datetime) -> None:
    if request.enabled:
        store.turn_schedule(tx, schedule_id, "resume", last_instant=now, next_at=find_next(request.timing, now))
    else:
        store.turn_schedule(tx, schedule_id, "pause")
    _note(tx, caller, schedule_id, "resumed" if request.enabled else "paused")


def get_own(ctx: Context, caller: Caller, schedule_id: UUID) -> Schedule:
    """The caller's schedule, whatever its scopes. Raises NotFound."""
    with ctx.db.transaction() as tx:
        return _require(store.find_schedule(tx, caller.tenant_id, schedule_id))


def get_schedule(ctx: Context, caller: Caller, schedule_id: UUID) -> Schedule:
    """The schedule. Raises NotFound."""
    caller.require("read")
    return get_own(ctx, caller, schedule_id)


def find_schedule(ctx: Context, caller: Caller, named: str) -> Schedule:
    """The schedule of this id, as people see it, or of this name. Raises NotFound."""
    caller.require("read")
    with suppress(NotFound):
        return get_own(ctx, caller, parse_id(SCHEDULE, named))
    with ctx.db.transaction() as tx:
        return _require(store.find_named(tx, caller.tenant_id, named))


def list_schedules(
    ctx: Context,
    caller: Caller,
    *,
    state: ScheduleState | None = None,
    name: str | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> Page[Schedule]:
    """Schedules, newest first, beginning below the id `after`; those in a state, and with this in the name."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = store.list_schedules(tx, caller.tenant_id, state=state, name=name, after=after, limit=limit + 1)
    return Page.cut(found, limit, backwards=False)


def list_instants(ctx: Context, caller: Caller, schedule_id: UUID, count: int) -> list[datetime]:
    """The next instants of a schedule from now on, also of one that is paused. Raises NotFound."""
    schedule = get_schedule(ctx, caller, schedule_id)
    with ctx.db.transaction() as tx:
        now = read_now(tx)
    return list_next(schedule.timing, now, count)


def list_runs(
    ctx: Context, caller: Caller, schedule_id: UUID, *, after: UUID | None = None, limit: int = 20
) -> Page[Run]:
    """What became of its instants, and runs by hand, newest first. Raises NotFound."""
    get_schedule(ctx, caller, schedule_id)
    return runs.list_runs(ctx, caller, schedule_id=schedule_id, after=after, limit=limit)


def pause_schedule(ctx: Context, caller: Caller, schedule_id: UUID) -> Schedule:
    """Let instants pass from now on; runs that have begun go on. Twice is as once. Raises NotFound."""
    caller.require("cancel")
    with ctx.db.transaction() as tx:
        _require(store.lock_schedule(tx, caller.tenant_id, schedule_id))
        if store.turn_schedule(tx, schedule_id, "pause"):
            _note(tx, caller, schedule_id, "paused")
    return get_own(ctx, caller, schedule_id)


def resume_schedule(ctx: Context, caller: Caller, schedule_id: UUID) -> Schedule:
    """Fire again, from the next instant on; nothing is made up for. Twice is as once. Raises NotFound."""
    caller.require("cancel")
    with ctx.db.transaction() as tx:
        held = _require(store.lock_schedule(tx, caller.tenant_id, schedule_id))
        now = read_now(tx)
        following = find_next(held.timing, now)
        if store.turn_schedule(tx, schedule_id, "resume", last_instant=now, next_at=following):
            _note(tx, caller, schedule_id, "resumed")
    return get_own(ctx, caller, schedule_id)


def delete_schedule(ctx: Context, caller: Caller, schedule_id: UUID) -> None:
    """Fire it no more; runs that have begun go on, and all are kept. Raises NotFound."""
    caller.require("submit")
    with ctx.db.transaction() as tx:
        _require(store.lock_schedule(tx, caller.tenant_id, schedule_id))
        for run_id in firing_store.list_waiting(tx, schedule_id):
            run_store.pass_over(tx, run_id, RunState.CANCELLED, _DELETED)
        store.delete_schedule(tx, schedule_id)
        _note(tx, caller, schedule_id, "deleted")


def run_now(
    ctx: Context, caller: Caller, schedule_id: UUID, idempotency: Idempotency | None = None
) -> tuple[Run, bool]:
    """A run beside the instants, also of a paused schedule. It minds the run before it as any other does: it waits for
    it or cancels it. Answers it, and whether it is a replay.

    Raises NotFound, Conflict (code schedule_busy: the run before it works, and the policy is to skip), KeyReused.
    """
    caller.require("submit")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return runs.get_own(ctx, caller, found.resource_id), True
    run_id = new_id()
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "run", run_id)
            held = _require(store.lock_schedule(tx, caller.tenant_id, schedule_id))
            if held.timing.overlap is Overlap.SKIP and firing_store.list_live(tx, schedule_id):
                raise _make_busy(held)
            spec = make_run_spec(held.declared)
            run_store.insert_run(
                tx,
                run_store.NewRun(
                    run_id, caller.tenant_id, spec, held.name, caller.key_id, schedule_id, held.version,
                    due_at=read_now(tx),
                ),
            )  # fmt: skip
            _note(tx, caller, schedule_id, "run")
    except Replayed as replay:
        return runs.get_own(ctx, caller, replay.found.resource_id), True
    firing.begin_due(ctx, run_id, schedule_id)
    return runs.get_own(ctx, caller, run_id), False


def _require(schedule: Schedule | None) -> Schedule:
    if schedule is None:
        raise NotFound("No schedule with this id. It may have been deleted.", code="schedule_not_found")
    return schedule


def _make_taken(name: str) -> Conflict:
    return Conflict(
        f"There is a schedule named '{name}' already. Change that one, or apply the declaration to it.",
        code="schedule_exists",
        param="name",
    )


def _make_changed(schedule: Schedule) -> Conflict:
    return Conflict(
        f"{show_id(SCHEDULE, schedule.id)} was changed meanwhile and is of version {schedule.version} now. Read it "
        "again, and change that.",
        code="schedule_changed",
    )


def _make_busy(schedule: Schedule) -> Conflict:
    return Conflict(
        f"A run of {show_id(SCHEDULE, schedule.id)} is still at work, and its `timing.overlap` is skip. Wait for it, "
        "or cancel it.",
        code="schedule_busy",
    )


#: What the audit log calls that of which an event tells.
_ACTIONS = {
    "created": "create", "changed": "change", "paused": "pause", "resumed": "resume", "deleted": "delete", "run": "run"
}  # fmt: skip


def _note(tx: Transaction, caller: Caller, schedule_id: UUID, event: str, **data: Any) -> None:
    """An event row for who follows the schedule, and a row of the audit log for who asks who did it."""
    record(tx, [Event(caller.tenant_id, "schedule", schedule_id, event, caller.actor, data)])
    note(tx, caller, f"schedule.{_ACTIONS[event]}", show_id(SCHEDULE, schedule_id), **data)
