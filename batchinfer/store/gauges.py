"""How the queue and the devices stand, looked at once a minute by whoever does upkeep."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.store.session import Transaction

#: The tenant of the row that says that it was looked.
LOOKED = UUID(int=0)

_NOTE_QUEUE = text("""
    INSERT INTO queue_gauges (span_s, at, tenant_id, model, waiting, running, oldest_s)
    SELECT 60, :at, tenant_id, model, count(*) FILTER (WHERE state <> 'running' OR kind <> 'infer'),
           count(*) FILTER (WHERE state = 'running' AND kind = 'infer'),
           extract(epoch FROM now() - min(created_at) FILTER (WHERE state <> 'running' OR kind <> 'infer'))
    FROM queue WHERE kind IN ('infer', 'prepare') GROUP BY tenant_id, model
    UNION ALL SELECT 60, :at, CAST(:looked AS uuid), '', 0, 0, NULL
    ON CONFLICT DO NOTHING
""")
# What a model's jobs took of their devices is shared among its replicas evenly. A job counts in the minute in which it
# ended, so that long ones may count for more than that minute has.
_NOTE_DEVICES = text("""
    WITH there AS (
        SELECT h.host, d.value ->> 'name' AS device, CAST(d.value ->> 'total_mib' AS float) AS total_mib,
               CAST(h.loads -> (d.value ->> 'name') ->> 'taken_mib' AS float) AS taken_mib,
               CAST(h.loads -> (d.value ->> 'name') ->> 'use' AS float) AS use
        FROM hosts h, jsonb_array_elements(h.devices) AS d
        WHERE h.ended_at IS NULL AND h.heartbeat_at > now() - make_interval(secs => :silent_s)),
    took AS (SELECT model, sum(device_us) / 60e6 AS share FROM minutes
             WHERE minute = CAST(:at AS timestamptz) - interval '1 minute' GROUP BY model),
    held AS (
        SELECT coalesce(r.host, split_part(r.worker, '@', 2)) AS host, r.device, r.model, r.state,
               coalesce(r.memory_mib, r.planned_mib, 0) AS mib,
               count(*) FILTER (WHERE r.state = 'ready') OVER (PARTITION BY r.model) AS ready
        FROM replicas r WHERE r.ended_at IS NULL),
    used AS (
        SELECT host, device, sum(mib) AS mib,
               least(1, sum(CASE WHEN h.state = 'ready' THEN t.share / h.ready END)) AS busy
        FROM held h LEFT JOIN took t USING (model) GROUP BY host, device)
    INSERT INTO device_gauges (span_s, at, host, device, total_mib, used_mib, busy, taken_mib, use)
    SELECT 60, :at, coalesce(t.host, u.host), coalesce(t.device, u.device), t.total_mib, coalesce(u.mib, 0),
           coalesce(u.busy, 0), t.taken_mib, t.use
    FROM there t FULL JOIN used u ON (u.host, u.device) = (t.host, t.device)
    ON CONFLICT DO NOTHING
""")


def note_gauges(tx: Transaction, at: datetime, *, silent_s: float) -> None:
    """Write down how the queue and the devices stand as the minute `at` begins. A second time changes nothing."""
    tx.execute(_NOTE_QUEUE, {"at": at, "looked": LOOKED})
    tx.execute(_NOTE_DEVICES, {"at": at, "silent_s": silent_s})
