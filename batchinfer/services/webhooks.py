"""A user's verbs for webhook endpoints: create, get, list, change, delete, rotate the secret, enable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import ENDPOINT, new_id, show_id
from batchinfer.domain.webhooks import MAX_ENDPOINTS, OVERLAP_HOURS, make_secret
from batchinfer.errors import BadRequest, Failure, NotFound
from batchinfer.services.audit import note
from batchinfer.services.context import Page
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.store import webhooks as store

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.webhooks import Endpoint, EndpointRequest
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.session import Transaction

SUBJECT = "webhook_endpoint"
_DELETED = Failure("The webhook endpoint was deleted.", code="webhook_endpoint_deleted").as_dict()


def create_endpoint(
    ctx: Context, caller: Caller, request: EndpointRequest, idempotency: Idempotency | None = None
) -> tuple[Endpoint, bool]:
    """Keep an endpoint, with a secret of its own. Answers it, and whether it is a replay.

    Raises BadRequest (code too_many_webhook_endpoints), KeyReused, Forbidden.
    """
    caller.require("admin")
    endpoint_id = new_id()
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return _find(ctx, caller, found.resource_id), True
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, SUBJECT, endpoint_id)
            if store.count_endpoints(tx, caller.tenant_id) >= MAX_ENDPOINTS:
                raise BadRequest(
                    f"There are {MAX_ENDPOINTS} webhook endpoints already, as many as may be. Delete one first.",
                    code="too_many_webhook_endpoints",
                )
            store.insert_endpoint(
                tx, endpoint_id, caller.tenant_id, request, secret=make_secret(), give_up_s=find_give_up_s(ctx)
            )
            note_act(tx, caller, endpoint_id, "create", url=request.url)
    except Replayed as replay:
        return _find(ctx, caller, replay.found.resource_id), True
    return _find(ctx, caller, endpoint_id), False


def find_give_up_s(ctx: Context) -> int:
    """Seconds after which a delivery is given up."""
    return max(1, round(ctx.settings.delivery_hours * 3600))


def get_endpoint(ctx: Context, caller: Caller, endpoint_id: UUID) -> Endpoint:
    """The endpoint. Raises NotFound."""
    caller.require("read")
    return _find(ctx, caller, endpoint_id)


def list_endpoints(ctx: Context, caller: Caller, *, after: UUID | None = None, limit: int = 20) -> Page[Endpoint]:
    """Endpoints, newest first, beginning below the id `after`."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = store.list_endpoints(tx, caller.tenant_id, after=after, limit=limit + 1)
    return Page.cut(found, limit, backwards=False)


def change_endpoint(ctx: Context, caller: Caller, endpoint_id: UUID, request: EndpointRequest) -> Endpoint:
    """Change its name, URL or events. Raises NotFound."""
    caller.require("admin")
    with ctx.db.transaction() as tx:
        if store.change_endpoint(tx, caller.tenant_id, endpoint_id, request):
            note_act(tx, caller, endpoint_id, "change", url=request.url)
    return _find(ctx, caller, endpoint_id)


def delete_endpoint(ctx: Context, caller: Caller, endpoint_id: UUID) -> None:
    """Forget it; what waits for it is not delivered any more. Raises NotFound."""
    caller.require("admin")
    with ctx.db.transaction() as tx:
        if not store.delete_endpoint(tx, caller.tenant_id, endpoint_id, error=_DELETED):
            raise _make_missing()
        note_act(tx, caller, endpoint_id, "delete")


def rotate_secret(ctx: Context, caller: Caller, endpoint_id: UUID, *, keep_old: bool) -> Endpoint:
    """Another secret, at once; with `keep_old` the former one signs beside it for 24 hours. Raises NotFound."""
    caller.require("admin")
    overlap_h = OVERLAP_HOURS if keep_old else 0
    with ctx.db.transaction() as tx:
        if not store.rotate_secret(tx, caller.tenant_id, endpoint_id, make_secret(), overlap_h=overlap_h):
            raise _make_missing()
        note_act(tx, caller, endpoint_id, "rotate", keep_old=keep_old)
    return _find(ctx, caller, endpoint_id)


def enable_endpoint(ctx: Context, caller: Caller, endpoint_id: UUID) -> Endpoint:
    """Send to it again, beginning with what waited; its failures are forgotten. Twice is as once. Raises NotFound."""
    caller.require("admin")
    with ctx.db.transaction() as tx:
        freed = store.enable_endpoint(tx, caller.tenant_id, endpoint_id)
        if freed is None:
            raise _make_missing()
        note_act(tx, caller, endpoint_id, "enable")
    ctx.announcer.announce_cpu(freed)
    return _find(ctx, caller, endpoint_id)


def keep_settings(ctx: Context) -> int:
    """Let every endpoint follow the settings as they are now. Answers 0: nothing was done that counts."""
    with ctx.db.transaction() as tx:
        store.keep_give_up(tx, find_give_up_s(ctx))
    return 0


def require_endpoint(tx: Transaction, caller: Caller, endpoint_id: UUID) -> Endpoint:
    """The endpoint within a transaction. Raises NotFound."""
    found = store.find_endpoint(tx, caller.tenant_id, endpoint_id)
    if found is None:
        raise _make_missing()
    return found


def _find(ctx: Context, caller: Caller, endpoint_id: UUID) -> Endpoint:
    with ctx.db.transaction() as tx:
        return require_endpoint(tx, caller, endpoint_id)


def _make_missing() -> NotFound:
    return NotFound("No webhook endpoint with this id. It may have been deleted.", code="webhook_endpoint_not_found")


def note_act(tx: Transaction, caller: Caller, endpoint_id: UUID, act: str, **data: Any) -> None:
    """The audit row of what was done to an endpoint, in the transaction that does it."""
    note(tx, caller, f"webhook.{act}", show_id(ENDPOINT, endpoint_id), **data)
