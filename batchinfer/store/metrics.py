"""What a scrape asks of Postgres, for all tenants together. Each read is bounded: a queue of five million rows costs no
more than one of thousands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.jobs import JobClass
from batchinfer.store.backlog import EVERYBODY
from batchinfer.store.buckets import COLUMNS, sum_columns
from batchinfer.store.rollup import ROLLED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.store.session import Transaction

#: Rows up to which those of a kind, model and class are counted.
MOST_ROWS = 10_000
#: Kinds, models and classes that are looked at, tenants in each, and batches: more than anybody should meet.
_MOST_LANES, _MOST_TENANTS, _MOST_BATCHES = 500, 4096, 200
#: Time that one statement may take.
STATEMENT_TIMEOUT_S = 3
#: Minutes in which the loss of a worker is told.
LOST_MINUTES = 15
_LIMIT = text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'")


@dataclass(frozen=True)
class Lane:
    """Queue rows of a kind, model, class and state: queued, running or paused; `rows` up to MOST_ROWS."""

    kind: str
    model: str
    job_class: JobClass
    state: str
    rows: int
    #: Of queued ones the age of the oldest.
    oldest_s: float | None = None


@dataclass(frozen=True)
class Today:
    """What the series counted of a model since midnight (UTC): a number by the name of its counter, and histograms."""

    model: str
    counters: Mapping[str, int]
    waits: list[int]
    runs: list[int]


@dataclass(frozen=True)
class Target:
    """A worker whose metrics can be read at an address."""

    address: str
    role: str
    worker: str
    host: str
    model: str | None
    device: str | None


@dataclass(frozen=True)
class DeviceLoad:
    """A device as the last minute began: MiB in all and held by replicas, and the part of time that it computed."""

    host: str
    device: str
    total_mib: float | None
    used_mib: float
    busy: float


@dataclass(frozen=True)
class Deliveries:
    """Webhooks: deliveries that wait (up to MOST_ROWS), the age of the oldest, and endpoints by state."""

    pending: int
    oldest_s: float | None
    enabled: int
    held: int
    disabled: int


@dataclass(frozen=True)
class RunningBatch:
    """A batch in progress that is not paused. `recent`: lines that ended in the minutes asked for."""

    open_lines: int
    recent: int
    ran_s: float
    left_s: float


def bound_statements(tx: Transaction) -> None:
    """Let no statement of this transaction take longer than STATEMENT_TIMEOUT_S."""
    tx.execute(_LIMIT)


# Lanes, and the tenants of each, are found by stepping through ix_queue_ready, one probe each. A row's id says when it
# was made, so that a tenant's first is its oldest.
_QUEUED = text("""
    WITH RECURSIVE lanes AS (
        (SELECT kind, model, rank, 1 AS step FROM queue WHERE state = 'queued' ORDER BY kind, model, rank LIMIT 1)
        UNION ALL
        SELECT next.kind, next.model, next.rank, lane.step + 1 FROM lanes AS lane CROSS JOIN LATERAL (
            SELECT q.kind, q.model, q.rank FROM queue q
            WHERE q.state = 'queued' AND (q.kind, q.model, q.rank) > (lane.kind, lane.model, lane.rank)
            ORDER BY q.kind, q.model, q.rank LIMIT 1) AS next
        WHERE lane.step < :lanes)
    SELECT lane.kind, lane.model, lane.rank, counted.rows, CAST(first.oldest_s AS float) AS oldest_s
    FROM lanes AS lane CROSS JOIN LATERAL (
        SELECT count(*) AS rows FROM (
            SELECT FROM queue q
            WHERE q.state = 'queued' AND q.kind = lane.kind AND q.model = lane.model AND q.rank = lane.rank
            LIMIT :most) AS found) AS counted
    CROSS JOIN LATERAL (
        WITH RECURSIVE heads AS (
            (SELECT q.tenant_id, q.created_at, 1 AS step FROM queue q
             WHERE q.state = 'queued' AND q.kind = lane.kind AND q.model = lane.model AND q.rank = lane.rank
             ORDER BY q.tenant_id, q.id LIMIT 1)
            UNION ALL
            SELECT next.tenant_id, next.created_at, head.step + 1 FROM heads AS head CROSS JOIN LATERAL (
                SELECT q.tenant_id, q.created_at FROM queue q
                WHERE q.state = 'queued' AND q.kind = lane.kind AND q.model = lane.model AND q.rank = lane.rank
                  AND q.tenant_id > head.tenant_id
                ORDER BY q.tenant_id, q.id LIMIT 1) AS next
            WHERE head.step < :tenants)
        SELECT extract(epoch FROM greatest(now() - min(created_at), interval '0')) AS oldest_s FROM heads) AS first
""")
_OTHERS = text("""
    SELECT kind, model, rank, state, count(*) AS rows FROM (
        SELECT kind, model, rank, state FROM queue WHERE state = 'running'
        UNION ALL
        (SELECT kind, model, rank, state FROM queue WHERE state = 'paused' LIMIT :most)) AS held
    GROUP BY kind, model, rank, state
""")
_CLASSES = {job_class.rank: job_class for job_class in JobClass}


def list_lanes(tx: Transaction) -> list[Lane]:
    """The queue by kind, model, class and state."""
    queued = tx.execute(_QUEUED, {"lanes": _MOST_LANES, "tenants": _MOST_TENANTS, "most": MOST_ROWS}).all()
    others = tx.execute(_OTHERS, {"most": MOST_ROWS}).all()
    return [
        *(Lane(row.kind, row.model, _CLASSES[row.rank], "queued", row.rows, row.oldest_s) for row in queued),
        *(Lane(row.kind, row.model, _CLASSES[row.rank], row.state, row.rows) for row in others),
    ]


_BACKLOG = text("SELECT CAST(coalesce(sum(jobs), 0) AS bigint) FROM backlog WHERE tenant_id = :everybody")


def count_backlog(tx: Transaction) -> int:
    """Jobs of everybody that have not ended, as they are counted when they come and end."""
    jobs: int = tx.execute(_BACKLOG, {"everybody": EVERYBODY}).scalar_one()
    return max(jobs, 0)


# Hours as far as they were made, then minutes: one statement sees one state of both.
_TODAY = text(
    f"""
    WITH day AS (SELECT date_trunc('day', now(), 'UTC') AS since),
    rolled AS (SELECT coalesce((SELECT ticked_at FROM ticks WHERE name = :rolled), '-infinity') AS until),
    parts AS (
        SELECT model, {COLUMNS} FROM minutes
        WHERE minute >= greatest((SELECT since FROM day), (SELECT until FROM rolled))
        UNION ALL
        SELECT model, {COLUMNS} FROM hours
        WHERE hour >= (SELECT since FROM day) AND hour < (SELECT until FROM rolled))
    SELECT model, {sum_columns()} FROM parts GROUP BY model ORDER BY model LIMIT :lanes
    """  # noqa: S608 - made of constants
)


def list_today(tx: Transaction) -> list[Today]:
    """What was counted today, by model."""
    rows = tx.execute(_TODAY, {"rolled": ROLLED, "lanes": _MOST_LANES}).mappings()
    return [Today(row["model"], row, row["waits"], row["runs"]) for row in (dict(found) for found in rows)]


_LEASES = text("""
    SELECT role, coalesce(model, '') AS model, count(*) AS workers, CAST(sum(slots) AS int) AS slots
    FROM leases WHERE NOT dead GROUP BY 1, 2 ORDER BY 1, 2 LIMIT 500
""")
# A worker that ends in order says so itself.
_LOST = text("""
    SELECT role, count(*) FILTER (WHERE dead AND ended_at > now() - make_interval(mins => :minutes)
                                  AND end_reason IS DISTINCT FROM :orderly) AS lost
    FROM leases WHERE NOT dead OR ended_at > now() - interval '1 day' GROUP BY role ORDER BY role
""")
_TARGETS = text("""
    SELECT info ->> 'metrics' AS address, role, worker, host, model, device FROM leases
    WHERE NOT dead AND info ->> 'metrics' <> '' ORDER BY host, worker LIMIT 5000
""")
_REPLICAS = text("""
    SELECT model, state, count(*) AS number FROM replicas WHERE ended_at IS NULL
    GROUP BY model, state ORDER BY model, state LIMIT 500
""")
_HOSTS = text("""
    SELECT CASE WHEN heartbeat_at <= now() - make_interval(secs => :silent_s) THEN 'silent'
                WHEN draining THEN 'draining' ELSE 'alive' END AS state, count(*) AS number
    FROM hosts WHERE ended_at IS NULL AND heartbeat_at > now() - interval '1 day' GROUP BY 1
""")
# As upkeep noted them; what it noted long ago says nothing of now.
_DEVICES = text("""
    SELECT host, device, total_mib, used_mib, busy FROM device_gauges
    WHERE span_s = 60 AND at > now() - interval '3 minutes'
      AND at = (SELECT max(at) FROM device_gauges WHERE span_s = 60) ORDER BY host, device LIMIT 5000
""")


def count_leases(tx: Transaction) -> list[tuple[str, str, int, int]]:
    """Workers that are alive: role, model ("" for all), how many, and their slots together."""
    return [(row.role, row.model, row.workers, row.slots) for row in tx.execute(_LEASES)]


def count_lost(tx: Transaction, *, orderly: str) -> dict[str, int]:
    """By role, workers lost in the last LOST_MINUTES: their lease ended with another reason than `orderly`.

    Roles without a worker since a day are left out.
    """
    return {row.role: row.lost for row in tx.execute(_LOST, {"minutes": LOST_MINUTES, "orderly": orderly})}


def list_targets(tx: Transaction) -> list[Target]:
    """Workers that tell their metrics."""
    return [Target(**row._mapping) for row in tx.execute(_TARGETS)]


def count_replicas(tx: Transaction) -> list[tuple[str, str, int]]:
    """Replicas that have not ended: model, state, how many."""
    return [(row.model, row.state, row.number) for row in tx.execute(_REPLICAS)]


def count_hosts(tx: Transaction, *, silent_s: float) -> dict[str, int]:
    """Machines with a keeper that has not ended: alive, draining or silent; after a day of silence no more."""
    found = {row.state: row.number for row in tx.execute(_HOSTS, {"silent_s": silent_s})}
    return {state: found.get(state, 0) for state in ("alive", "draining", "silent")}


def list_device_loads(tx: Transaction) -> list[DeviceLoad]:
    """Every device as it was when the last minute began; none where nobody has looked for three."""
    return [DeviceLoad(**row._mapping) for row in tx.execute(_DEVICES)]


_DELIVERIES = text("""
    WITH waiting AS (
        SELECT id, created_at FROM queue WHERE state = 'queued' AND kind = 'deliver'
        ORDER BY kind, model, rank, tenant_id, id LIMIT :most)
    SELECT count(*) AS pending,
        CAST(extract(epoch FROM greatest(now() - min(w.created_at), interval '0')) AS float) AS oldest_s,
        (SELECT count(*) FROM webhook_endpoints
         WHERE disabled_at IS NULL AND coalesce(held_until <= now(), true)) AS enabled,
        (SELECT count(*) FROM webhook_endpoints WHERE disabled_at IS NULL AND held_until > now()) AS held,
        (SELECT count(*) FROM webhook_endpoints WHERE disabled_at IS NOT NULL) AS disabled
    FROM waiting w JOIN outbox o ON o.id = w.id JOIN webhook_endpoints e ON e.id = o.endpoint_id
    WHERE e.disabled_at IS NULL
""")
_BATCHES = text("""
    SELECT status, count(*) AS number FROM batches
    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') GROUP BY status
""")
_RUNNING_BATCHES = text("""
    SELECT greatest(b.total - b.completed - b.failed - b.expired - b.cancelled, 0) AS open_lines,
        recent.number AS recent,
        CAST(extract(epoch FROM now() - coalesce(b.in_progress_at, b.created_at)) AS float) AS ran_s,
        CAST(extract(epoch FROM b.expires_at - now()) AS float) AS left_s
    FROM (SELECT * FROM batches WHERE status = 'in_progress' AND paused_at IS NULL
          ORDER BY expires_at LIMIT :batches) AS b
    CROSS JOIN LATERAL (
        SELECT CAST(coalesce(sum(m.completed + m.failed), 0) AS bigint) AS number FROM batch_minutes m
        WHERE m.batch_id = b.id AND m.minute > now() - make_interval(mins => :minutes)) AS recent
""")
_STATUSES = ("validating", "in_progress", "finalizing", "cancelling")


def read_deliveries(tx: Transaction) -> Deliveries:
    """How webhooks fare."""
    return Deliveries(**tx.execute(_DELIVERIES, {"most": MOST_ROWS}).one()._mapping)


def count_batches(tx: Transaction) -> dict[str, int]:
    """Batches and runs that have not ended, by status."""
    found: dict[Any, int] = {row.status: row.number for row in tx.execute(_BATCHES)}
    return {status: found.get(status, 0) for status in _STATUSES}


def list_running_batches(tx: Transaction, *, minutes: int) -> list[RunningBatch]:
    """Those in progress whose deadlines are nearest."""
    values = {"batches": _MOST_BATCHES, "minutes": minutes}
    return [RunningBatch(**row._mapping) for row in tx.execute(_RUNNING_BATCHES, values)]
