"""What charts are made of: counted with the ending, added up by ranges, the same after minutes became hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from batchinfer.domain.histograms import count_durations, find_bucket, find_percentile
from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.services import upkeep, work
from batchinfer.store import fleet_tables, hosts, points, rollup
from batchinfer.store.minutes import Tally
from batchinfer.store.series_tables import COUNTERS, device_gauges, hours, minutes, queue_gauges

if TYPE_CHECKING:
    from batchinfer.services.context import Context

HOUR = timedelta(hours=1)


def floor_hour(context: Context) -> datetime:
    with context.db.transaction() as tx:
        now: datetime = tx.execute(text("SELECT date_trunc('hour', now(), 'UTC')")).scalar_one()
    return now.astimezone(UTC)


def put_minute(context: Context, at: datetime, waits: list[float], *, shard: int = 0, model: str = "reader") -> None:
    values = {
        "tenant_id": DEFAULT_TENANT, "model": model, "minute": at, "shard": shard, "succeeded": len(waits),
        "row_us": 30, "device_us": 10, "waits": count_durations(waits), "runs": [],
    }  # fmt: skip
    with context.db.transaction() as tx:
        tx.execute(minutes.insert(), values)


def read(context: Context, since: datetime, until: datetime, step_s: int, *, hourly: bool = False) -> list[Any]:
    with context.db.transaction() as tx:
        return points.list_points(tx, DEFAULT_TENANT, points.Window(since, until, step_s, hourly))


def test_an_ending_counts_how_long_its_job_waited_and_ran(bench: Any) -> None:
    bench.put(3)
    lease = bench.open()
    claims = bench.claim(lease)
    bench.run("UPDATE jobs SET created_at = now() - interval '100 seconds'")
    bench.run("UPDATE queue SET leased_at = now() - interval '7 seconds'")
    first = bench.complete(lease, claims[:2])
    assert len(first.completed) == 2
    work.fail(bench.ctx, lease, [bench.ending(claims[2])])
    now = datetime.now(UTC)
    (point,) = read(bench.ctx, now - HOUR, now + HOUR, 7200)
    assert (point.succeeded, point.failed) == (2, 1)
    assert sum(point.waits) == sum(point.runs) == 3
    assert find_bucket(93.0) == point.waits.index(3)
    assert find_bucket(7.1) == point.runs.index(3)


def test_ranges_add_up_whatever_their_steps_and_shards(context: Context) -> None:
    start = floor_hour(context) - 2 * HOUR
    exact: list[float] = []
    for number in range(90):
        waits = [0.3 * (number + 1), 2.0]
        exact += waits
        put_minute(context, start + timedelta(minutes=number), waits, shard=number % 3)
        put_minute(context, start + timedelta(minutes=number), [], shard=5, model="other")
    until = start + 2 * HOUR
    for step_s in (60, 600, 3600):
        found = read(context, start, until, step_s)
        assert [point.at for point in found] == sorted(point.at for point in found)
        assert len(found) == -(-90 * 60 // step_s)
        assert sum(point.succeeded for point in found) == len(exact)
        total = [sum(column) for column in zip(*(point.waits for point in found), strict=True)]
        assert total == count_durations(exact)
    half = sorted(exact)[len(exact) // 2 - 1]
    answer = find_percentile(total, 0.5)
    assert answer is not None
    assert find_bucket(answer) == find_bucket(half)


def sums(context: Context, table: Any) -> dict[str, Any]:
    with context.db.transaction() as tx:
        rows = tx.execute(table.select()).mappings().all()
    added: dict[str, Any] = {name: sum(row[name] for row in rows) for name in COUNTERS}
    filled = [row["waits"] for row in rows if row["waits"]]
    return added | {"waits": [sum(column) for column in zip(*filled, strict=True)]}


def test_merging_and_hours_keep_every_sum(context: Context) -> None:
    start = floor_hour(context) - 2 * HOUR
    for number in range(150):
        at = start + timedelta(minutes=number * 0.8 // 1)
        put_minute(context, at, [number / 10], shard=number % 2 * 7 + number % 5)
    before = sums(context, minutes)
    with context.db.transaction() as tx:
        merged = rollup.merge_minutes(tx)
        assert rollup.merge_minutes(tx) == 0, "what is merged stays"
    assert merged > 50
    assert sums(context, minutes) == before
    whole = read(context, start, start + 3 * HOUR, 3600)
    for _ in range(2):
        with context.db.transaction() as tx:
            until = rollup.make_hours(tx)
    made = sums(context, hours)
    rest = [point for point in whole if point.at >= until]
    assert made["succeeded"] + sum(point.succeeded for point in rest) == before["succeeded"]
    assert read(context, start, start + 3 * HOUR, 3600, hourly=True) == whole
    # A late count into an hour that was made: the next round has it.
    put_minute(context, start + timedelta(minutes=3), [9.0], shard=9)
    with context.db.transaction() as tx:
        rollup.make_hours(tx)
    late = read(context, start, start + 3 * HOUR, 3600, hourly=True)
    assert late == read(context, start, start + 3 * HOUR, 3600)
    assert late[0].succeeded == whole[0].succeeded + 1


def test_old_minutes_go_once_they_are_hours_and_old_hours_go(context: Context) -> None:
    start = floor_hour(context)
    for days in (1, 4, 89, 200):
        put_minute(context, start - timedelta(days=days), [1.0])
    with context.db.transaction() as tx:
        rollup.make_hours(tx)
        kept = list(tx.execute(text("SELECT minute FROM minutes")).scalars())
        long = list(tx.execute(text("SELECT hour FROM hours ORDER BY hour")).scalars())
    assert [start - at for at in kept] == [timedelta(days=1)]
    assert [(start - at).days for at in long] == [89, 4, 1]


def test_a_tick_looks_at_queue_and_devices_once_a_minute(bench: Any) -> None:
    bench.put(3)
    bench.claim(bench.open(), limit=1)
    bench.run("UPDATE queue SET created_at = now() - interval '90 seconds'")
    keeper = uuid4()
    with bench.ctx.db.transaction() as tx:
        hosts.open_host(tx, "one", keeper, [hosts.Device("cuda:0", "cuda", 81_559), hosts.Device("cpu", "cpu")])
        for name, mib, state in (("a", 4000, "ready"), ("b", None, "loading")):
            tx.execute(
                fleet_tables.replicas.insert(),
                {"id": uuid4(), "tenant_id": DEFAULT_TENANT, "host": "one", "worker": name, "model": "reader",
                 "device": "cuda:0", "state": state, "memory_mib": mib, "planned_mib": 5000},
            )  # fmt: skip
        tx.execute(
            text("INSERT INTO minutes (tenant_id, model, minute, device_us)"
                 " VALUES (:t, 'reader', date_trunc('minute', now()) - interval '1 minute', 30000000)"),
            {"t": DEFAULT_TENANT},
        )  # fmt: skip
        assert hosts.beat_host(tx, "one", keeper, {"cuda:0": hosts.DeviceLoad(12_000, 0.75)})
        assert hosts.beat_host(tx, "one", keeper), "a beat without a look keeps the last one"
    assert upkeep.note_gauges(bench.ctx)
    again = [upkeep.note_gauges(bench.ctx) for _ in range(2)]
    assert again.count(True) <= 1, "a minute may have begun meanwhile"
    now = datetime.now(UTC)
    window = points.Window(now - HOUR, now + HOUR, 7200, False)
    with bench.ctx.db.transaction() as tx:
        looked, depth = points.list_depths(tx, DEFAULT_TENANT, window)
        cpu, gpu = points.list_loads(tx, window)
    assert looked.model == ""
    assert (depth.model, depth.waiting, depth.running) == ("reader", 2, 1)
    assert depth.oldest_s == pytest.approx(90, abs=60)
    assert (gpu.device, gpu.total_mib, gpu.used_mib) == ("cuda:0", 81_559, 9000)
    assert 0 < gpu.busy <= 0.5
    assert (gpu.taken_mib, gpu.use) == (12_000, 0.75)
    assert (cpu.taken_mib, cpu.use) == (None, None)
    assert (cpu.device, cpu.total_mib, cpu.used_mib, cpu.busy) == ("cpu", None, 0, 0)


def test_hours_of_gauges_are_means_and_the_greatest_age(context: Context) -> None:
    start = floor_hour(context) - HOUR
    looked = "00000000-0000-0000-0000-000000000000"
    with context.db.transaction() as tx:
        for number in range(4):
            at = start + timedelta(minutes=number)
            rows = [{"span_s": 60, "at": at, "tenant_id": looked, "model": "", "waiting": 0, "running": 0}]
            if number < 2:
                rows.append({**rows[0], "tenant_id": str(DEFAULT_TENANT), "model": "reader", "waiting": 10})
            for row in rows:
                tx.execute(queue_gauges.insert(), row | {"oldest_s": 5.0 * number if row["model"] else None})
            tx.execute(
                device_gauges.insert(),
                {
                    "span_s": 60,
                    "at": at,
                    "host": "h",
                    "device": "cpu",
                    "used_mib": number,
                    "busy": 0.5,
                    "taken_mib": 100 if number else None,
                    "use": None,
                },
            )
        until = rollup.make_hours(tx)
    assert until in (start, start + HOUR), "in the first five minutes of an hour the one before it is not made"
    window = points.Window(start, start + HOUR, 3600, True)
    with context.db.transaction() as tx:
        found = {depth.model: depth for depth in points.list_depths(tx, DEFAULT_TENANT, window)}
        (load,) = points.list_loads(tx, window)
    assert found["reader"].waiting == 5.0
    assert found["reader"].oldest_s == 5.0
    assert (load.used_mib, load.busy, load.taken_mib, load.use) == (1.5, 0.5, 100, None)


def test_counts_without_durations_leave_the_histograms_as_they_are(bench: Any) -> None:
    def count(**numbers: int) -> None:
        tally = Tally()
        tally.count(DEFAULT_TENANT, "reader", **numbers)
        if "succeeded" in numbers:
            tally.count_times(DEFAULT_TENANT, "reader", 3.0, 0.3)
        with bench.ctx.db.transaction() as tx:
            tally.add(tx)

    count(submitted=1)
    (row,) = bench.rows("minutes")
    assert (row.waits, row.runs) == ([], [])
    count(succeeded=1)
    count(submitted=1)
    added = sums(bench.ctx, minutes)
    assert (added["submitted"], added["succeeded"]) == (2, 1)
    assert added["waits"] == count_durations([3.0])
