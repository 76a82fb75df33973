"""A user's verbs for what is delivered to a webhook endpoint: list with every try, deliver again, and send a test."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.ids import BATCH, DELIVERY, JOB, RESPONSE, RUN, new_id, show_id
from batchinfer.errors import BadRequest, Conflict, NotFound, Overrun
from batchinfer.services.context import Page
from batchinfer.services.sending import TEST
from batchinfer.services.webhooks import find_give_up_s, note_act, require_endpoint
from batchinfer.store import outbox as store
from batchinfer.store.telling import Happening, tell

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.jobs import Attempt
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.outbox import Delivery
    from batchinfer.store.session import Transaction

#: Who waits for a test looks this often.
_LOOK_S = 0.1
#: Beyond the time of the try itself: for a CPU worker to come to it.
_SPARE_S = 10.0
_PREFIXES = {"batch": BATCH, "response": RESPONSE, "job": JOB, "run": RUN}


@dataclass(frozen=True)
class Told:
    """A delivery and its tries that ended, oldest first."""

    delivery: Delivery
    tries: list[Attempt]


def list_deliveries(
    ctx: Context, caller: Caller, endpoint_id: UUID, *, after: UUID | None = None, limit: int = 20
) -> Page[Told]:
    """The deliveries to an endpoint, newest first, beginning below the id `after`. Raises NotFound."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        require_endpoint(tx, caller, endpoint_id)
        found = store.list_of_endpoint(tx, caller.tenant_id, endpoint_id, after=after, limit=limit + 1)
        tries = store.list_tries(tx, [delivery.id for delivery in found])
    return Page.cut([Told(delivery, tries.get(delivery.id, [])) for delivery in found], limit, backwards=False)


def deliver_again(ctx: Context, caller: Caller, endpoint_id: UUID, delivery_id: UUID) -> Told:
    """Deliver once more, under the same event id, what has ended in whatever way; what waits is tried now.

    Raises NotFound, Conflict (code webhook_endpoint_disabled).
    """
    caller.require("admin")
    with ctx.db.transaction() as tx:
        endpoint = require_endpoint(tx, caller, endpoint_id)
        found = store.find_of_endpoint(tx, caller.tenant_id, endpoint_id, delivery_id)
        if found is None:
            raise NotFound(
                "No delivery with this id to this endpoint. It may have been removed after its time.",
                code="delivery_not_found",
            )
        if endpoint.disabled_at is not None:
            raise Conflict("The webhook endpoint is disabled. Enable it first.", code="webhook_endpoint_disabled")
        store.deliver_again(tx, found, give_up_s=find_give_up_s(ctx))
        note_act(tx, caller, endpoint_id, "redeliver", delivery=show_id(DELIVERY, delivery_id))
    ctx.announcer.announce_cpu([delivery_id])
    return _find(ctx, caller, endpoint_id, delivery_id)


def send_test(ctx: Context, caller: Caller, endpoint_id: UUID, event_type: str | None) -> tuple[str, int]:
    """Send an event about something made up, once, whether the endpoint wants it, is disabled or not, and wait for it.
    None sends the first type that it wants.

    Answers the type and the receiver's status, whatever it is. Raises NotFound, BadRequest (code webhook_not_reached)
    where there was none, Overrun where no CPU worker took it in time.
    """
    caller.require("admin")
    with ctx.db.transaction() as tx:
        event_type = event_type or require_endpoint(tx, caller, endpoint_id).event_types[0]
        delivery_id = _put_test(ctx, tx, caller, endpoint_id, event_type)
        note_act(tx, caller, endpoint_id, "test", event_type=event_type)
    ctx.announcer.announce_cpu([delivery_id])
    deadline = time.monotonic() + ctx.settings.webhook_timeout_s + _SPARE_S
    while time.monotonic() < deadline:
        told = _find(ctx, caller, endpoint_id, delivery_id)
        if told.delivery.final_state is not None:
            return event_type, _read_status(told)
        time.sleep(_LOOK_S)
    raise Overrun("No CPU worker has sent the test yet. Is one running? Its delivery is in the endpoint's list.")


def _put_test(ctx: Context, tx: Transaction, caller: Caller, endpoint_id: UUID, event_type: str) -> UUID:
    require_endpoint(tx, caller, endpoint_id)
    subject_id = new_id()
    shown_id = show_id(_PREFIXES[event_type.partition(".")[0]], subject_id)
    happening = Happening(caller.tenant_id, event_type, TEST, subject_id, shown_id)
    (delivery_id,) = tell(tx, [happening], only=endpoint_id)
    made = store.find_of_endpoint(tx, caller.tenant_id, endpoint_id, delivery_id)
    if made is not None:
        store.deliver_again(tx, made, give_up_s=find_give_up_s(ctx))  # now, even where the endpoint is paused
    return delivery_id


def _read_status(told: Told) -> int:
    status = (told.tries[-1].timings or {}).get("status") if told.tries else None
    if status is None:
        reason = (told.delivery.error or {}).get("message", "It was not sent.")
        raise BadRequest(f"The receiver gave no answer. {reason}", code="webhook_not_reached")
    return int(status)


def _find(ctx: Context, caller: Caller, endpoint_id: UUID, delivery_id: UUID) -> Told:
    with ctx.db.transaction() as tx:
        require_endpoint(tx, caller, endpoint_id)
        found = store.find_of_endpoint(tx, caller.tenant_id, endpoint_id, delivery_id)
        tries = store.list_tries(tx, [delivery_id])
    if found is None:
        raise NotFound("The delivery was removed in the meantime.", code="delivery_not_found")
    return Told(found, tries.get(delivery_id, []))
