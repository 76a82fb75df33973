"""What results used, counted a day, model, key and schedule in the transaction that stores them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

from batchinfer.domain.usage import UsageRow
from batchinfer.store.clean import clean_text
from batchinfer.store.counting import Mismatch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import date

    from batchinfer.store.session import Transaction

COUNTERS = ("jobs", "prompt_tokens", "completion_tokens", "image_tokens", "cached_tokens", "images", "device_us")
#: Stands for no key, and for no schedule.
NOBODY = UUID(int=0)
#: As in `minutes`: a row stays locked until its transaction is on the disk.
_SHARDS = 16
_COLUMNS = ", ".join(COUNTERS)
_ADD = text(
    f"""
    INSERT INTO usage (tenant_id, day, model, key_id, schedule_id, shard, {_COLUMNS})
    SELECT tenant_id, CAST(timezone('UTC', now()) AS date), model, key_id, schedule_id, pg_backend_pid() % {_SHARDS},
           {_COLUMNS}
    FROM unnest(CAST(:tenants AS uuid[]), CAST(:models AS text[]), CAST(:keys AS uuid[]), CAST(:schedules AS uuid[]),
        {", ".join(f"CAST(:{name} AS bigint[])" for name in COUNTERS)})
        AS added (tenant_id, model, key_id, schedule_id, {_COLUMNS})
    ORDER BY tenant_id, model, key_id, schedule_id
    ON CONFLICT (tenant_id, day, model, key_id, schedule_id, shard)
    DO UPDATE SET {", ".join(f"{name} = usage.{name} + excluded.{name}" for name in COUNTERS)}
    """  # noqa: S608 - made of constants
)

#: Tenant, model, key and schedule.
Whose = tuple[UUID, str, UUID, UUID]


def add_usage(tx: Transaction, changes: Mapping[Whose, Counter[str]]) -> None:
    """Raise counters; the last statement of its transaction."""
    if not changes:
        return
    whose = sorted(changes)
    tenants, models, keys, schedules = (list(column) for column in zip(*whose, strict=True))
    counts = {name: [changes[one][name] for one in whose] for name in COUNTERS}
    tx.execute(_ADD, {"tenants": tenants, "models": models, "keys": keys, "schedules": schedules, **counts})


_GROUPS = {"day": "day", "model": "model", "key": "key_id", "schedule": "schedule_id"}


def read_usage(
    tx: Transaction,
    tenant_id: UUID,
    *,
    since: date,
    until: date,
    groups: Collection[str],
    model: str | None = None,
    key_id: UUID | None = None,
    limit: int,
) -> list[UsageRow]:
    """What a tenant used from the day `since` to the day `until`, both whole, by `groups` (of domain.usage.GROUPS)."""
    columns = [column for name, column in _GROUPS.items() if name in groups]
    shown = ", ".join(
        f"nullif({column}, CAST(:nobody AS uuid)) AS {column}" if column.endswith("_id") else column
        for column in columns
    )
    conditions = "tenant_id = :tenant_id AND day >= :since AND day <= :until"
    values = {"tenant_id": tenant_id, "since": since, "until": until, "limit": limit}
    for name, value in (("model", clean_text(model) if model is not None else None), ("key_id", key_id)):
        if value is not None:
            conditions += f" AND {name} = :{name}"
            values[name] = value
    if any(column.endswith("_id") for column in columns):
        values["nobody"] = NOBODY
    sums = ", ".join(f"CAST(sum({name}) AS bigint) AS {name}" for name in COUNTERS)
    order = f"GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else "HAVING count(*) > 0"
    statement = text(
        f"SELECT {', '.join(part for part in (shown, sums) if part)} FROM usage WHERE {conditions} {order} LIMIT :limit"  # noqa: S608
    )
    missing = dict.fromkeys(column for column in _GROUPS.values() if column not in columns)
    return [UsageRow(**{**missing, **row._mapping}) for row in tx.execute(statement, values)]


#: Counters of `minutes` and the same ones of `usage`. Both were written by the same transactions, at the same time.
_TWINS = {"succeeded": "jobs", **{name: name for name in ("prompt_tokens", "completion_tokens", "images")}}
_CHECK = text(
    f"""
    WITH since AS (SELECT CAST(timezone('UTC', now()) AS date) - 1 AS day),
    counted AS (
        SELECT tenant_id, model, c.counter, CAST(sum(c.number) AS bigint) AS number FROM usage, LATERAL (VALUES
            {", ".join(f"('{twin}', {name})" for twin, name in _TWINS.items())}) AS c (counter, number)
        WHERE day >= (SELECT day FROM since) GROUP BY 1, 2, 3),
    found AS (
        SELECT tenant_id, model, c.counter, CAST(sum(c.number) AS bigint) AS number FROM minutes, LATERAL (VALUES
            {", ".join(f"('{twin}', {twin})" for twin in _TWINS)}) AS c (counter, number)
        WHERE minute >= timezone('UTC', CAST((SELECT day FROM since) AS timestamp)) GROUP BY 1, 2, 3)
    SELECT tenant_id, model, 'usage_' || counter AS counter, coalesce(c.number, 0) AS counted,
           coalesce(f.number, 0) AS rows
    FROM counted c FULL JOIN found f USING (tenant_id, model, counter)
    WHERE coalesce(c.number, 0) <> coalesce(f.number, 0) ORDER BY 1, 2, 3 LIMIT 1000
    """  # noqa: S608 - made of constants
)


def list_mismatches(tx: Transaction) -> list[Mismatch]:
    """Usage of yesterday and today that the minutes of those days do not say."""
    return [Mismatch(**row._mapping) for row in tx.execute(_CHECK)]
