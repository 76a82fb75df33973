"""An operator's verbs for tenants: make one, list them, say how long their jobs are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchinfer.domain.ids import new_id
from batchinfer.domain.keys import parse_tenant
from batchinfer.errors import Conflict
from batchinfer.services.audit import note
from batchinfer.services.context import Page
from batchinfer.services.quotas import find_tenant, require_operator
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.store import tenants as store
from batchinfer.store.tenants import Tenant

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.keys import TenantRequest
    from batchinfer.services.context import Caller, Context, Idempotency


def create_tenant(
    ctx: Context, caller: Caller, request: TenantRequest, idempotency: Idempotency | None = None
) -> tuple[Tenant, bool]:
    """Make a tenant, whose keys see nothing of any other. Answers it, and whether it is a replay.

    Only for an operator. Raises Forbidden, Conflict (code tenant_exists), KeyReused.
    """
    require_operator(caller)
    tenant = Tenant(new_id(), request.name, request.max_jobs, request.weight)
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return _find(ctx, found.resource_id), True
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "tenant", tenant.id)
            if not store.insert_tenant(tx, tenant):
                raise Conflict(
                    "There is a tenant of this name. Choose another one.", code="tenant_exists", param="name"
                )
            limits = {"max_jobs": tenant.max_jobs, "weight": tenant.weight}
            note(tx, caller, "tenant.create", tenant.name, tenant_id=tenant.id, **limits)
    except Replayed as replay:
        return _find(ctx, replay.found.resource_id), True
    return tenant, False


def _find(ctx: Context, tenant_id: UUID) -> Tenant:
    with ctx.db.transaction() as tx:
        found = store.find_tenant(tx, tenant_id)
    assert found is not None, "tenants are never removed"  # noqa: S101 - for the type
    return found


def ensure_tenant(ctx: Context, caller: Caller, name: str) -> UUID:
    """The id of the tenant of this name, which is made where it is missing. Only for an operator."""
    require_operator(caller)
    with ctx.db.transaction() as tx:
        found = store.find_tenant_by_name(tx, name)
    return found.id if found else create_tenant(ctx, caller, parse_tenant({"name": name}))[0].id


def set_retention(ctx: Context, caller: Caller, name: str | None, keep_days: int | None) -> Tenant:
    """Say how many days a tenant's jobs are kept (None: the operator's own): 0 for ever, None as the setting says.

    Only for an operator. Raises Forbidden, NotFound (code tenant_not_found).
    """
    require_operator(caller)
    with ctx.db.transaction() as tx:
        found = find_tenant(tx, caller, name)
        store.set_keep_days(tx, found.id, keep_days)
        note(tx, caller, "tenant.retention", found.name, tenant_id=found.id, keep_days=keep_days)
    return replace(found, keep_days=keep_days)


def list_tenants(ctx: Context, caller: Caller, *, after: UUID | None = None, limit: int = 20) -> Page[Tenant]:
    """Tenants, newest first, below the id `after`. Only for an operator. Raises Forbidden."""
    require_operator(caller)
    with ctx.db.transaction() as tx:
        return Page.cut(store.list_tenants(tx, after=after, limit=limit + 1), limit, backwards=False)
