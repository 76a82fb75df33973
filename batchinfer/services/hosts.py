"""An operator's verbs for hosts and single replicas: list, drain, resume; and what happened in the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.domain.ids import DEFAULT_TENANT, REPLICA, show_id
from batchinfer.errors import Conflict, NotFound
from batchinfer.services.audit import note
from batchinfer.services.context import Page
from batchinfer.store import events, swapping
from batchinfer.store import hosts as store

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context
    from batchinfer.store.events import StoredEvent
    from batchinfer.store.fleet import Replica
    from batchinfer.store.hosts import Host
    from batchinfer.store.session import Transaction


def list_hosts(ctx: Context, caller: Caller) -> list[Host]:
    """Every host that ever had a keeper, by name."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return store.list_hosts(tx, silent_s=ctx.settings.lease_ttl_s)


def drain_host(ctx: Context, caller: Caller, name: str) -> Host:
    """Place nothing on a host any more, and drain what is there; elsewhere it is loaded first where there is room.
    Twice is as once. Raises Forbidden, NotFound (code host_not_found)."""
    return _turn(ctx, caller, name, draining=True)


def resume_host(ctx: Context, caller: Caller, name: str) -> Host:
    """Take a host back. Twice is as once. Raises Forbidden, NotFound (code host_not_found)."""
    return _turn(ctx, caller, name, draining=False)


def _turn(ctx: Context, caller: Caller, name: str, *, draining: bool) -> Host:
    caller.require("launch")
    with ctx.db.transaction() as tx:
        before = _get(ctx, tx, name)
        store.set_draining(tx, name, draining=draining)
        if before.draining is not draining:
            word = "draining" if draining else "resumed"
            events.record(
                tx, [events.Event(DEFAULT_TENANT, "host", before.keeper_id, word, caller.actor, {"host": name})]
            )
        note(tx, caller, "host.drain" if draining else "host.resume", name, tenant_id=DEFAULT_TENANT)
        return _get(ctx, tx, name)


def _get(ctx: Context, tx: Transaction, name: str) -> Host:
    for host in store.list_hosts(tx, silent_s=ctx.settings.lease_ttl_s):
        if host.host == name:
            return host
    raise NotFound("No host of this name has a keeper. GET /v1/hosts lists those that have.", code="host_not_found")


def drain_replica(ctx: Context, caller: Caller, replica_id: UUID) -> Replica:
    """Let one replica end what runs, and end; where it is still wanted, another one is loaded. Twice is as once.

    Raises Forbidden, NotFound (code replica_not_found), Conflict (code replica_not_kept: it was started by hand).
    """
    caller.require("launch")
    with ctx.db.transaction() as tx:
        found = _find(tx, replica_id)
        if found.host is None:
            raise Conflict(
                f"{found.worker} was started by hand, and no keeper looks after it. Stop it where it was started.",
                code="replica_not_kept",
            )
        if swapping.drain_replica(tx, replica_id):
            told = {"worker": found.worker, "model": found.model}
            events.record(tx, [events.Event(DEFAULT_TENANT, "replica", replica_id, "drain", caller.actor, told)])
        note(tx, caller, "replica.drain", show_id(REPLICA, replica_id), tenant_id=DEFAULT_TENANT, worker=found.worker)
        return _find(tx, replica_id)


def _find(tx: Transaction, replica_id: UUID) -> Replica:
    found = swapping.lock_replica(tx, replica_id)
    if found is None:
        raise NotFound("No replica with this id. GET /v1/replicas lists those that live.", code="replica_not_found")
    return found


def list_events(
    ctx: Context,
    caller: Caller,
    *,
    subject: str | None = None,
    subject_id: UUID | None = None,
    after: UUID | None = None,
    limit: int = 20,
) -> Page[StoredEvent]:
    """What happened to models, deployments, replicas and hosts, newest first, below the id `after`."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = events.list_fleet(tx, after=after, subject=subject, subject_id=subject_id, limit=limit + 1)
    return Page.cut(found, limit, backwards=False)
