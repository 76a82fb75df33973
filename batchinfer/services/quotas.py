"""Limits on how many jobs wait and run: a tenant's quota and the installation's, held where jobs are submitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.errors import BadRequest, Busy, Forbidden, NotFound, TooLarge
from batchinfer.observe.logs import get_logger
from batchinfer.services.audit import note
from batchinfer.store import backlog, tenants
from batchinfer.store.backlog import EVERYBODY, Room
from batchinfer.store.events import Event, record

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context
    from batchinfer.store.session import Transaction
    from batchinfer.store.tenants import Tenant

_log = get_logger(__name__)
#: Longest wait that a refusal asks for, and the one where nothing is known.
_LONGEST_S, _UNKNOWN_S = 120, 60
_MOST_WEIGHT = 1000


@dataclass(frozen=True)
class Quota:
    """A tenant's limit and what it uses of it; jobs that wait or run."""

    tenant: str
    jobs: int
    max_jobs: int
    #: Rows that the tenant gets in each of its turns.
    weight: int
    #: Of all tenants together.
    backlog: int
    max_backlog: int


def admit(ctx: Context, tx: Transaction, tenant_id: UUID, number: int) -> None:
    """Go on only if so many more jobs fit, within the transaction that inserts them and before it inserts any.

    Raises Busy (quota_exceeded, backlog_full) with the seconds until there is room, TooLarge (larger_than_quota).
    """
    settings = ctx.settings
    full = backlog.find_full(tx, tenant_id, number, quota=settings.quota_jobs, most=settings.backlog_jobs)
    if full is not None:
        raise _refuse(full, number, backlog.read_rate(tx, full.tenant_id))


def _refuse(room: Room, number: int, rate: float) -> Busy | TooLarge:
    if number > room.limit:
        return TooLarge(
            f"These are {number:,} jobs at once, and at most {room.limit:,} may wait or run. Send fewer at a time.",
            code="larger_than_quota",
        )
    wait_s = max(1, math.ceil((room.jobs + number - room.limit) / rate)) if rate > 0 else None
    when = (
        "Nothing ended in the last minutes, so nobody can say when there is room."
        if wait_s is None
        else f"At the present rate of {rate:,.2f} jobs a second there is room in about {wait_s:,} s."
    )
    who = "All tenants together have" if room.tenant_id == EVERYBODY else "You have"
    return Busy(
        f"{who} {room.jobs:,} jobs that wait or run, of at most {room.limit:,}; {number:,} more do not fit. {when} "
        "Send the same request again after Retry-After.",
        code="backlog_full" if room.tenant_id == EVERYBODY else "quota_exceeded",
        retry_after_s=min(wait_s or _UNKNOWN_S, _LONGEST_S),
    )


def read_quota(ctx: Context, caller: Caller) -> Quota:
    """The caller's limits and what is used of them."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        return _read(ctx, tx, _require(tenants.find_tenant(tx, caller.tenant_id), ""))


def set_quota(
    ctx: Context, caller: Caller, tenant: str | None = None, *, max_jobs: int | None = None, weight: int = 1
) -> Quota:
    """Give a tenant (None: the operator's own) a limit of its own, None for the setting's, and a weight.

    Only for an operator. Raises Forbidden, NotFound (code tenant_not_found), BadRequest.
    """
    require_operator(caller)
    if max_jobs is not None and max_jobs < 0:
        raise BadRequest("`max_jobs` must be 0 or more, or null.", code="invalid_value", param="max_jobs")
    if not 1 <= weight <= _MOST_WEIGHT:
        raise BadRequest(f"`weight` must be from 1 to {_MOST_WEIGHT:,}.", code="invalid_value", param="weight")
    with ctx.db.transaction() as tx:
        found = find_tenant(tx, caller, tenant)
        tenants.set_limits(tx, found.id, max_jobs=max_jobs, weight=weight)
        data = {"max_jobs": max_jobs, "weight": weight}
        record(tx, [Event(caller.tenant_id, "tenant", found.id, "limited", caller.actor, data)])
        note(tx, caller, "queue.limits", found.name, tenant_id=found.id, **data)
        return _read(ctx, tx, _require(tenants.find_tenant(tx, found.id), found.name))


def require_operator(caller: Caller) -> None:
    """Go on only for a key of the first tenant that may `admin`: it runs the installation. Raises Forbidden."""
    caller.require("admin")
    if caller.tenant_id != DEFAULT_TENANT:
        raise Forbidden("Only the operator of this installation may do this: a key of its first tenant.")


def find_tenant(tx: Transaction, caller: Caller, name: str | None) -> Tenant:
    """A tenant by its name, None for the caller's own. Raises NotFound: for others than operators no other exists."""
    if name is None:
        return _require(tenants.find_tenant(tx, caller.tenant_id), "")
    found = tenants.find_tenant_by_name(tx, name)
    if found is not None and caller.tenant_id not in (DEFAULT_TENANT, found.id):
        found = None
    return _require(found, name)


def _require(tenant: Tenant | None, name: str) -> Tenant:
    if tenant is None:
        raise NotFound(f"No tenant named '{name[:100]}'.", code="tenant_not_found", param="tenant")
    return tenant


def _read(ctx: Context, tx: Transaction, tenant: Tenant) -> Quota:
    settings = ctx.settings
    own, everybody = backlog.read_rooms(tx, tenant.id, quota=settings.quota_jobs, most=settings.backlog_jobs)
    return Quota(tenant.name, own.jobs, own.limit, tenant.weight, everybody.jobs, everybody.limit)


def correct_counts(ctx: Context) -> int:
    """Put the counts of waiting and running jobs right from their rows. Answers how many were wrong."""
    with ctx.db.transaction() as tx:
        wrong = backlog.correct(tx)
    if wrong:
        _log.warning("counts of waiting and running jobs were wrong and are right again", counts=len(wrong))
    return len(wrong)
