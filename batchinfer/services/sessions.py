"""Sign-in and sign-out at the pages. Both are acts that the audit log has; wrong keys are not, they are throttled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.domain.ids import KEY, show_id
from batchinfer.errors import Forbidden, Unauthenticated
from batchinfer.services.audit import note
from batchinfer.services.keys import authenticate
from batchinfer.store import keys as store

if TYPE_CHECKING:
    from batchinfer.services.context import Caller, Context
    from batchinfer.store.keys import StoredKey

#: Any of these lets a key look at the pages.
LOOKING = frozenset({"read", "admin"})


def begin_session(ctx: Context, token: str) -> StoredKey:
    """The key of a valid token that may look at the pages; its sign-in is noted in the transaction that reads it.

    Raises Unauthenticated, Forbidden.
    """
    caller = authenticate(ctx, token)
    if not caller.scopes & LOOKING:
        raise Forbidden("This key may not look at the pages. Use one with the scope 'read'.")
    with ctx.db.transaction() as tx:
        key = store.get_key(tx, caller.tenant_id, caller.key_id)
        if key is None or not key.valid:
            raise Unauthenticated("This key has just been removed. Use another one.")
        note(tx, caller, "pages.sign_in", show_id(KEY, key.id), name=key.name)
    return key


def end_session(ctx: Context, caller: Caller) -> None:
    """Note that the holder of a key signed out."""
    with ctx.db.transaction() as tx:
        note(tx, caller, "pages.sign_out", show_id(KEY, caller.key_id), name=caller.name)
