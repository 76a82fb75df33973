"""What administrators did: written by the services that do it, in the same transaction, and listed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.services.context import Page
from batchinfer.store import audit as store
from batchinfer.store.audit import Act, Wanted

if TYPE_CHECKING:
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.audit import StoredAct
    from batchinfer.store.session import Transaction

#: The id of no key: who acts is at the command line.
NO_KEY = UUID(int=0)
EVERY_ACT = Wanted()


def note(
    tx: Transaction, caller: Caller, action: str, subject: str, *, tenant_id: UUID | None = None, **data: Any
) -> None:
    """Write that the caller did this to a thing of a tenant (None: of its own), in the transaction that does it."""
    key_id = None if caller.key_id == NO_KEY else caller.key_id
    owner = tenant_id or caller.tenant_id
    store.write(tx, Act(owner, caller.tenant_id, caller.name, key_id, action, subject, data))


def list_acts(
    ctx: Context, caller: Caller, wanted: Wanted = EVERY_ACT, *, after: UUID | None = None, limit: int = 20
) -> Page[StoredAct]:
    """Acts on the caller's tenant, for an operator on every one; newest first, below the id `after`."""
    caller.require("admin")
    tenant_id = None if caller.tenant_id == DEFAULT_TENANT else caller.tenant_id
    with ctx.db.transaction() as tx:
        found = store.list_acts(tx, tenant_id, wanted, after=after, limit=limit + 1)
    return Page.cut(found, limit, backwards=False)
