"""Samples of runs and what people said of their pages; golden prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from batchinfer.domain.review import Golden, Review, Verdict
from batchinfer.domain.runs import BLANK_ENGINE
from batchinfer.store.clean import as_jsonb, clean_text
from batchinfer.store.columns import SCHEMA_VERSION

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Row

    from batchinfer.domain.review import Judgement
    from batchinfer.store.session import Transaction

# Pages that ended ok or with the file's own text: of a blank one a look at the page decided, no answer was given. The
# k pages with the smallest hashes are a random sample of k (a bottom-k sketch: Cohen and Kelley, "Summarizing Data
# using Bottom-k Sketches", 2007); a larger one holds the smaller, and no list of all pages is needed to draw it.
_CANDIDATES = text(f"""
    SELECT encode(sha256(convert_to(:seed || replace(CAST(j.id AS text), '-', ''), 'UTF8')), 'hex') AS rank, j.id
    FROM jobs j JOIN results r ON r.job_id = j.id
    WHERE j.batch_id = :run_id AND j.line > :after AND j.line <= :upto AND j.final_state = 'succeeded'
      AND j.page IS NOT NULL AND j.deleted_at IS NULL AND r.engine <> '{BLANK_ENGINE}'
    ORDER BY rank LIMIT :size
""")  # noqa: S608 - made of constants
_ADD = text("""
    WITH fresh AS (
        SELECT g.id, row_number() OVER (ORDER BY g.place) AS place
        FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS g (id, place)
        WHERE NOT EXISTS (SELECT 1 FROM reviews v WHERE v.run_id = :run_id AND v.job_id = g.id)),
    there AS (SELECT coalesce(max(number), 0) AS number FROM reviews WHERE run_id = :run_id)
    INSERT INTO reviews (run_id, job_id, number, tenant_id, schema_version)
    SELECT :run_id, f.id, t.number + f.place, :tenant_id, :version
    FROM fresh f, there t WHERE t.number + f.place <= :size ON CONFLICT DO NOTHING RETURNING job_id
""")
_COLUMNS = """
    v.job_id, v.number, j.document_id, d.filename AS name, j.page, j.model, r.text, r.engine, j.prompt, v.verdict,
    v.note, v.actor, v.golden, v.judged_at"""
_SOURCE = """
    reviews v LEFT JOIN jobs j ON j.id = v.job_id AND j.deleted_at IS NULL LEFT JOIN results r ON r.job_id = j.id
    LEFT JOIN documents d ON d.id = j.document_id"""
_FIND = text(f"""
    SELECT {_COLUMNS} FROM {_SOURCE} WHERE v.run_id = :run_id AND v.job_id = :job_id AND v.tenant_id = :tenant_id
""")  # noqa: S608 - made of constants
_LIST = f"""
    SELECT {_COLUMNS} FROM {_SOURCE} WHERE v.run_id = :run_id AND v.number > :after {{bound}}
    ORDER BY v.number LIMIT :limit
"""  # noqa: S608
_NUMBER = text("SELECT number FROM reviews WHERE run_id = :run_id AND job_id = :job_id")
_BEFORE = text("SELECT job_id FROM reviews WHERE run_id = :run_id AND number < :number ORDER BY number DESC LIMIT 1")
_JUDGE = text("""
    UPDATE reviews SET verdict = :verdict, note = :note, actor = :actor,
        judged_at = CASE WHEN CAST(:verdict AS text) IS NULL THEN NULL ELSE now() END
    WHERE run_id = :run_id AND job_id = :job_id AND tenant_id = :tenant_id RETURNING job_id
""")
_COUNT = text("""
    SELECT count(*) AS sampled, count(verdict) AS judged, count(*) FILTER (WHERE verdict = 'right') AS right
    FROM reviews WHERE run_id = :run_id
""")


def list_candidates(tx: Transaction, run_id: UUID, *, after: int, upto: int, size: int) -> list[tuple[str, UUID]]:
    """(hash, page) of the `size` pages with the smallest hashes among lines behind `after` up to `upto`, in order."""
    values = {"run_id": run_id, "seed": run_id.hex, "after": after, "upto": upto, "size": size}
    return [(row.rank, row.id) for row in tx.execute(_CANDIDATES, values)]


def add_pages(tx: Transaction, tenant_id: UUID, run_id: UUID, ids: list[UUID]) -> int:
    """Let these pages be the sample of a run, in this order; those that are in it stay where they are. The caller holds
    the run. Answers how many are new."""
    values = {"run_id": run_id, "ids": ids, "size": len(ids), "tenant_id": tenant_id, "version": SCHEMA_VERSION}
    return len(list(tx.execute(_ADD, values))) if ids else 0


def find_review(tx: Transaction, tenant_id: UUID, run_id: UUID, job_id: UUID) -> Review | None:
    """A page of a run's sample, or None."""
    row = tx.execute(_FIND, {"tenant_id": tenant_id, "run_id": run_id, "job_id": job_id}).first()
    return _as_review(row) if row else None


def find_number(tx: Transaction, run_id: UUID, job_id: UUID) -> int | None:
    """The place of a page in the sample; None where it is none of it."""
    number: int | None = tx.execute(_NUMBER, {"run_id": run_id, "job_id": job_id}).scalar_one_or_none()
    return number


def find_before(tx: Transaction, run_id: UUID, number: int) -> UUID | None:
    """The page before a place in the sample; None at its beginning."""
    job_id: UUID | None = tx.execute(_BEFORE, {"run_id": run_id, "number": number}).scalar_one_or_none()
    return job_id


def list_reviews(
    tx: Transaction, run_id: UUID, *, after: int = 0, verdict: str | None = None, limit: int = 20
) -> list[Review]:
    """A run's sample in the order of its drawing, behind number `after`; `verdict` is right, wrong, or none."""
    bounds = {None: "", "none": "AND v.verdict IS NULL"}
    bound = bounds.get(verdict, "AND v.verdict = :verdict")
    values: dict[str, Any] = {"run_id": run_id, "after": after, "limit": limit}
    if verdict not in bounds:
        values["verdict"] = verdict
    return [_as_review(row) for row in tx.execute(text(_LIST.format(bound=bound)), values)]


def judge(tx: Transaction, tenant_id: UUID, run_id: UUID, job_id: UUID, judgement: Judgement, actor: str) -> bool:
    """Note what a person says of a page, over what was said before. False where it is not in the sample."""
    values = {
        "tenant_id": tenant_id, "run_id": run_id, "job_id": job_id, "verdict": judgement.verdict,
        "note": None if judgement.note is None else clean_text(judgement.note), "actor": clean_text(actor),
    }  # fmt: skip
    return tx.execute(_JUDGE, values).first() is not None


def count_verdicts(tx: Transaction, run_id: UUID) -> dict[str, int]:
    """{"sampled", "judged", "right"} of a run."""
    return {name: int(value) for name, value in tx.execute(_COUNT, {"run_id": run_id}).one()._mapping.items()}


def _as_review(row: Row[Any]) -> Review:
    verdict = None if row.verdict is None else Verdict(row.verdict)
    return Review(**{**row._mapping, "verdict": verdict, "prompt": row.prompt or {}})


_GOLDEN_COLUMNS = "id, tenant_id, job_id, run_id, model, prompt, blob, answer, actor, created_at"
_KEEP = text(f"""
    INSERT INTO goldens (id, tenant_id, job_id, run_id, model, prompt, blob, answer, actor, schema_version)
    VALUES (:id, :tenant_id, :job_id, :run_id, :model, :prompt, :blob, :answer, :actor, :version)
    ON CONFLICT (job_id) DO UPDATE SET answer = excluded.answer, actor = excluded.actor
    RETURNING {_GOLDEN_COLUMNS}
""")  # noqa: S608 - made of constants
_MARK = text("UPDATE reviews SET golden = :golden WHERE job_id = :job_id AND tenant_id = :tenant_id")
_LIST_GOLDENS = (
    f"SELECT {_GOLDEN_COLUMNS} FROM goldens WHERE tenant_id = :tenant_id {{bound}} ORDER BY id DESC LIMIT :limit"  # noqa: S608
)
_DROP = text("DELETE FROM goldens WHERE id = :id AND tenant_id = :tenant_id RETURNING job_id")


@dataclass(frozen=True)
class NewGolden:
    """A golden prompt to be kept; its blob is recorded by the same transaction."""

    id: UUID
    tenant_id: UUID
    job_id: UUID
    run_id: UUID
    model: str
    prompt: dict[str, Any]
    blob: str
    answer: str
    actor: str


def keep_golden(tx: Transaction, golden: NewGolden) -> Golden:
    """Keep a golden prompt; of a page that is one already, the new answer."""
    values = vars(golden) | {
        "model": clean_text(golden.model), "prompt": as_jsonb(golden.prompt), "answer": clean_text(golden.answer),
        "actor": clean_text(golden.actor), "version": SCHEMA_VERSION,
    }  # fmt: skip
    kept = Golden(**tx.execute(_KEEP, values).one()._mapping)
    tx.execute(_MARK, {"golden": True, "job_id": golden.job_id, "tenant_id": golden.tenant_id})
    return kept


def list_goldens(tx: Transaction, tenant_id: UUID, *, after: UUID | None = None, limit: int = 20) -> list[Golden]:
    """A tenant's golden prompts, newest first, beginning below the id `after`."""
    statement = text(_LIST_GOLDENS.format(bound="AND id < :after" if after else ""))
    values = {"tenant_id": tenant_id, "limit": limit, **({"after": after} if after else {})}
    return [Golden(**row._mapping) for row in tx.execute(statement, values)]


def drop_golden(tx: Transaction, tenant_id: UUID, golden_id: UUID) -> bool:
    """Forget a golden prompt; upkeep removes its picture. False where there is none."""
    row = tx.execute(_DROP, {"id": golden_id, "tenant_id": tenant_id}).first()
    if row is not None:
        tx.execute(_MARK, {"golden": False, "job_id": row.job_id, "tenant_id": tenant_id})
    return row is not None
