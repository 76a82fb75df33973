"""A worker's own knowledge of its lease and of what it holds under it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from batchinfer.domain.jobs import JobClass
from batchinfer.services import work as verbs
from batchinfer.store.claims import INFER, Claim
from workers.lease import MARGIN, Held, Lease


@pytest.fixture
def claim() -> Claim:
    job_id, now = uuid4(), datetime.now(UTC)
    return Claim(
        job_id, INFER, job_id, uuid4(), "m", JobClass.NORMAL, 1, 0, 0, 1, None, now, uuid4(), now
    )  # fmt: skip


def test_a_lease_is_sure_only_for_a_while_after_a_good_beat(context) -> None:
    now = 100.0
    lease = Lease(context, role="model", worker="w@h", clock=lambda: now)
    assert lease.find_sure() is None
    lease_id = lease.open()
    assert lease.find_sure() == lease_id
    now += context.settings.lease_ttl_s * (1 - MARGIN) - 0.01
    assert lease.find_sure() == lease_id
    now += 0.02
    assert (lease.find_sure(), lease.id) == (None, lease_id)
    assert lease.beat().alive
    assert lease.find_sure() == lease_id


def test_a_dead_lease_gives_no_sign_of_life(context) -> None:
    lease = Lease(context, role="model", worker="w@h")
    lease_id = lease.open()
    verbs.end_lease(context, lease_id, "test", clean=False)
    assert not lease.beat().alive
    lease.lose()
    assert lease.find_sure() is None
    with pytest.raises(RuntimeError, match="no lease"):
        lease.beat()


def test_a_clean_end_is_written_once(context) -> None:
    lease = Lease(context, role="cpu", worker="w@h")
    lease.open()
    lease.end("test")
    lease.end("test")
    assert lease.id is None


def test_a_claim_is_known_by_id_attempt_and_lease(claim) -> None:
    held = Held()
    assert held.add([claim]) == [claim]
    assert held.add([replace(claim, leased_at=None)]) == []
    assert held.has(claim)
    later = replace(claim, attempt=2)
    assert not held.pop(later)
    assert held.add([later]) == [later]
    assert not held.pop(claim)
    assert held.clear() == [later]
    assert len(held) == 0
