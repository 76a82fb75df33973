"""An operator's verbs for what waits: pause, resume, change of class. Each leaves an event with who did it.

A key of the first tenant is the operator's and reaches every tenant; any other reaches its own alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.services.audit import note
from batchinfer.services.quotas import find_tenant
from batchinfer.store import pauses, reclassing, series, tenants
from batchinfer.store.events import Event, record
from batchinfer.store.pauses import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.domain.jobs import JobClass
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.series import Waiting
    from batchinfer.store.session import Transaction

#: Jobs whose change of class is noted one by one; above it one event tells of all.
_NOTED = 1000


@dataclass(frozen=True)
class ShownPause:
    """A pause as people see it: `tenant` and `model` None mean all of them."""

    tenant: str | None
    model: str | None
    actor: str
    created_at: datetime


@dataclass(frozen=True)
class QueueState:
    """What waits and runs of the caller's tenant, and the pauses that touch it."""

    waiting: list[Waiting]
    pauses: list[ShownPause]


def read_queue(ctx: Context, caller: Caller) -> QueueState:
    """What waits, and what is paused; an operator sees the pauses of every tenant."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return QueueState(series.count_queue(tx, caller.tenant_id), _list_pauses(tx, caller))


def list_pauses(ctx: Context, caller: Caller) -> list[ShownPause]:
    """What is paused; an operator sees the pauses of every tenant."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return _list_pauses(tx, caller)


def pause(ctx: Context, caller: Caller, *, tenant: str | None = None, model: str | None = None) -> list[ShownPause]:
    """Let no claim begin anything of a scope from now on; what runs ends as it would. Answers all pauses.

    `tenant` None means every tenant for an operator, else the caller's own. Twice is as once. Raises NotFound.
    """
    caller.require("admin")
    with ctx.db.transaction() as tx:
        scope = _find_scope(tx, caller, tenant, model)
        if paused := pauses.pause(tx, scope, caller.actor):
            record(tx, [_event(caller, "queue", paused, "paused", scope)])
        _note(tx, caller, "queue.pause", scope, tenant, changed=paused is not None)
        return _list_pauses(tx, caller)


def resume(ctx: Context, caller: Caller, *, tenant: str | None = None, model: str | None = None) -> list[ShownPause]:
    """End the pause of exactly this scope. Answers the pauses that are left. Raises NotFound."""
    caller.require("admin")
    with ctx.db.transaction() as tx:
        scope = _find_scope(tx, caller, tenant, model)
        ended = pauses.resume(tx, scope)
        record(tx, [_event(caller, "queue", pause_id, "resumed", scope) for pause_id in ended])
        _note(tx, caller, "queue.resume", scope, tenant, changed=bool(ended))
        return _list_pauses(tx, caller)


def reclass(
    ctx: Context,
    caller: Caller,
    job_class: JobClass,
    *,
    tenant: str | None = None,
    model: str | None = None,
    from_class: JobClass | None = None,
    ids: Sequence[UUID] | None = None,
) -> int:
    """Give jobs that have not ended another class: those of a scope, of a class, or with these ids. Answers how many.

    In pieces of some hundred rows, each its own transaction: where one fails, those before it stay. Raises NotFound.
    """
    caller.require("admin")
    total, after = 0, None
    asked = {"to": job_class.value, "from": from_class.value if from_class else None}
    with ctx.db.transaction() as tx:  # noted before the first piece: whatever is changed was noted
        scope = _find_scope(tx, caller, tenant, model)
        _note(tx, caller, "queue.reclass", scope, tenant, **asked, ids=None if ids is None else len(ids))
    while True:
        with ctx.db.transaction() as tx:
            piece = reclassing.reclass(tx, scope, job_class, from_class=from_class, ids=ids, after=after)
            if ids is not None and len(ids) <= _NOTED:
                record(tx, [_event(caller, "job", i, "reclassed", scope, to=job_class.value) for i in piece.changed])
        total, after = total + len(piece.changed), piece.next_after
        if after is None:
            break
    with ctx.db.transaction() as tx:
        record(tx, [_event(caller, "queue", new_id(), "reclassed", scope, **asked, jobs=total)])
    return total


def _find_scope(tx: Transaction, caller: Caller, tenant: str | None, model: str | None) -> Scope:
    if tenant is None and caller.tenant_id == DEFAULT_TENANT:
        return Scope(None, model)
    return Scope(find_tenant(tx, caller, tenant).id, model)


def _event(caller: Caller, subject: str, subject_id: UUID, event: str, scope: Scope, **more: Any) -> Event:
    tenant = str(scope.tenant_id) if scope.tenant_id else None
    data = {"tenant_id": tenant, "model": scope.model, **more}
    return Event(caller.tenant_id, subject, subject_id, event, caller.actor, data)


def _note(tx: Transaction, caller: Caller, action: str, scope: Scope, tenant: str | None, **data: Any) -> None:
    """The audit row of an act on a scope; one on every tenant is the operator's own."""
    everybody = scope.tenant_id is None
    subject = "every tenant" if everybody else tenant or "its own tenant"
    note(tx, caller, action, subject, tenant_id=scope.tenant_id, model=scope.model, **data)


def _list_pauses(tx: Transaction, caller: Caller) -> list[ShownPause]:
    found = pauses.list_pauses(tx, None if caller.tenant_id == DEFAULT_TENANT else caller.tenant_id)
    names = tenants.list_names(tx, [pause.scope.tenant_id for pause in found if pause.scope.tenant_id])
    return [
        ShownPause(
            names.get(pause.scope.tenant_id, str(pause.scope.tenant_id)) if pause.scope.tenant_id else None,
            pause.scope.model,
            pause.actor if pause.scope.tenant_id == caller.tenant_id or caller.tenant_id == DEFAULT_TENANT else "",
            pause.created_at,
        )
        for pause in found
    ]
