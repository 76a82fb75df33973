"""Minutes that are over become one row a model, whole hours get a row beside them, and what is old goes.

Done by upkeep. Whoever still counts into a minute that was merged makes a row that the next round merges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.store.buckets import COLUMNS, add_excluded, sum_columns
from batchinfer.store.series_tables import COUNTERS, HISTOGRAMS

if TYPE_CHECKING:
    from datetime import datetime

    from batchinfer.store.session import Transaction

#: Days that hours are kept. Minutes are kept for two whole days and the present one: usage is held against them.
HOUR_DAYS = 90
#: Under this name is kept up to when hours were made.
ROLLED = "hours"
#: Shard of a merged row; sessions count in those from 0 on.
_MERGED = -1

# Locked in the order in which everybody counts.
_MERGE = text(
    f"""
    WITH old AS (
        SELECT tenant_id, model, minute, shard FROM minutes
        WHERE minute >= date_trunc('minute', now()) - interval '2 hours'
          AND minute < date_trunc('minute', now()) - interval '2 minutes' AND shard <> {_MERGED}
        ORDER BY tenant_id, model, minute, shard FOR UPDATE),
    gone AS (
        DELETE FROM minutes m USING old o
        WHERE (m.tenant_id, m.model, m.minute, m.shard) = (o.tenant_id, o.model, o.minute, o.shard) RETURNING m.*)
    INSERT INTO minutes (tenant_id, model, minute, shard, {COLUMNS})
    SELECT tenant_id, model, minute, {_MERGED}, {sum_columns()} FROM gone GROUP BY tenant_id, model, minute
    ON CONFLICT (tenant_id, model, minute, shard) DO UPDATE SET {add_excluded("minutes")}
    """  # noqa: S608 - made of constants
)


def merge_minutes(tx: Transaction) -> int:
    """Put the rows of each minute that is over into one. Answers how many rows it made or raised."""
    return tx.execute(_MERGE).rowcount


# Who counted may commit some seconds later: an hour is made once it is five minutes over, and the two before it again.
_WINDOW = text("""
    SELECT (SELECT ticked_at - interval '2 hours' FROM ticks WHERE name = :name) AS since,
           date_trunc('hour', now() - interval '5 minutes', 'UTC') AS until
""")
_MAKE_HOURS = text(
    f"""
    INSERT INTO hours (tenant_id, model, hour, {COLUMNS})
    SELECT tenant_id, model, date_trunc('hour', minute, 'UTC'), {sum_columns()} FROM minutes
    WHERE minute >= coalesce(CAST(:since AS timestamptz), '-infinity') AND minute < :until
    GROUP BY tenant_id, model, date_trunc('hour', minute, 'UTC')
    ON CONFLICT (tenant_id, model, hour)
    DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in (*COUNTERS, *HISTOGRAMS))}
    """  # noqa: S608 - made of constants
)
_MAKE_GAUGES = (
    text("""
        INSERT INTO queue_gauges (span_s, at, tenant_id, model, waiting, running, oldest_s)
        SELECT 3600, hour, g.tenant_id, g.model, sum(g.waiting) / looked, sum(g.running) / looked, max(g.oldest_s)
        FROM (SELECT date_trunc('hour', at, 'UTC') AS hour, count(DISTINCT at) AS looked FROM queue_gauges
              WHERE span_s = 60 AND at >= coalesce(CAST(:since AS timestamptz), '-infinity') AND at < :until
              GROUP BY 1) AS h
        JOIN queue_gauges g ON g.span_s = 60 AND g.at >= h.hour AND g.at < h.hour + interval '1 hour'
        GROUP BY hour, looked, g.tenant_id, g.model
        ON CONFLICT (span_s, at, tenant_id, model)
        DO UPDATE SET waiting = excluded.waiting, running = excluded.running, oldest_s = excluded.oldest_s
    """),
    text("""
        INSERT INTO device_gauges (span_s, at, host, device, total_mib, used_mib, busy, taken_mib, use)
        SELECT 3600, date_trunc('hour', at, 'UTC'), host, device, max(total_mib), avg(used_mib), avg(busy),
               avg(taken_mib), avg(use)
        FROM device_gauges
        WHERE span_s = 60 AND at >= coalesce(CAST(:since AS timestamptz), '-infinity') AND at < :until
        GROUP BY 2, host, device
        ON CONFLICT (span_s, at, host, device)
        DO UPDATE SET total_mib = excluded.total_mib, used_mib = excluded.used_mib, busy = excluded.busy,
            taken_mib = excluded.taken_mib, use = excluded.use
    """),
)
_MINUTES_END = "at < least(date_trunc('day', now(), 'UTC') - interval '2 days', CAST(:until AS timestamptz))"
_HOURS_END = "at < now() - make_interval(days => :days) AND CAST(:until AS timestamptz) IS NOT NULL"
_FORGET = (
    text(f"DELETE FROM minutes WHERE {_MINUTES_END.replace('at <', 'minute <', 1)}"),  # noqa: S608 - made of constants
    text(f"DELETE FROM hours WHERE {_HOURS_END.replace('at <', 'hour <', 1)}"),  # noqa: S608
    *(
        text(f"DELETE FROM {table} WHERE span_s = {span_s} AND {rule}")  # noqa: S608
        for table in ("queue_gauges", "device_gauges")
        for span_s, rule in ((60, _MINUTES_END), (3600, _HOURS_END))
    ),
)
_NOTE = text("""
    INSERT INTO ticks (name, ticked_at) VALUES (:name, :until)
    ON CONFLICT (name) DO UPDATE SET ticked_at = excluded.ticked_at
""")


def make_hours(tx: Transaction) -> datetime:
    """Add the minutes of whole hours up, and forget what was kept for its time. Again, nothing changes.

    Answers up to when hours are made.
    """
    since, until = tx.execute(_WINDOW, {"name": ROLLED}).one()
    for statement in (_MAKE_HOURS, *_MAKE_GAUGES):
        tx.execute(statement, {"since": since, "until": until})
    for statement in _FORGET:
        tx.execute(statement, {"until": until, "days": HOUR_DAYS})
    tx.execute(_NOTE, {"name": ROLLED, "until": until})
    made: datetime = until
    return made
