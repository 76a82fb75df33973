"""What is wanted of models: deployments, written here alone. `store.swapping` has the steps of a swap."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.deployments import DEFAULTS
from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.store.clean import as_jsonb, clean_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Deployment:
    """A wish: so many replicas of a model's revision on a kind of device. Columns as in `fleet_tables`."""

    id: UUID
    model: str
    #: The folder of the revision that is served; empty where there is none.
    path: str
    #: Revision that is served: the deployment's own, else the model's.
    revision: str
    engine: str
    device: str
    replicas: int
    previous_revision: str | None = None
    next_revision: str | None = None
    swap: dict[str, Any] | None = None
    dtype: str = "auto"
    quantisation: str = "none"
    memory_mib: int | None = None
    slots: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    pinned: bool = False
    idle_s: int | None = None
    asleep: bool = False
    failures: int = 0
    next_try_at: datetime | None = None
    error: dict[str, Any] | None = None
    last_used_at: datetime | None = None
    created_at: datetime | None = None
    stopped_at: datetime | None = None
    #: The class of jobs that it is for, a word of `domain.jobs.JobClass`.
    job_class: str = "normal"
    #: None where it serves the model's own revision.
    own_revision: str | None = None
    #: How many golden prompts it has.
    goldens: int = 0


_COLUMNS = """
    d.id, m.name AS model, coalesce(nullif(v.path, ''), m.path) AS path, coalesce(d.revision, m.revision) AS revision,
    d.engine, d.device, d.replicas, d.previous_revision, d.next_revision, d.swap, d.dtype, d.quantisation, d.memory_mib,
    d.slots, d.options, d.labels, d.priority, d.pinned, d.idle_s, d.asleep, d.failures, d.next_try_at, d.error,
    d.last_used_at, d.created_at, d.stopped_at, d.class AS job_class, d.revision AS own_revision,
    jsonb_array_length(coalesce(d.golden, '[]')) AS goldens
    FROM deployments d JOIN models m ON m.id = d.model_id
    LEFT JOIN model_revisions v ON v.model_id = m.id AND v.revision = coalesce(d.revision, m.revision)
"""
_LIST = text(f"SELECT {_COLUMNS} WHERE d.stopped_at IS NULL ORDER BY d.priority DESC, d.id")
_OF_MODEL = text(f"SELECT {_COLUMNS} WHERE m.name = :model AND d.stopped_at IS NULL ORDER BY d.priority DESC, d.id")
_FIND = text(f"SELECT {_COLUMNS} WHERE d.id = :id")
_LOCK = text(f"SELECT {_COLUMNS} WHERE d.id = :id FOR UPDATE OF d")
_FIND_PLACED = text(f"""
    SELECT {_COLUMNS} WHERE m.name = :model AND d.device = :device AND d.stopped_at IS NULL FOR UPDATE OF d
""")
# The model's row is locked first, so that two calls at once make one deployment.
_LOCK_MODEL = text("SELECT id FROM models WHERE name = :name FOR UPDATE")
_INSERT = text("""
    INSERT INTO deployments (id, tenant_id, model_id, device, engine, revision, replicas, dtype, quantisation,
        memory_mib, slots, class, pinned, idle_s, priority, labels, options, last_used_at)
    VALUES (:id, :tenant_id, :model_id, :device, :engine, :revision, :replicas, :dtype, :quantisation,
        :memory_mib, :slots, :class, :pinned, :idle_s, :priority, :labels, :options, now())
""")
_CHANGE = text("""
    UPDATE deployments SET engine = :engine, replicas = :replicas, dtype = :dtype, quantisation = :quantisation,
        memory_mib = :memory_mib, slots = :slots, class = :class, pinned = :pinned, idle_s = :idle_s,
        priority = :priority, labels = :labels, options = :options
    WHERE id = :id
""")
_STOP = text("""
    UPDATE deployments SET stopped_at = now(), next_revision = NULL, swap = :swap
    WHERE id = :id AND stopped_at IS NULL
""")
# The next load begins at once, whatever became of those before it.
_RESUME = text("""
    UPDATE deployments SET failures = 0, next_try_at = NULL, error = NULL, asleep = false, last_used_at = now()
    WHERE id = :id AND stopped_at IS NULL
""")
_GOLDEN = text("""
    UPDATE deployments SET golden = CAST(:golden AS jsonb)
    WHERE id = :id AND coalesce(golden, '[]') <> CAST(:golden AS jsonb)
""")
_SHRINK = text("UPDATE deployments SET replicas = :replicas WHERE id = :id")


def list_wanted(tx: Transaction) -> list[Deployment]:
    """What is wanted, the most urgent first."""
    return [Deployment(**row._mapping) for row in tx.execute(_LIST)]


def list_of_model(tx: Transaction, model: str) -> Sequence[Deployment]:
    """The deployments of a model that are not stopped."""
    return [Deployment(**row._mapping) for row in tx.execute(_OF_MODEL, {"model": clean_text(model)})]


def lock_deployment(tx: Transaction, deployment_id: UUID) -> Deployment | None:
    """A deployment, locked until the transaction's end: two operators at once come one after the other."""
    row = tx.execute(_LOCK, {"id": deployment_id}).first()
    return Deployment(**row._mapping) if row else None


def find_deployment(tx: Transaction, deployment_id: UUID) -> Deployment | None:
    """A deployment, one that was stopped too, or None."""
    row = tx.execute(_FIND, {"id": deployment_id}).first()
    return Deployment(**row._mapping) if row else None


def lock_model(tx: Transaction, model: str) -> UUID | None:
    """A model, locked until the transaction's end: two calls at once make one deployment. None where there is none."""
    found: UUID | None = tx.execute(_LOCK_MODEL, {"name": clean_text(model)}).scalar_one_or_none()
    return found


def lock_placed(tx: Transaction, model: str, device: str) -> Deployment | None:
    """The deployment of a model on a device that is not stopped, locked. The caller holds the model."""
    row = tx.execute(_FIND_PLACED, {"model": clean_text(model), "device": device}).first()
    return Deployment(**row._mapping) if row else None


def insert_deployment(
    tx: Transaction, deployment_id: UUID, model_id: UUID, device: str, columns: Mapping[str, Any]
) -> None:
    """Want a model on a device. `columns` are those of `domain.deployments.DEFAULTS`; the caller holds the model."""
    values = {"id": deployment_id, "tenant_id": DEFAULT_TENANT, "model_id": model_id, "device": device}
    tx.execute(_INSERT, values | _as_values(columns))


def change_deployment(tx: Transaction, deployment_id: UUID, columns: Mapping[str, Any]) -> None:
    """Set every column of `domain.deployments.DEFAULTS` but the revision, which a swap alone changes."""
    tx.execute(_CHANGE, {"id": deployment_id} | _as_values(columns))


def stop_deployment(tx: Transaction, deployment_id: UUID, swap: dict[str, Any] | None) -> bool:
    """Want it no more; `swap` is the last word of one that was under way. False where it was stopped before."""
    return tx.execute(_STOP, {"id": deployment_id, "swap": as_jsonb(swap)}).rowcount == 1


def resume_deployment(tx: Transaction, deployment_id: UUID) -> bool:
    """Forget the loads that failed, and wake it up. False where it is stopped."""
    return tx.execute(_RESUME, {"id": deployment_id}).rowcount == 1


def set_golden(tx: Transaction, deployment_id: UUID, golden: Sequence[Mapping[str, Any]]) -> bool:
    """Give it other golden prompts, with their pictures' SHA-256. False where it has these."""
    return tx.execute(_GOLDEN, {"id": deployment_id, "golden": as_jsonb(list(golden))}).rowcount == 1


def shrink_deployment(tx: Transaction, deployment_id: UUID, replicas: int) -> None:
    """Want so many replicas."""
    tx.execute(_SHRINK, {"id": deployment_id, "replicas": replicas})


def read_columns(deployment: Deployment) -> dict[str, Any]:
    """Its columns as `domain.deployments.DEFAULTS` names them."""
    found = {name: getattr(deployment, name) for name in DEFAULTS if name not in ("class", "revision")}
    return {**found, "class": deployment.job_class, "revision": deployment.own_revision}


def ensure_deployment(tx: Transaction, *, model: str, engine: str, device: str, replicas: int) -> UUID | None:
    """Want a model on a device: one deployment a (model, device). None where there is no such model."""
    model_id = lock_model(tx, model)
    if model_id is None:
        return None
    asked = {"engine": engine, "replicas": replicas}
    present = lock_placed(tx, model, device)
    if present is not None:
        change_deployment(tx, present.id, read_columns(present) | asked)
        return present.id
    deployment_id = new_id()
    insert_deployment(tx, deployment_id, model_id, device, DEFAULTS | asked)
    return deployment_id


def _as_values(columns: Mapping[str, Any]) -> dict[str, Any]:
    """With its objects as JSON."""
    return {**columns, "labels": as_jsonb(columns["labels"]), "options": as_jsonb(columns["options"])}
