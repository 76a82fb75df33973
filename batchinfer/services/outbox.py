"""Everything that leaves the system goes through here: kept with what it tells of, delivered at least once.

A deliverer is a function by the name of its kind. It may be called again with the same delivery, after a crash or when
its answer was lost: receivers tell that by the delivery's id, which never changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from batchinfer.errors import Failure
from batchinfer.observe.logs import get_logger
from batchinfer.store import endings
from batchinfer.store import outbox as store
from batchinfer.store.outbox import Delivery, NewDelivery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.store.claims import Claim
    from batchinfer.store.session import Transaction

    #: Hands one thing to its receiver, or raises: Failure where another time will not help, any other error where it
    #: may.
    Deliverer: TypeAlias = Callable[[Context, Delivery], None]

__all__ = ["DELIVERERS", "Delivery", "NewDelivery", "deliver", "finish_delivery", "put"]

_log = get_logger(__name__)


def _write_log_line(_ctx: Context, delivery: Delivery) -> None:
    """The delivery as one line of the CPU worker's log."""
    _log.info(
        "delivered",
        event_id=str(delivery.id),
        subject=delivery.subject,
        subject_id=str(delivery.subject_id),
        payload=delivery.payload,
    )


#: By kind. A kind that is not here cannot be put.
DELIVERERS: dict[str, Deliverer] = {"log": _write_log_line}


def put(ctx: Context, tx: Transaction, deliveries: Sequence[NewDelivery]) -> list[UUID]:
    """Keep deliveries in the transaction of what they tell of. Answers their ids; announce these after the commit.

    Raises ValueError for a kind without a deliverer.
    """
    for delivery in deliveries:
        if delivery.kind not in DELIVERERS:
            raise ValueError(f"nobody delivers {delivery.kind!r}")
    return store.put(tx, deliveries, give_up_s=ctx.settings.delivery_hours * 3600)


def deliver(ctx: Context, delivery: Delivery) -> None:
    """Hand it over. Raises Failure (code no_deliverer) where this release has none, and what the deliverer raises."""
    deliverer = DELIVERERS.get(delivery.kind)
    if deliverer is None:
        raise Failure(
            "Nothing in this release delivers this kind. Run a worker of the release that wrote it.",
            code="no_deliverer",
        )
    deliverer(ctx, delivery)


def finish_delivery(ctx: Context, lease_id: UUID, claim: Claim) -> bool:
    """It was delivered. False when the fence refused: somebody else may deliver it once more."""
    with ctx.db.transaction() as tx:
        return endings.finish(tx, lease_id=lease_id, claim=claim)
