"""Webhook endpoints: kept, changed, and how they fare. An endpoint that fails holds back what waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.webhooks import FIRST_PAUSE_S, LEAST_FAILURES, LONGEST_PAUSE_S, SPARED_FAILURES, Endpoint
from batchinfer.store.clean import as_jsonb
from batchinfer.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.domain.webhooks import EndpointRequest
    from batchinfer.store.session import Transaction

_COLUMNS = """id, tenant_id, name, url, event_types, secret, created_at, updated_at, old_secret, old_secret_until,
    failures, failing_since, held_until, coalesce(held_until > now(), false) AS held, disabled_at, disabled_reason,
    last_error"""
_INSERT = text("""
    INSERT INTO webhook_endpoints (id, tenant_id, name, url, event_types, secret, give_up_s, schema_version)
    VALUES (:id, :tenant_id, :name, :url, CAST(:event_types AS text[]), :secret, :give_up_s, :version)
""")
_MINE = "WHERE id = :id AND tenant_id = :tenant_id"
_FIND = text(f"SELECT {_COLUMNS} FROM webhook_endpoints {_MINE}")  # noqa: S608
_COUNT = text("SELECT count(*) FROM webhook_endpoints WHERE tenant_id = :tenant_id")
_CHANGE = text(f"""
    UPDATE webhook_endpoints SET name = coalesce(:name, name), url = coalesce(:url, url),
        event_types = coalesce(CAST(:event_types AS text[]), event_types), updated_at = now()
    {_MINE} AND (name, url, event_types)
        IS DISTINCT FROM (coalesce(:name, name), coalesce(:url, url),
                          coalesce(CAST(:event_types AS text[]), event_types))
    RETURNING id
""")  # noqa: S608
_ROTATE = text(f"""
    UPDATE webhook_endpoints SET old_secret = CASE WHEN :overlap_h > 0 THEN secret END,
        old_secret_until = CASE WHEN :overlap_h > 0 THEN now() + make_interval(hours => :overlap_h) END,
        secret = :secret, updated_at = now()
    {_MINE} RETURNING id
""")  # noqa: S608
_DELETE = text(f"DELETE FROM webhook_endpoints {_MINE} RETURNING id")  # noqa: S608
_WELL = "failures = 0, failing_since = NULL, held_until = NULL"
_ENABLE = text(f"""
    UPDATE webhook_endpoints SET disabled_at = NULL, disabled_reason = NULL, last_error = NULL, {_WELL}
    {_MINE} RETURNING id
""")  # noqa: S608
_TAKEN = text(f"""
    UPDATE webhook_endpoints SET {_WELL} WHERE id = :id AND disabled_at IS NULL AND failures > 0 RETURNING id
""")  # noqa: S608
# A pause begins with the failure that is one too many, and does not grow while it lasts: what was under way together
# fails together.
_FAILED = text("""
    WITH seen AS (
        SELECT id, failures + 1 AS failures, coalesce(failing_since, now()) AS failing_since,
            disabled_at IS NULL AND :gone AS gone,
            disabled_at IS NULL AND failures + 1 >= :least
                AND coalesce(failing_since, now()) < now() - make_interval(secs => :patience_s) AS failing,
            failures + 1 > :spared AND coalesce(held_until, now()) <= now() AS pausing
        FROM webhook_endpoints WHERE id = :id FOR UPDATE)
    UPDATE webhook_endpoints e SET failures = s.failures, failing_since = s.failing_since, last_error = :error,
        disabled_at = CASE WHEN s.gone OR s.failing THEN now() ELSE e.disabled_at END,
        disabled_reason = CASE WHEN s.gone THEN 'gone' WHEN s.failing THEN 'failing' ELSE e.disabled_reason END,
        held_until = CASE WHEN s.gone OR s.failing THEN now() + interval '100 years'
            WHEN :pause_s > 0 THEN greatest(e.held_until, now() + make_interval(secs => :pause_s))
            WHEN s.pausing THEN now() + make_interval(secs =>
                least(:longest_s, :first_s * 2 ^ least(s.failures - :spared - 1, 30)) * (0.5 + random() / 2))
            ELSE e.held_until END
    FROM seen s WHERE e.id = s.id
    RETURNING e.tenant_id, s.gone OR s.failing AS disabled, e.disabled_reason
""")
_LIVE = """FROM outbox o, webhook_endpoints e
    WHERE o.id = q.id AND o.endpoint_id = e.id AND o.final_state IS NULL AND q.kind = 'deliver'
      AND q.state = 'queued'"""
_HOLD = text(f"""
    UPDATE queue q SET available_at = e.held_until {_LIVE}
      AND e.id = :id AND e.held_until > now() AND q.available_at < e.held_until
""")  # noqa: S608
_HOLD_ROWS = text(f"""
    UPDATE queue q SET available_at = e.held_until {_LIVE}
      AND q.id = ANY (CAST(:ids AS uuid[])) AND e.held_until > now() AND q.available_at < e.held_until
""")  # noqa: S608
_LET_GO = text(f"""
    UPDATE queue q SET available_at = now() {_LIVE} AND e.id = :id AND q.available_at > now() RETURNING q.id
""")  # noqa: S608
_DROP = text("""
    WITH gone AS (
        DELETE FROM queue q USING outbox o
        WHERE o.id = q.id AND o.endpoint_id = :id AND o.final_state IS NULL AND q.kind = 'deliver')
    UPDATE outbox SET final_state = 'cancelled', finished_at = now(), error = :error
    WHERE endpoint_id = :id AND final_state IS NULL
""")
_GIVE_UP = text("UPDATE webhook_endpoints SET give_up_s = :give_up_s WHERE give_up_s <> :give_up_s")


@dataclass(frozen=True)
class Setback:
    """What a failure did to an endpoint: `disabled` now, and why."""

    tenant_id: UUID
    disabled: bool
    disabled_reason: str | None


def insert_endpoint(
    tx: Transaction, endpoint_id: UUID, tenant_id: UUID, request: EndpointRequest, *, secret: str, give_up_s: int
) -> None:
    """Keep a new endpoint; every field of the request is there."""
    values = {
        "id": endpoint_id, "tenant_id": tenant_id, "name": request.name, "url": request.url,
        "event_types": list(request.event_types or ()), "secret": secret, "give_up_s": give_up_s,
        "version": SCHEMA_VERSION,
    }  # fmt: skip
    tx.execute(_INSERT, values)


def find_endpoint(tx: Transaction, tenant_id: UUID, endpoint_id: UUID) -> Endpoint | None:
    """A tenant's endpoint, or None."""
    row = tx.execute(_FIND, {"id": endpoint_id, "tenant_id": tenant_id}).first()
    return _as_endpoint(row) if row else None


def count_endpoints(tx: Transaction, tenant_id: UUID) -> int:
    """How many a tenant has."""
    number: int = tx.execute(_COUNT, {"tenant_id": tenant_id}).scalar_one()
    return number


def list_endpoints(tx: Transaction, tenant_id: UUID, *, after: UUID | None = None, limit: int = 20) -> list[Endpoint]:
    """A tenant's endpoints, newest first, beginning below the id `after`."""
    bound = "AND id < :after" if after else ""
    statement = text(
        f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE tenant_id = :tenant_id {bound} ORDER BY id DESC LIMIT :limit"  # noqa: S608
    )
    cursor = {"after": after} if after else {}
    return [_as_endpoint(row) for row in tx.execute(statement, {"tenant_id": tenant_id, "limit": limit, **cursor})]


def change_endpoint(tx: Transaction, tenant_id: UUID, endpoint_id: UUID, request: EndpointRequest) -> bool:
    """Change what is not None. False where nothing is other than before, or the endpoint is not there."""
    types = None if request.event_types is None else list(request.event_types)
    values = {"id": endpoint_id, "tenant_id": tenant_id, "name": request.name, "url": request.url}
    return tx.execute(_CHANGE, {**values, "event_types": types}).first() is not None


def rotate_secret(tx: Transaction, tenant_id: UUID, endpoint_id: UUID, secret: str, *, overlap_h: int) -> bool:
    """Give it another secret; the former one signs too for `overlap_h` hours. False where it is not there."""
    values = {"id": endpoint_id, "tenant_id": tenant_id, "secret": secret, "overlap_h": overlap_h}
    return tx.execute(_ROTATE, values).first() is not None


def delete_endpoint(tx: Transaction, tenant_id: UUID, endpoint_id: UUID, *, error: dict[str, Any]) -> bool:
    """Forget it, and end what waits for it with that error. False where it is not there."""
    if tx.execute(_DELETE, {"id": endpoint_id, "tenant_id": tenant_id}).first() is None:
        return False
    tx.execute(_DROP, {"id": endpoint_id, "error": as_jsonb(error)})
    return True


def enable_endpoint(tx: Transaction, tenant_id: UUID, endpoint_id: UUID) -> list[UUID] | None:
    """Send to it again: the ids of what waited for that. None where it is not there."""
    if tx.execute(_ENABLE, {"id": endpoint_id, "tenant_id": tenant_id}).first() is None:
        return None
    return list(tx.execute(_LET_GO, {"id": endpoint_id}).scalars())


def note_taken(tx: Transaction, endpoint_id: UUID) -> list[UUID]:
    """It took a delivery: whatever was held back for its failures may go. Answers the ids of that."""
    if tx.execute(_TAKEN, {"id": endpoint_id}).first() is None:
        return []
    return list(tx.execute(_LET_GO, {"id": endpoint_id}).scalars())


def note_failure(
    tx: Transaction, endpoint_id: UUID, *, error: dict[str, Any], gone: bool, pause_s: float, patience_s: float
) -> Setback | None:
    """It did not take a delivery. Pauses it for `pause_s`, or after some failures in a row; disables it after long, or
    at once where it is `gone`; what waits for it is held back. None where it is not there."""
    values = {
        "id": endpoint_id, "error": as_jsonb(error), "gone": gone,
        "pause_s": float(pause_s), "patience_s": float(patience_s),
        "least": LEAST_FAILURES, "spared": SPARED_FAILURES, "first_s": FIRST_PAUSE_S, "longest_s": LONGEST_PAUSE_S,
    }  # fmt: skip
    row = tx.execute(_FAILED, values).first()
    tx.execute(_HOLD, {"id": endpoint_id})
    return Setback(**row._mapping) if row else None


def hold_rows(tx: Transaction, ids: Sequence[UUID]) -> None:
    """Let these waiting deliveries wait as long as their endpoints are paused."""
    tx.execute(_HOLD_ROWS, {"ids": list(ids)})


def keep_give_up(tx: Transaction, give_up_s: int) -> None:
    """The setting has changed."""
    tx.execute(_GIVE_UP, {"give_up_s": give_up_s})


def _as_endpoint(row: Row[Any]) -> Endpoint:
    return Endpoint(**{**row._mapping, "event_types": tuple(row.event_types)})
