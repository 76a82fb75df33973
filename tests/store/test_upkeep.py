"""Ticks, partitions, keys, models, numbers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.errors import BadRequest, NotFound, Unauthenticated
from batchinfer.services import fleet, keys, models, sweeping, upkeep, work
from batchinfer.store import minutes, partitions, series


def test_a_tick_is_remembered(context):
    assert upkeep.seconds_since_tick(context) is None
    first = upkeep.tick(context)
    assert (first.leases_ended, first.expired) == (0, 0)
    since_s = upkeep.seconds_since_tick(context)
    assert since_s is not None
    assert 0 <= since_s < 60


def test_a_tick_expires_reaps_and_hourly_makes_partitions(bench):
    bench.run("DROP TABLE attempts_default")
    (late,) = bench.put(expires_at=datetime.now(UTC) - timedelta(hours=1))
    (held,) = bench.put()
    bench.claim(bench.open())
    bench.run("UPDATE leases SET heartbeat_at = now() - interval '1 hour'")
    assert upkeep.tick(bench.ctx) == upkeep.Tick(1, 1, 1, 0)
    assert bench.job(late).state is JobState.EXPIRED
    assert bench.job(held).state is JobState.QUEUED
    bench.run("DROP TABLE attempts_default")
    assert upkeep.tick(bench.ctx) == upkeep.Tick(0, 0, 0, 0), "the hour is not over"
    bench.run("UPDATE ticks SET ticked_at = now() - interval '2 hours' WHERE name = 'hourly'")
    assert upkeep.tick(bench.ctx).partitions_made == 1


def test_more_than_one_round_expires(bench, monkeypatch):
    monkeypatch.setattr(upkeep, "_EXPIRE_ROWS", 3)
    bench.put(8, expires_at=datetime.now(UTC) - timedelta(hours=1))
    assert upkeep.expire(bench.ctx) == 8
    assert bench.count("expired") == 8


def test_leases_that_no_job_can_name_are_forgotten(bench, monkeypatch):
    """What ended before the oldest job and more than a day ago goes; what lives, holds a row or ended lately stays."""
    monkeypatch.setattr(sweeping, "_ROWS", 2)
    old = [bench.open(f"old-{number}") for number in range(3)]
    for lease in old:
        work.end_lease(bench.ctx, lease, "stopped")
    late, alive, holder = bench.open("late"), bench.open("alive"), bench.open("holder")
    work.end_lease(bench.ctx, late, "stopped")
    bench.put()
    bench.claim(holder)
    age = "UPDATE leases SET ended_at = now() - make_interval(days => :days), dead = true WHERE id = :id"
    for lease in (*old, holder):
        bench.run(age, id=lease, days=40)
    assert sweeping.forget_leases(bench.ctx) == 3
    assert {row.id for row in bench.rows("leases")} == {late, alive, holder}
    bench.run(age, id=late, days=3)
    low, high = (partitions.first_id(date(2020, 1, day)) for day in (1, 2))
    bench.run(f"CREATE TABLE jobs_20200101 PARTITION OF jobs FOR VALUES FROM ('{low}') TO ('{high}')")
    assert sweeping.forget_leases(bench.ctx) == 0, "a job of that day may still tell who answered it"


def test_a_days_ids_lie_in_its_partition(bench):
    (job_id,) = bench.put()
    today = datetime.now(UTC).date()
    ids = bench.rows(f"jobs_{datetime.fromtimestamp((job_id.int >> 80) / 1000, UTC):%Y%m%d}")
    assert [row.id for row in ids] == [job_id]
    assert partitions.first_id(today) < new_id() < partitions.first_id(today + timedelta(days=1))
    assert partitions.first_id(date(1970, 1, 2)) == UUID(int=86_400_000 << 80)
    assert partitions.first_id(date(1969, 12, 31)) == UUID(int=0), "no id is older"


def test_partitions_are_made_ahead_once_whoever_asks(context):
    def ensure(_):
        with context.db.transaction() as tx:
            return partitions.ensure_partitions(tx, days_ahead=12)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(ensure, range(4)))
    assert sorted(made) == [0, 0, 0, 20]
    with context.db.transaction() as tx:
        names = set(tx.execute(text("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")).scalars())
    today = datetime.now(UTC).date()
    for table in partitions.PARTITIONED:
        for offset in range(-1, 13):
            assert f"{table}_{today + timedelta(days=offset):%Y%m%d}" in names


def test_rows_beyond_the_partitions_are_served_from_the_default_one(bench):
    future = datetime.now(UTC) + timedelta(days=400)
    job_id = UUID(int=(int(future.timestamp() * 1000) << 80) | 0x7 << 76 | 0x8 << 60 | 5)
    bench.run(
        "INSERT INTO jobs (id, tenant_id, model, prompt) VALUES (:id, :t, 'reader', '{}')", id=job_id, t=DEFAULT_TENANT
    )
    assert bench.job(job_id).state is JobState.QUEUED
    assert [row.id for row in bench.rows("jobs_default")] == [job_id]
    with bench.ctx.db.transaction() as tx:
        today = tx.execute(text("SELECT CAST(timezone('UTC', now()) AS date)")).scalar()
        assert partitions._make_day(tx, "jobs", today + timedelta(days=400)) == 0, "left where they are"
        assert partitions._make_day(tx, "jobs", today + timedelta(days=401)) == 1


def test_a_key_is_shown_once_and_stored_as_its_sha256(context):
    keys.ensure_default_tenant(context)
    keys.ensure_default_tenant(context)
    key, token = keys.create_key(context, "mine", {"read", "submit"})
    assert token == f"bi_{key.prefix}_{token.split('_', 2)[2]}"
    assert len(token.split("_", 2)[2]) == 43
    caller = keys.authenticate(context, token)
    assert (caller.tenant_id, caller.key_id, caller.name) == (DEFAULT_TENANT, key.id, "mine")
    assert caller.scopes == {"read", "submit"}
    with context.db.transaction() as tx:
        row = tx.execute(text("SELECT * FROM api_keys")).one()
    assert token.encode() not in bytes(row.sha256)
    assert token.split("_", 2)[2] not in str(row)
    assert row.last_used_at is not None


def test_all_bad_tokens_answer_the_same(context, caller):
    _, token = keys.create_key(context, "ends", expires_in_s=3600)
    wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
    bad = ["", "bi_", "nonsense", wrong, "bi_00000000_" + "a" * 43, token + "a", "\ud800", "bi_" + "\x00" * 52]
    messages = set()
    for text_ in bad:
        with pytest.raises(Unauthenticated) as refused:
            keys.authenticate(context, text_)
        messages.add(refused.value.message)
    with context.db.transaction() as tx:
        tx.execute(text("UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE name = 'ends'"))
    with pytest.raises(Unauthenticated) as refused:
        keys.authenticate(context, token)
    assert messages == {refused.value.message}


def test_a_revoked_key_ends_at_once(context, caller):
    key, token = keys.create_key(context, "revoked")
    assert keys.revoke_key(context, caller, key.id)[1]
    assert not keys.revoke_key(context, caller, key.id)[1]
    with pytest.raises(Unauthenticated):
        keys.authenticate(context, token)


def test_the_last_use_is_noted_now_and_then(context, api_key):
    keys.authenticate(context, api_key)
    with context.db.transaction() as tx:
        first = tx.execute(text("SELECT last_used_at FROM api_keys")).scalar()
    keys.authenticate(context, api_key)
    with context.db.transaction() as tx:
        assert tx.execute(text("SELECT last_used_at FROM api_keys")).scalar() == first
        tx.execute(text("UPDATE api_keys SET last_used_at = now() - interval '2 minutes'"))
    keys.authenticate(context, api_key)
    with context.db.transaction() as tx:
        assert tx.execute(text("SELECT last_used_at > now() - interval '1 minute' FROM api_keys")).scalar()


@pytest.mark.parametrize("scopes", [["fly"], [], ["read", "root"]])
def test_scopes_are_those_that_exist(context, scopes):
    with pytest.raises(BadRequest):
        keys.create_key(context, "x", scopes)


def test_a_models_state_follows_its_replicas(bench):
    def state():
        return models.get_model(bench.ctx, bench.caller, "reader").state

    def record(replica, new_state, **more):
        return work.record_replica(
            bench.ctx, replica, worker="w1", model="reader", device="cpu", state=new_state, **more
        )

    assert state() == "stopped"
    first = record(None, "loading")
    assert state() == "loading"
    record(first, "ready", lease_id=bench.open(), revision="r1", engine="fake", memory_mib=12)
    record(first, "ready", verdict={"engine": "fake", "exact": 2, "of": 2})
    assert state() == "ready"
    (replica,) = fleet.list_replicas(bench.ctx, bench.caller)
    assert (replica.state, replica.revision, replica.memory_mib, replica.ended_at) == ("ready", "r1", 12, None)
    assert replica.verdict == {"engine": "fake", "exact": 2, "of": 2}
    record(first, "failed", error={"code": "x"})
    assert state() == "failed"
    second = record(None, "verifying")
    assert state() == "loading"
    third = record(None, "loading")
    assert bench.row("replicas", id=second).state == "failed", "its worker began anew without a word"
    record(third, "stopped")
    assert state() == "stopped"


def test_registering_again_replaces(bench):
    first = models.register_model(bench.ctx, "m", "/a", "1", {"license": "x"})
    assert models.register_model(bench.ctx, "m", "/b", "2") == first
    found = models.get_model(bench.ctx, bench.caller, "m")
    assert (found.path, found.revision, found.facts) == ("/b", "2", {})
    assert [model.name for model in models.list_models(bench.ctx, bench.caller)] == ["m", "reader"]
    with pytest.raises(NotFound):
        models.get_model(bench.ctx, bench.caller, "nobody\x00")


def test_a_deployment_is_wanted_once(bench):
    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(lambda n: models.ensure_deployment(bench.ctx, "reader", replicas=n), range(1, 5)))
    assert len(ids) == 1
    assert models.ensure_deployment(bench.ctx, "reader", device="cuda", engine="fake") not in ids
    assert [(d.model, d.path, d.device) for d in models.list_deployments(bench.ctx)] == [
        ("reader", "/nowhere", "auto"), ("reader", "/nowhere", "cuda")
    ]  # fmt: skip
    with pytest.raises(NotFound):
        models.ensure_deployment(bench.ctx, "nobody")


def test_the_overview_adds_up(bench):
    empty = fleet.overview(bench.ctx, bench.caller)
    assert (empty.waiting, empty.oldest_waiting_s, empty.minutes, empty.images_per_s) == ([], None, [], 0)
    bench.put(3)
    bench.put(2, job_class=JobClass.BATCH)
    bench.put(4, kind="prepare")
    bench.put(5, tenant_id=new_id())
    lease = bench.open()
    claims = [claim for claim in bench.claim(lease, 64) if claim.tenant_id == DEFAULT_TENANT]
    work.complete_group(bench.ctx, lease, [bench.outcome(claims[0])], [bench.ending(claims[1])])
    work.release(bench.ctx, lease, claims[2:3])
    found = fleet.overview(bench.ctx, bench.caller)
    assert (found.preparing, found.queued, found.running, found.rendering) == (4, 1, 2, 0)
    assert {(w.kind, w.job_class): (w.waiting, w.running) for w in found.waiting} == {
        ("infer", JobClass.NORMAL): (1, 0), ("infer", JobClass.BATCH): (0, 2), ("prepare", JobClass.NORMAL): (4, 0)
    }  # fmt: skip
    assert (found.succeeded_last_hour, found.failed_last_hour) == (1, 1)
    assert found.oldest_waiting_s is not None
    assert 0 < found.tokens_per_s <= 5 / 60
    assert 0 < found.images_per_s <= 1 / 60
    assert sum(minute.succeeded for minute in found.minutes) == 1
    assert [worker.worker for worker in found.workers] == ["w1"]


def test_minutes_of_many_writers_add_up(context):
    tenants = [new_id() for _ in range(3)]

    def add(number):
        tally = minutes.Tally()
        for tenant in tenants[number % 3 :] + tenants[: number % 3]:
            tally.count(tenant, "b", succeeded=1, images=2)
            tally.count(tenant, "a", failed=1)
        with context.db.transaction() as tx:
            tally.add(tx)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    with context.db.transaction() as tx:
        for tenant in tenants:
            found = series.list_minutes(tx, tenant)
            assert (sum(m.succeeded for m in found), sum(m.images for m in found)) == (40, 80)
            assert sum(m.failed for m in series.list_minutes(tx, tenant, model="a")) == 40
