"""Fetching of revisions: registered, queued, noted while it goes, and ended; what is in use, so that it is not pruned.

Each change of state is guarded by the state that it leaves, as `domain/registry.py` has it; what a worker writes, by
its queue row as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.registry import TRANSITIONS, list_sources
from batchinfer.store import endings
from batchinfer.store.claims import FETCH
from batchinfer.store.clean import as_jsonb, clean_text
from batchinfer.store.events import Event, record
from batchinfer.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from batchinfer.store.claims import Claim
    from batchinfer.store.revisions import Revision
    from batchinfer.store.session import Transaction

_CLASS = JobClass.NORMAL
# The model's row says what is served; the first revision of a name is that, until somebody launches another one.
_MODEL = text("""
    INSERT INTO models (id, tenant_id, name, revision, path, facts)
    VALUES (:id, :tenant_id, :name, :revision, '', :facts) ON CONFLICT (name) DO NOTHING
""")
# What is here, or on its way, stays as it was listed.
_REVISION = text("""
    INSERT INTO model_revisions AS v (id, tenant_id, model_id, revision, source, files, size_bytes, facts)
    SELECT :id, :tenant_id, m.id, :revision, :source, :files, :size_bytes, :facts FROM models m WHERE m.name = :name
    ON CONFLICT (model_id, revision) DO UPDATE SET source = excluded.source, files = excluded.files,
        size_bytes = excluded.size_bytes, facts = excluded.facts
    WHERE v.state = ANY (CAST(:from_states AS text[]))
""")


def register(
    tx: Transaction,
    name: str,
    revision: str,
    *,
    source: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Make a revision known with its files; the same again renews what is known of one that is not here."""
    values = {"name": clean_text(name), "revision": revision, "tenant_id": DEFAULT_TENANT, "facts": as_jsonb(facts)}
    tx.execute(_MODEL, {"id": new_id(), **values})
    more = {"source": as_jsonb(source), "files": as_jsonb(list(files)), "from_states": list_sources("fetch")}
    size_bytes = sum(int(file["size"]) for file in files)
    tx.execute(_REVISION, {"id": new_id(), **values, **more, "size_bytes": size_bytes})


_BEGIN = text("""
    UPDATE model_revisions SET state = :to_state, error = NULL, progress = NULL, pruned_at = NULL
    WHERE id = :id AND state = ANY (CAST(:from_states AS text[])) RETURNING id
""")
# A row that was queued before goes on counting its tries from there: each has its number.
_ENQUEUE = text(f"""
    INSERT INTO queue (id, kind, subject_id, tenant_id, model, class, rank, attempt, released, schema_version)
    SELECT :id, '{FETCH}', :id, :tenant_id, '{FETCH}', :class, :rank, a.last, a.last, :version
    FROM (SELECT coalesce(max(number), 0) AS last FROM attempts WHERE job_id = :id) AS a
    ON CONFLICT (id) DO NOTHING
""")  # noqa: S608 - made of constants


def begin(tx: Transaction, revision: Revision, actor: str) -> bool:
    """Have the files of a revision fetched. False where they are here or on their way already."""
    if tx.execute(_BEGIN, {"id": revision.id, **_move("fetch")}).first() is None:
        return False
    _enqueue(tx, revision)
    note(tx, revision, "fetching", actor, bytes=revision.size_bytes)
    return True


def _enqueue(tx: Transaction, revision: Revision) -> None:
    values = {"class": _CLASS.value, "rank": _CLASS.rank, "version": SCHEMA_VERSION}
    tx.execute(_ENQUEUE, {"id": revision.id, "tenant_id": DEFAULT_TENANT, **values})


_CANCEL = text("""
    UPDATE model_revisions SET state = :to_state, progress = NULL
    WHERE id = :id AND state = ANY (CAST(:from_states AS text[])) RETURNING id
""")
_CANCEL_CHECK = text("""
    UPDATE model_revisions SET progress = NULL, fetched_bytes = size_bytes
    WHERE id = :id AND state = ANY (CAST(:from_states AS text[])) AND progress IS NOT NULL
""")


def cancel(tx: Transaction, revision: Revision, actor: str) -> bool:
    """End a fetch that was asked for, or the reading of files that are here; what has come is kept for the next one.
    False where no fetch is under way."""
    endings.cancel(tx, DEFAULT_TENANT, [revision.id], kinds=(FETCH,), actor=actor)
    tx.execute(_CANCEL_CHECK, {"id": revision.id, **_move("verify")})
    return tx.execute(_CANCEL, {"id": revision.id, **_move("cancel")}).first() is not None


# What is under way has a progress: the state says already what is here.
_BEGIN_CHECK = text("""
    UPDATE model_revisions SET progress = '{}', error = NULL
    WHERE id = :id AND state = ANY (CAST(:from_states AS text[])) AND progress IS NULL RETURNING id
""")


def begin_check(tx: Transaction, revision: Revision) -> bool:
    """Have files that are here read again, by a row of kind `fetch`. False where that is under way, or they are not
    here."""
    if tx.execute(_BEGIN_CHECK, {"id": revision.id, **_move("verify")}).first() is None:
        return False
    _enqueue(tx, revision)
    return True


_FENCED = f"""
    FROM queue q WHERE v.id = :id AND q.id = v.id AND q.kind = '{FETCH}' AND q.state = 'running'
      AND q.attempt = :attempt AND q.lease_id IS NOT DISTINCT FROM CAST(:lease_id AS uuid)
      AND v.state = ANY (CAST(:from_states AS text[]))
"""
_PROGRESS = text(f"""
    UPDATE model_revisions v SET fetched_bytes = :fetched_bytes, progress = :progress, error = :error {_FENCED}
""")  # noqa: S608 - made of constants
_ARRIVE = text(f"""
    UPDATE model_revisions v SET state = :to_state, path = :path, files = :files, size_bytes = :size_bytes,
        fetched_bytes = :size_bytes, facts = :facts, fetched_at = now(), checked_at = now(), verified_at = NULL,
        progress = NULL, error = NULL {_FENCED}
""")  # noqa: S608 - made of constants
_CHECKED = text(f"""
    UPDATE model_revisions v SET files = :files, size_bytes = :size_bytes, fetched_bytes = :size_bytes,
        checked_at = now(), progress = NULL, error = NULL {_FENCED}
""")  # noqa: S608 - made of constants
_SERVE = text("""
    UPDATE models m SET path = v.path, facts = v.facts
    FROM model_revisions v WHERE v.id = :id AND m.id = v.model_id AND m.revision = v.revision
""")


def save_progress(
    tx: Transaction,
    claim: Claim,
    fetched_bytes: int,
    progress: Mapping[str, Any] | None,
    error: Mapping[str, Any] | None = None,
    *,
    verb: str = "arrive",
) -> bool:
    """Note how far a fetch is (or, with `verb` verify, the reading of what is here), and what it waits for. False where
    the fence refused."""
    values = {"fetched_bytes": fetched_bytes, "progress": as_jsonb(progress), "error": as_jsonb(error)}
    return tx.execute(_PROGRESS, {**_fence(claim, verb), **values}).rowcount == 1


def arrive(
    tx: Transaction, claim: Claim, *, path: str, files: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> bool:
    """All files are here. False where the fence refused. The caller ends the queue row in the same transaction."""
    size_bytes = sum(int(file["size"]) for file in files)
    values = {"path": path, "files": as_jsonb(list(files)), "facts": as_jsonb(facts), "size_bytes": size_bytes}
    if tx.execute(_ARRIVE, {**_fence(claim, "arrive"), **values}).rowcount != 1:
        return False
    tx.execute(_SERVE, {"id": claim.subject_id})
    return True


def mark_checked(tx: Transaction, claim: Claim, files: Sequence[Mapping[str, Any]]) -> bool:
    """All files are what they should be; its state stays. False where the fence refused."""
    size_bytes = sum(int(file["size"]) for file in files)
    values = {"files": as_jsonb(list(files)), "size_bytes": size_bytes}
    return tx.execute(_CHECKED, {**_fence(claim, "verify"), **values}).rowcount == 1


_VERIFY = text("""
    UPDATE model_revisions SET state = :to_state, files = :files, verified_at = now(), checked_at = now(), error = NULL
    WHERE id = :id AND state = ANY (CAST(:from_states AS text[])) RETURNING id
""")
_FAIL = text("""
    UPDATE model_revisions SET state = :to_state, error = :error, progress = NULL
    WHERE id = :id AND state = ANY (CAST(:from_states AS text[])) RETURNING id
""")


def mark_verified(tx: Transaction, revision_id: UUID, files: Sequence[Mapping[str, Any]]) -> bool:
    """Its files are what they were and its self-test passed. False where it is no longer here."""
    values = {"id": revision_id, "files": as_jsonb(list(files)), **_move("verify")}
    return tx.execute(_VERIFY, values).first() is not None


def mark_failed(tx: Transaction, revision_id: UUID, error: Mapping[str, Any]) -> bool:
    """Its files are not what they were. False where that was known."""
    return tx.execute(_FAIL, {"id": revision_id, "error": as_jsonb(error), **_move("fail")}).first() is not None


_LOCK_MODEL = text("SELECT id FROM models WHERE name = :name FOR UPDATE")
_USED = text("""
    SELECT DISTINCT ON (revision) revision, why FROM (
        SELECT coalesce(d.revision, m.revision) AS revision, 'served' AS why, 1 AS rank
        FROM deployments d JOIN models m ON m.id = d.model_id WHERE m.name = :name AND d.stopped_at IS NULL
        UNION ALL
        SELECT d.next_revision, 'swapped_in', 2
        FROM deployments d JOIN models m ON m.id = d.model_id WHERE m.name = :name AND d.stopped_at IS NULL
        UNION ALL
        SELECT d.previous_revision, 'rolled_back_to', 3
        FROM deployments d JOIN models m ON m.id = d.model_id WHERE m.name = :name AND d.stopped_at IS NULL
        UNION ALL
        SELECT r.revision, 'loaded', 4 FROM replicas r WHERE r.model = :name AND r.ended_at IS NULL
        UNION ALL
        SELECT m.revision, 'default', 5 FROM models m WHERE m.name = :name
    ) AS used WHERE revision IS NOT NULL AND revision <> '' ORDER BY revision, rank
""")
_PRUNE = text("""
    UPDATE model_revisions SET state = :to_state, path = '', fetched_bytes = 0, pruned_at = now(), error = NULL,
        progress = NULL, fetched_at = NULL, verified_at = NULL, checked_at = NULL
    WHERE id = :id AND state = ANY (CAST(:from_states AS text[])) RETURNING id
""")


def lock_model(tx: Transaction, name: str) -> None:
    """Keep launches of a model waiting until this transaction ends."""
    tx.execute(_LOCK_MODEL, {"name": clean_text(name)})


def list_used(tx: Transaction, name: str) -> dict[str, str]:
    """Revisions of a model that somebody needs, each with why: served, swapped_in, rolled_back_to, loaded, or default:
    what a launch takes that names none."""
    return {row.revision: row.why for row in tx.execute(_USED, {"name": clean_text(name)})}


def mark_pruned(tx: Transaction, revision_id: UUID) -> bool:
    """Its files are about to go. False where they are just being fetched."""
    return tx.execute(_PRUNE, {"id": revision_id, **_move("prune")}).first() is not None


def note(tx: Transaction, revision: Revision, event: str, actor: str, **data: Any) -> None:
    """Write an event of a revision."""
    told = {"model": revision.model, "revision": revision.revision, **data}
    record(tx, [Event(DEFAULT_TENANT, "model", revision.id, event, actor, told)])


def _move(verb: str) -> dict[str, Any]:
    return {"from_states": list_sources(verb), "to_state": TRANSITIONS[verb][1].value}


def _fence(claim: Claim, verb: str) -> dict[str, Any]:
    return {"id": claim.id, "attempt": claim.attempt, "lease_id": claim.lease_id, **_move(verb)}
