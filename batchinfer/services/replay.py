"""Idempotency keys as services use them: the same request again answers what the first one made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.errors import KeyReused
from batchinfer.store import idempotency as store
from batchinfer.store.idempotency import Remembered, Scope

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.session import Transaction


class Replayed(Exception):
    """The key stands for something that exists; whatever the transaction began is rolled back."""

    def __init__(self, found: Remembered) -> None:
        super().__init__(found.resource)
        self.found = found


def find_replay(tx: Transaction, caller: Caller, idempotency: Idempotency | None) -> Remembered | None:
    """What an earlier request with this key made, or None. Raises KeyReused where its body was another one."""
    if idempotency is None:
        return None
    found = store.find_remembered(tx, _scope(caller, idempotency))
    return _check(found, idempotency) if found else None


def take_key(
    ctx: Context,
    tx: Transaction,
    caller: Caller,
    idempotency: Idempotency | None,
    resource: str,
    resource_id: UUID,
) -> None:
    """Bind the key to what this transaction makes; waits while another transaction with the same key is open.

    Raises Replayed where that one committed, KeyReused where it had another body.
    """
    if idempotency is None:
        return
    what = Remembered(idempotency.request_sha256, resource, resource_id)
    scope = _scope(caller, idempotency)
    winner = store.remember(tx, scope, what, hours=ctx.settings.idempotency_hours)
    if winner is not None:
        raise Replayed(_check(winner, idempotency))


def _check(found: Remembered, idempotency: Idempotency) -> Remembered:
    if found.request_sha256 != idempotency.request_sha256:
        raise KeyReused(
            "This Idempotency-Key was used before with another request. Use a new key for a new request, or send the "
            "first request again unchanged.",
            param="Idempotency-Key",
        )
    return found


def _scope(caller: Caller, idempotency: Idempotency) -> Scope:
    return Scope(caller.tenant_id, idempotency.method, idempotency.route, idempotency.key)
