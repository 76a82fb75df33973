"""The fleet as an operator sees it: workers, the overview, and ended processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.errors import Failure
from batchinfer.services.announcing import announce_requeued
from batchinfer.services.losses import make_loss_rule
from batchinfer.store import fleet, leases, series

if TYPE_CHECKING:
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.fleet import Replica
    from batchinfer.store.leases import Worker
    from batchinfer.store.series import Overview


def end_process(
    ctx: Context, host: str, pid: int, reason: str, *, worker: str | None = None, ended_ago_s: float = 0.0
) -> int:
    """A supervisor saw a process end: its leases end now and their rows go back. Answers how many rows.

    `worker` is its name among the workers: what it was still loading has failed, unless begun since its end.
    """
    with ctx.db.transaction() as tx:
        if worker is not None:
            error = Failure(f"The process ended while it loaded the model: {reason}.", code="worker_lost").as_dict()
            fleet.end_loading(tx, worker, error, ended_ago_s=ended_ago_s)
        back = leases.end_lease_of_process(tx, host, pid, reason, rule=make_loss_rule(ctx))
    announce_requeued(ctx, back.requeued)
    ctx.bell.ring([row.id for row in back.quarantined])
    return back.rows


def list_workers(ctx: Context, caller: Caller) -> list[Worker]:
    """Workers alive, then those that ended in the last hour."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return leases.list_workers(tx)


def list_replicas(ctx: Context, caller: Caller) -> list[Replica]:
    """Replicas that live, then those that ended in the last hour."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return fleet.list_replicas(tx)


def overview(ctx: Context, caller: Caller) -> Overview:
    """What waits, runs and was done, from the small queue table and the minutes; never from done jobs."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return series.read_overview(tx, caller.tenant_id, leases.list_workers(tx))
