"""The moves of a replica that a keeper started, each guarded by the state it may leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.replicas import MOVES, ReplicaState
from batchinfer.store.clean import as_jsonb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Assignment:
    """What a process is to load and do, as its row and its deployment say."""

    id: UUID
    worker: str
    model: str
    revision: str
    #: The revision's folder; empty where there is none.
    path: str
    facts: dict[str, Any]
    device: str
    state: str
    wanted: str
    ended: bool
    host: str | None
    deployment_id: UUID | None
    planned_mib: int | None
    engine: str = "auto"
    slots: int | None = None
    dtype: str = "auto"
    quantisation: str = "none"
    memory_mib: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    swap: dict[str, Any] | None = None
    #: Golden prompts that the deployment has, as they are stored.
    golden: list[dict[str, Any]] | None = None


_COLUMNS = """
    r.id, r.worker, r.model, r.revision, coalesce(nullif(v.path, ''), CASE WHEN m.revision = r.revision THEN m.path END,
        '') AS path,
    coalesce(v.facts, m.facts, '{}') AS facts, r.device, r.state, r.wanted, r.ended_at IS NOT NULL AS ended, r.host,
    r.deployment_id, r.planned_mib, coalesce(d.engine, 'auto') AS engine, d.slots, coalesce(d.dtype, 'auto') AS dtype,
    coalesce(d.quantisation, 'none') AS quantisation, d.memory_mib, coalesce(d.options, '{}') AS options,
    coalesce(d.priority, 0) AS priority, d.swap, d.golden
    FROM replicas r LEFT JOIN deployments d ON d.id = r.deployment_id LEFT JOIN models m ON m.name = r.model
    LEFT JOIN model_revisions v ON v.model_id = m.id AND v.revision = r.revision
"""
_FIND = text(f"SELECT {_COLUMNS} WHERE r.id = :id")
_OF_HOST = text(f"""
    SELECT {_COLUMNS} WHERE r.host = :host AND r.ended_at IS NULL ORDER BY coalesce(d.priority, 0) DESC, r.id
""")


def find_assignment(tx: Transaction, replica_id: UUID) -> Assignment | None:
    """What a replica is to do, also once it has ended."""
    row = tx.execute(_FIND, {"id": replica_id}).first()
    return Assignment(**row._mapping) if row else None


def list_of_host(tx: Transaction, host: str) -> list[Assignment]:
    """The replicas of a host that have not ended, the most urgent first."""
    return [Assignment(**row._mapping) for row in tx.execute(_OF_HOST, {"host": host})]


# The same state again is let through: an answer may be lost on its way.
_MOVE = text("""
    UPDATE replicas r SET state = :state,
        lease_id = coalesce(:lease_id, r.lease_id), engine = coalesce(nullif(:engine, ''), r.engine),
        error = coalesce(CAST(:error AS jsonb), r.error), memory_mib = coalesce(:memory_mib, r.memory_mib),
        verdict = coalesce(CAST(:verdict AS jsonb), r.verdict),
        phases = coalesce(CAST(:phases AS jsonb), r.phases), versions = coalesce(CAST(:versions AS jsonb), r.versions),
        ready_at = CASE WHEN :state = 'ready' THEN coalesce(r.ready_at, now()) ELSE r.ready_at END,
        ended_at = CASE WHEN :ends THEN coalesce(r.ended_at, now()) END
    FROM (SELECT id, state FROM replicas WHERE id = :id FOR UPDATE) b
    WHERE r.id = b.id AND (b.state = ANY (CAST(:before AS text[])))
    RETURNING b.state AS before, r.deployment_id, r.revision, r.wanted
""")


@dataclass(frozen=True)
class Moved:
    """A move that took place; `before` is the state that was left, the same one where it came a second time."""

    before: ReplicaState
    deployment_id: UUID | None
    revision: str
    wanted: str


@dataclass(frozen=True)
class News:
    """What is known of a replica with a move; None leaves what was known."""

    lease_id: UUID | None = None
    engine: str = ""
    error: dict[str, Any] | None = None
    memory_mib: int | None = None
    verdict: dict[str, Any] | None = None
    phases: dict[str, float] | None = None
    versions: dict[str, str] | None = None


def move(tx: Transaction, replica_id: UUID, state: ReplicaState, news: News) -> Moved | None:
    """Bring a replica to a state, if the table of moves allows it. None where it does not."""
    before = [source for source, targets in MOVES.items() if state in targets]
    values = {
        "id": replica_id, "state": state.value, "ends": state.is_terminal, "lease_id": news.lease_id,
        "engine": news.engine, "memory_mib": news.memory_mib,
        "before": [*(source.value for source in before), *([] if state.is_terminal else [state.value])],
        **{name: as_jsonb(getattr(news, name)) for name in ("error", "verdict", "phases", "versions")},
    }  # fmt: skip
    row = tx.execute(_MOVE, values).first()
    return Moved(ReplicaState(row.before), row.deployment_id, row.revision, row.wanted) if row else None


_NOTE_FAILURE = text("""
    UPDATE deployments d SET failures = d.failures + 1, error = :error,
        next_try_at = now() + make_interval(secs => (CAST(:pauses AS float[]))[least(d.failures + 1, :most)])
    FROM models m
    WHERE d.id = :id AND m.id = d.model_id AND coalesce(d.revision, m.revision) = :revision AND d.stopped_at IS NULL
    RETURNING d.failures
""")
_RESET = text("""
    UPDATE deployments SET failures = 0, next_try_at = NULL, error = NULL
    WHERE id = :id AND (failures > 0 OR next_try_at IS NOT NULL OR error IS NOT NULL)
""")


def note_failure(
    tx: Transaction, deployment_id: UUID, revision: str, error: dict[str, Any], pauses_s: Sequence[float]
) -> int:
    """A load failed: the next begins after the pause for so many failures. Answers how many they are in a row.

    0 where the revision is not the one that is served: what is tried out does not hold back what works.
    """
    values = {"id": deployment_id, "revision": revision, "error": as_jsonb(error), "pauses": list(pauses_s)}
    row = tx.execute(_NOTE_FAILURE, {**values, "most": len(pauses_s)}).first()
    return int(row.failures) if row else 0


def reset_failures(tx: Transaction, deployment_id: UUID) -> None:
    """A replica is ready: what failed before is forgotten."""
    tx.execute(_RESET, {"id": deployment_id})


_LIVE_IDS = text("SELECT id FROM replicas WHERE host = :host AND ended_at IS NULL ORDER BY id FOR UPDATE")
_PIDS = text("SELECT DISTINCT pid FROM leases WHERE host = :host AND NOT dead")


def list_live_ids(tx: Transaction, host: str) -> list[UUID]:
    """The replicas of a host that have not ended, locked."""
    return [row.id for row in tx.execute(_LIVE_IDS, {"host": host})]


def list_leased_pids(tx: Transaction, host: str) -> list[int]:
    """Processes of a host that hold a living lease."""
    return [row.pid for row in tx.execute(_PIDS, {"host": host})]


_END_UNSTARTED = text("""
    UPDATE replicas SET state = 'stopped', ended_at = now()
    WHERE worker = (SELECT worker FROM replicas WHERE id = :id) AND state = 'planned' AND ended_at IS NULL
    RETURNING id
""")
_RENEW = text("""
    INSERT INTO replicas (id, tenant_id, deployment_id, lease_id, host, worker, model, revision, engine, device, state,
        wanted, verdict, plan, planned_mib, memory_mib, phases, versions, ready_at)
    SELECT :new_id, :tenant_id, deployment_id, :lease_id, host, worker, model, revision, engine, device, 'ready',
        'serve', verdict, plan, planned_mib, memory_mib, phases, versions, now()
    FROM replicas WHERE id = :id AND state = 'failed' AND wanted <> 'drain'
    RETURNING id
""")


def renew(tx: Transaction, replica_id: UUID, lease_id: UUID) -> UUID | None:
    """A process whose lease was taken for dead goes on as a new replica, in place of one planned for its name.

    None where its replica did not fail, or was to go.
    """
    new = tx.execute(
        _RENEW, {"id": replica_id, "new_id": new_id(), "tenant_id": DEFAULT_TENANT, "lease_id": lease_id}
    ).scalar_one_or_none()
    if new is not None:
        tx.execute(_END_UNSTARTED, {"id": replica_id})
    return new
