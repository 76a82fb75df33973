"""What devices keep for replicas, what earlier loads took, and what is known of a model's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.store.clean import clean_text

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Held:
    """A replica that has not ended, as far as its device's memory goes."""

    id: UUID
    host: str
    device: str
    worker: str
    model: str
    revision: str
    plan: dict[str, Any] | None
    planned_mib: int | None
    memory_mib: int | None
    pinned: bool
    deployment_id: UUID | None
    #: A word of `domain.replicas.ReplicaState`.
    state: str


@dataclass(frozen=True)
class Files:
    """A revision of a model: where its files are, and what its row keeps of them."""

    model: str
    revision: str
    path: str
    facts: dict[str, Any]


# A worker that was started by hand has no host in its row, but in its name.
_HELD = text("""
    SELECT r.id, coalesce(r.host, split_part(r.worker, '@', 2)) AS host, r.device, r.worker, r.model, r.revision,
        r.plan, r.planned_mib, r.memory_mib, coalesce(d.pinned, false) AS pinned,
        r.deployment_id, r.state
    FROM replicas r LEFT JOIN deployments d ON d.id = r.deployment_id
    WHERE r.ended_at IS NULL ORDER BY r.created_at, r.id
""")
_MEASURED = text("""
    SELECT memory_mib FROM replicas
    WHERE model = :model AND revision = :revision AND memory_mib > 0 AND split_part(device, ':', 1) = :kind
      AND plan ->> 'dtype' = :dtype AND plan ->> 'quantisation' = :quantisation AND plan ->> 'slots' = :slots
      AND coalesce(plan -> 'allowance' ->> 'copies', 'true') = 'true'
    ORDER BY ready_at DESC LIMIT 1
""")
_FILES = text("""
    SELECT m.name AS model, coalesce(v.revision, m.revision) AS revision,
        coalesce(nullif(v.path, ''), m.path) AS path,
        CASE WHEN v.facts ? 'memory' OR v.revision <> m.revision THEN v.facts ELSE m.facts END AS facts
    FROM models m
    LEFT JOIN model_revisions v ON v.model_id = m.id AND v.revision = coalesce(:revision, m.revision)
    WHERE m.name = :model AND (CAST(:revision AS text) IS NULL OR v.revision IS NOT NULL OR m.revision = :revision)
""")


def list_held(tx: Transaction) -> list[Held]:
    """Every replica that has not ended."""
    return [Held(**row._mapping) for row in tx.execute(_HELD)]


def find_measured(
    tx: Transaction, *, model: str, revision: str, kind: str, dtype: str, quantisation: str, slots: int
) -> int | None:
    """What the last load of this kind held when it was ready, in MiB; None where there was none."""
    values = {"model": clean_text(model), "revision": revision, "kind": kind, "dtype": dtype}
    values |= {"quantisation": quantisation, "slots": str(slots)}
    found: int | None = tx.execute(_MEASURED, values).scalar()
    return found


def find_files(tx: Transaction, model: str, revision: str | None = None) -> Files | None:
    """The files of a model's revision, by default of the one that is served. None where there is no such thing."""
    row = tx.execute(_FILES, {"model": clean_text(model), "revision": revision}).first()
    return Files(**row._mapping) if row else None
