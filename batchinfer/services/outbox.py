"""Everything that leaves the system goes through here: kept with what it tells of, delivered at least once.

A deliverer is a function by the name of its kind. It may be called again with the same delivery, after a crash or when
its answer was lost: receivers tell that by the delivery's id, which never changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from batchinfer.errors import Failure
from batchinfer.observe.logs import get_logger
from batchinfer.services.sending import NotTaken, Postponed, send_event
from batchinfer.store import endings, returns, webhooks
from batchinfer.store import outbox as store
from batchinfer.store.outbox import Delivery, NewDelivery
from batchinfer.store.telling import WEBHOOK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim
    from batchinfer.store.session import Transaction

    #: Hands one thing to its receiver and answers what is noted of that try; or raises: Failure where another time
    #: will not help, Postponed where it was not tried at all, any other error where another time may help.
    Deliverer: TypeAlias = Callable[[Context, Delivery], "dict[str, float] | None"]

__all__ = [
    "DELIVERERS", "Delivery", "NewDelivery", "NotTaken", "Postponed", "deliver", "finish_delivery", "postpone", "put",
]  # fmt: skip

_log = get_logger(__name__)


def _write_log_line(_ctx: Context, delivery: Delivery) -> dict[str, float] | None:
    """The delivery as one line of the CPU worker's log."""
    _log.info(
        "delivered",
        event_id=str(delivery.id),
        subject=delivery.subject,
        subject_id=delivery.subject_id.hex,
        payload=delivery.payload,
    )
    return None


#: By kind. A kind that is not here cannot be put.
DELIVERERS: dict[str, Deliverer] = {"log": _write_log_line, WEBHOOK: send_event}


def put(ctx: Context, tx: Transaction, deliveries: Sequence[NewDelivery]) -> list[UUID]:
    """Keep deliveries in the transaction of what they tell of. Answers their ids; announce these after the commit.

    Raises ValueError for a kind without a deliverer.
    """
    for delivery in deliveries:
        if delivery.kind not in DELIVERERS:
            raise ValueError(f"nobody delivers {delivery.kind!r}")
    return store.put(tx, deliveries, give_up_s=ctx.settings.delivery_hours * 3600)


def deliver(ctx: Context, delivery: Delivery) -> dict[str, float] | None:
    """Hand it over. Raises Failure (code no_deliverer) where this release has none, and what the deliverer raises."""
    deliverer = DELIVERERS.get(delivery.kind)
    if deliverer is None:
        raise Failure(
            "Nothing in this release delivers this kind. Run a worker of the release that wrote it.",
            code="no_deliverer",
        )
    return deliverer(ctx, delivery)


def finish_delivery(
    ctx: Context, lease_id: UUID, claim: Claim, endpoint_id: UUID | None = None, timings: dict[str, float] | None = None
) -> bool:
    """It was delivered, to this endpoint. False when the fence refused: somebody else may deliver it once more."""
    with ctx.db.transaction() as tx:
        done = endings.finish(tx, lease_id=lease_id, claim=claim, timings=timings)
        freed = webhooks.note_taken(tx, endpoint_id) if endpoint_id else []
    ctx.announcer.announce_cpu(freed)
    return done


def postpone(ctx: Context, claim: Claim) -> bool:
    """Give it back untried, to wait as long as its endpoint is paused. False when the fence refused."""
    with ctx.db.transaction() as tx:
        back = returns.release(tx, lease_id=claim.lease_id, claims=[claim])
        webhooks.hold_rows(tx, [row.id for row in back])
    return bool(back)
