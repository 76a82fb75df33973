"""How long a claim takes when millions of rows wait, of many tenants."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from batchinfer.services import work
from bench.figures import percentile
from bench.queue.stand import MODEL, Stand

CLAIMED = 64
_TENANTS = (
    "INSERT INTO tenants (id, name) SELECT gen_random_uuid(), 'bench ' || n FROM generate_series(1, CAST(%s AS int)) n"
)
# Ids that rise with time, as UUIDv7 do: the backlog came in evenly over ten minutes, tenants in turns.
_FILL = """
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, class, rank, created_at, available_at)
    SELECT made.id, 'infer', made.id, made.tenant_id, %(model)s,
           CASE made.n %% 10 WHEN 0 THEN 'interactive' WHEN 1 THEN 'batch' ELSE 'normal' END,
           CASE made.n %% 10 WHEN 0 THEN 0 WHEN 1 THEN 2 ELSE 1 END, made.at, made.at
    FROM (SELECT n, CAST(lpad(to_hex(CAST(extract(epoch FROM now()) * 1000 AS bigint) - 600000
                                     + CAST(600000.0 * n / CAST(%(rows)s AS bigint) AS bigint)), 12, '0')
                         || '7' || lpad(to_hex(n %% 4096), 3, '0') || '8'
                         || substr(md5(CAST(n AS text)), 1, 15) AS uuid) AS id,
                 (CAST(%(tenants)s AS uuid[]))[1 + n %% CAST(%(count)s AS bigint)] AS tenant_id,
                 now() - make_interval(secs => 600 - 600.0 * n / CAST(%(rows)s AS bigint)) AS at
          FROM generate_series(CAST(%(first)s AS bigint), CAST(%(last)s AS bigint)) AS n) AS made
"""


def measure_claims(stand: Stand, *, rows: int, tenants: int, claims: int) -> dict[str, Any]:
    """Milliseconds of a claim of 64 rows from the backlog, with its commit; what was claimed is taken away between.

    Beside them those for which this thread and the server's process had a core: what is over is waiting, mostly for a
    core that something else has.
    """
    _fill(stand, rows, tenants)
    lease = work.open_lease(stand.ctx, role="model", worker="claimer@bench", host="bench", pid=1, model=MODEL)
    took, busy, served, turns = [], [], set[UUID](), work.make_turns(stand.ctx)
    server = int(stand.run("SELECT pg_backend_pid()"))  # one thread uses one connection of the pool
    for number in range(claims + 5):
        work.beat(stand.ctx, lease)
        before, began = _read_core_ms(server), time.perf_counter()
        found = work.claim(stand.ctx, lease_id=lease, kinds=["infer"], model=MODEL, limit=CLAIMED, turns=turns)
        if number >= 5:  # the first claims read pages that nobody had read
            took.append(1000 * (time.perf_counter() - began))
            busy.append(_read_core_ms(server) - before)
        served |= {claim.tenant_id for claim in found}
        if len(found) != CLAIMED:
            raise RuntimeError(f"A claim took {len(found)} rows of {rows}.")
        with stand.ctx.db.transaction() as tx:
            tx.exec_driver_sql("DELETE FROM queue WHERE lease_id = %s AND state = 'running'", (lease,))
    stand.run("TRUNCATE queue")
    return {
        "rows": rows,
        "tenants": tenants,
        "tenants_served": len(served),
        "claims": claims,
        "rows_a_claim": CLAIMED,
        "p50_ms": round(percentile(took, 50), 3),
        "p95_ms": round(percentile(took, 95), 3),
        "p99_ms": round(percentile(took, 99), 3),
        "core_p50_ms": round(percentile(busy, 50), 3),
        "core_p95_ms": round(percentile(busy, 95), 3),
    }


def _read_core_ms(server: int) -> float:
    """Milliseconds on a core so far, of this thread and of a server's process (the kernel counts in nanoseconds)."""
    return time.thread_time() * 1000 + int(Path(f"/proc/{server}/schedstat").read_text().split()[0]) / 1e6


def _fill(stand: Stand, rows: int, tenants: int) -> None:
    url = stand.settings.require_database_url().replace("+psycopg", "", 1)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TENANTS, (tenants,))
        ids = [row[0] for row in connection.execute("SELECT id FROM tenants WHERE name LIKE 'bench %'")]
        for first in range(1, rows + 1, 200_000):
            last = min(rows, first + 199_999)
            values = {"model": MODEL, "rows": rows, "tenants": ids, "count": len(ids), "first": first, "last": last}
            connection.execute(_FILL, values)
        connection.execute("VACUUM ANALYZE queue")
