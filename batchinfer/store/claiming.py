"""The statement that claims. It reads what it takes and a little more, whatever the backlog.

A lane is a kind, model, class and tenant with something queued. Lanes are found by stepping through the index, one
probe each, in two halves: the tenants behind the one that was served last, then those up to it. From each lane come its
first rows, which take turns between tenants. Later classes are looked at where the earlier ones do not fill the claim,
or where a share is due to rows that waited long. Rows are then locked, passing over locked ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from sqlalchemy import text

from batchinfer.store.claims import Claim
from batchinfer.store.turns import RANKS

#: A claim looks at as many rows again as it may take, and at least so many more, so that workers that look at once find
#: different ones.
_LEAST_SPARE = 16
#: A row comes as the fields of a Claim and then those of a Taken, in their order.
#: All but the trace, which comes with what the claim is about.
CLAIM_FIELDS = tuple(field.name for field in fields(Claim) if field.name != "trace")

_ANY_MODEL = """
    routes AS (
        SELECT wanted.kind, first.model
        FROM unnest(CAST(:kinds AS text[])) AS wanted (kind) CROSS JOIN LATERAL (
            SELECT q.model FROM queue q WHERE q.state = 'queued' AND q.kind = wanted.kind
            ORDER BY q.model LIMIT 1) AS first
        UNION ALL
        SELECT route.kind, next.model
        FROM routes AS route CROSS JOIN LATERAL (
            SELECT q.model FROM queue q WHERE q.state = 'queued' AND q.kind = route.kind AND q.model > route.model
            ORDER BY q.model LIMIT 1) AS next
    )"""
_ONE_MODEL = """
    routes AS (
        SELECT wanted.kind, CAST(:model AS text) AS model FROM unnest(CAST(:kinds AS text[])) AS wanted (kind)
    )"""

# `open` lanes are not paused; only they count against :lanes, up to a bound that nobody should meet. In half 0 are the
# tenants behind the one that was served last; where they end, half 1 begins at the first of all.
_OF_RANK = """
    want_{rank} AS MATERIALIZED (SELECT {wanted} AS rows),
    lanes_{rank} AS (
        SELECT route.kind, route.model, 0 AS half, CAST(:before_{rank} AS uuid) AS tenant_id, false AS open, 0 AS seen,
               0 AS steps
        FROM routes AS route
        WHERE (SELECT rows FROM want_{rank}) > 0 AND NOT EXISTS (
            SELECT 1 FROM paused p WHERE p.tenant_id IS NULL AND (p.model IS NULL OR p.model = route.model))
        UNION ALL
        SELECT lane.kind, lane.model, next.half, next.tenant_id, now.open, lane.seen + CAST(now.open AS int),
               lane.steps + 1
        FROM lanes_{rank} AS lane CROSS JOIN LATERAL (
            (SELECT q.tenant_id, lane.half FROM queue q
             WHERE q.state = 'queued' AND q.kind = lane.kind AND q.model = lane.model AND q.rank = {rank}
               AND q.tenant_id > lane.tenant_id
               AND q.tenant_id <= CASE lane.half WHEN 0 THEN CAST(:highest AS uuid) ELSE :before_{rank} END
             ORDER BY q.tenant_id LIMIT 1)
            UNION ALL
            (SELECT q.tenant_id, 1 FROM queue q
             WHERE q.state = 'queued' AND q.kind = lane.kind AND q.model = lane.model AND q.rank = {rank}
               AND lane.half = 0 AND q.tenant_id <= :before_{rank}
             ORDER BY q.tenant_id LIMIT 1)
            LIMIT 1) AS next (tenant_id, half) CROSS JOIN LATERAL (
            SELECT NOT EXISTS (
                SELECT 1 FROM paused p
                WHERE p.tenant_id = next.tenant_id AND (p.model IS NULL OR p.model = lane.model))) AS now (open)
        WHERE lane.seen < greatest(least((SELECT rows FROM want_{rank}), :lanes), :least_lanes) AND lane.steps < 4096
    ),
    heads_{rank} AS (
        SELECT head.id, CAST({rank} AS int) AS rank, lane.half, lane.tenant_id,
               head.created_at <= now() - make_interval(secs => :ageing_s) AND {rank} > 0 AS aged,
               CASE WHEN lane.tenant_id = :at_{rank} THEN CAST(:served_{rank} AS int) ELSE 0 END AS served,
               coalesce(t.weight, 1) AS weight
        FROM lanes_{rank} AS lane LEFT JOIN tenants t ON t.id = lane.tenant_id CROSS JOIN LATERAL (
            SELECT q.id, q.created_at FROM queue q
            WHERE q.state = 'queued' AND q.kind = lane.kind AND q.model = lane.model AND q.rank = {rank}
              AND q.tenant_id = lane.tenant_id AND q.available_at <= now()
              AND (q.expires_at IS NULL OR q.expires_at > now())
              AND q.schema_version <= :version AND q.id <> ALL (CAST(:excluded AS uuid[]))
            ORDER BY q.id
            LIMIT (SELECT ceil(CAST((SELECT rows FROM want_{rank}) AS float) / greatest(count(*), 1))
                   FROM lanes_{rank} WHERE open)) AS head
        WHERE lane.open
    )"""

# `alive` holds the lease against its reaper until the claim is committed. Rows are locked one by one in the order of
# their places, each found by its id: OFFSET 0 keeps the planner from turning the join round, and the way in which state
# is compared keeps it from the index of what is queued.
_TAKE = """
    heads AS ({heads}),
    turned AS MATERIALIZED (
        SELECT id, rank, half, tenant_id, aged, weight,
               (row_number() OVER (PARTITION BY rank, tenant_id ORDER BY id) - 1 + served) / weight AS turn
        FROM heads
    ),
    candidates AS MATERIALIZED (
        SELECT first.*, row_number() OVER () AS place FROM (
            SELECT id, rank, weight, aged AND id = ANY (ARRAY(
                SELECT id FROM turned WHERE aged
                ORDER BY turn, rank <> :first_aged, half, tenant_id, id LIMIT :reserved)) AS seat
            FROM turned ORDER BY seat DESC, rank, turn, half, tenant_id, id LIMIT :window) AS first
    ),
    alive AS MATERIALIZED (SELECT id FROM leases WHERE id = :lease_id AND NOT dead FOR SHARE),
    picked AS (
        SELECT locked.id, c.place, c.rank, c.weight, c.seat FROM candidates c CROSS JOIN LATERAL (
            SELECT q.id FROM queue q WHERE q.id = c.id AND q.state IS NOT DISTINCT FROM 'queued'
              AND q.available_at <= now() OFFSET 0 FOR UPDATE SKIP LOCKED) AS locked
        WHERE EXISTS (SELECT 1 FROM alive) LIMIT :limit
    ),
    taken AS (
        UPDATE queue q SET state = 'running', attempt = q.attempt + 1, lease_id = :lease_id, leased_at = now()
        FROM picked p WHERE q.id = p.id RETURNING q.*, p.place, p.rank AS turn_rank, p.weight, p.seat
    )
    SELECT {claim}, turn_rank, tenant_id AS turn_tenant_id, weight AS turn_weight, seat AS turn_aged
    FROM taken ORDER BY place
"""


def count_window(limit: int) -> int:
    """Rows that a claim of up to `limit` rows looks at."""
    return limit + max(limit, _LEAST_SPARE)


def _wanted(rank: int) -> str:
    """How many rows of a class a claim looks at: what the earlier ones left open, or what is kept for aged rows."""
    if not rank:
        return "CAST(:window AS int)"
    earlier = " - ".join(f"(SELECT count(*) FROM heads_{before})" for before in range(rank))  # noqa: S608
    return f"greatest(:window - {earlier}, 2 * CAST(:reserved AS int))"


def _claim(routes: str, of: Sequence[int] = RANKS) -> str:
    ranks = ",".join(_OF_RANK.format(rank=rank, wanted=_wanted(rank)) for rank in of)
    claim = ", ".join("class AS job_class" if name == "job_class" else name for name in CLAIM_FIELDS)
    heads = " UNION ALL ".join(f"SELECT * FROM heads_{rank}" for rank in of)  # noqa: S608 - made of constants
    paused = "paused AS MATERIALIZED (SELECT tenant_id, model FROM pauses)"
    return f"WITH RECURSIVE {routes}, {paused}, {ranks}, {_TAKE.format(heads=heads, claim=claim)}"


CLAIM_ANY = text(_claim(_ANY_MODEL))
CLAIM_MODEL = text(_claim(_ONE_MODEL))
#: Rows of the first class alone: where none is due, it ends at its first probe of the index.
CLAIM_URGENT = text(_claim(_ONE_MODEL, RANKS[:1]))
#: Planned once a connection, not at each claim: planning would take longer than a small claim. The plan is then used
#: whatever is queued later, so only steps that cost as much for any backlog are allowed in it.
PLAN_ONCE = text("""
    SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
           set_config('enable_bitmapscan', 'off', true), set_config('enable_hashjoin', 'off', true),
           set_config('enable_mergejoin', 'off', true)
""")
