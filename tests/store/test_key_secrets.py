"""What the database knows of a key is not enough to use it."""

from __future__ import annotations

import hashlib

import pytest
from sqlalchemy import text

from batchinfer.errors import Unauthenticated
from batchinfer.services import keys


def test_only_the_hash_of_a_key_is_kept(context) -> None:
    keys.ensure_default_tenant(context)
    key, token = keys.create_key(context, "k", ["read"])
    secret = token.removeprefix(f"bi_{key.prefix}_")
    assert len(secret) == 43, "256 random bits"
    with context.db.transaction() as tx:
        names = tx.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
        kept = "".join(str(tx.execute(text(f'SELECT * FROM "{name}"')).all()) for name in names)  # noqa: S608
        stored = tx.execute(text("SELECT sha256 FROM api_keys")).scalar_one()
    assert secret not in kept
    assert key.prefix in kept, "the test sees what it looks for"
    assert bytes(stored) == hashlib.sha256(token.encode()).digest()
    assert keys.authenticate(context, token).key_id == key.id
    for other in (f"bi_{key.prefix}_{stored.hex()[:43]}", f"bi_{key.prefix}_{'x' * 43}"):
        with pytest.raises(Unauthenticated):
            keys.authenticate(context, other)
