"""The ledger at the end: as the API tells it, by the count that `make demo` uses too, and as the rows lie.

Every acknowledged submission is in exactly one terminal state; a success has exactly one result row; the counters add
up to the rows; no idempotency key made two things.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchinfer.client import Client
from batchinfer.demo.ledger import count, has_ended
from batchinfer.domain.jobs import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.chaos.cluster import Cluster
    from bench.chaos.load import Load

#: Statements that count what must not be, each with what it would mean.
_NEVER = {
    "rows are still in the queue": "SELECT count(*) FROM queue",
    "jobs have not ended": "SELECT count(*) FROM jobs WHERE final_state IS NULL",
    "successes without a result, or results without a success": """
        SELECT count(*) FROM jobs j FULL JOIN results r ON r.job_id = j.id
        WHERE (j.final_state IS NOT DISTINCT FROM 'succeeded') <> (r.job_id IS NOT NULL)""",
    "jobs that did not succeed without an error, or successes with one": """
        SELECT count(*) FROM jobs WHERE CASE final_state WHEN 'succeeded' THEN error IS NOT NULL
            WHEN 'cancelled' THEN false ELSE error IS NULL END""",
    "successes without exactly one try that succeeded": """
        SELECT count(*) FROM jobs j WHERE final_state = 'succeeded' AND 1 <> (SELECT count(*) FROM attempts a
            WHERE a.job_id = j.id AND a.kind = 'infer' AND a.outcome = 'succeeded')
          AND NOT EXISTS (SELECT 1 FROM results r WHERE r.job_id = j.id AND r.reused_from IS NOT NULL)""",
    "idempotency keys that made two things": """
        SELECT count(*) FROM (
            SELECT 1 FROM (SELECT id, metadata FROM jobs WHERE document_id IS NULL
                           UNION ALL SELECT id, metadata FROM documents) AS made
            WHERE metadata ? 'key' GROUP BY metadata ->> 'key' HAVING count(*) > 1) AS twice""",
    "results that name another revision than that of the replica that answered": """
        SELECT count(*) FROM results r JOIN replicas p ON p.lease_id = r.lease_id WHERE p.revision <> r.revision""",
    "pages of a document that are there twice or lack": """
        SELECT count(*) FROM documents d WHERE d.pages IS NOT NULL AND d.error IS NULL
          AND d.pages <> (SELECT count(DISTINCT page) FROM jobs j WHERE j.document_id = d.id)""",
}
_COUNTERS = """
    SELECT coalesce(sum(submitted), 0), coalesce(sum(succeeded), 0), coalesce(sum(failed), 0),
        coalesce(sum(cancelled), 0), coalesce(sum(expired), 0),
        coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(images), 0) FROM minutes"""
_ROWS = """
    SELECT (SELECT count(*) FROM jobs), count(*) FILTER (WHERE final_state = 'succeeded'),
        count(*) FILTER (WHERE final_state = 'failed'), count(*) FILTER (WHERE final_state = 'cancelled'),
        count(*) FILTER (WHERE final_state = 'expired'),
        coalesce(sum((usage ->> 'prompt_tokens')::bigint), 0),
        coalesce(sum((usage ->> 'completion_tokens')::bigint), 0), coalesce(sum((usage ->> 'images')::bigint), 0)
    FROM jobs LEFT JOIN results ON results.job_id = jobs.id"""
_NAMES = ("submitted", "succeeded", "failed", "cancelled", "expired", "prompt_tokens", "completion_tokens", "images")


@dataclass
class Verdict:
    """What the ledger says. `problems` is empty where it is clean."""

    submissions: int = 0
    jobs: int = 0
    states: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every rule holds."""
        return not self.problems


def settle(cluster: Cluster, loads: Sequence[Load], timeout_s: float = 120.0) -> None:
    """Wait until the clients are done and nothing waits or runs. Raises NotInTime."""
    cluster.wait(lambda: all(load.done for load in loads), "every submission is acknowledged", timeout_s)
    cluster.wait(lambda: cluster.count("SELECT count(*) FROM queue") == 0, "all jobs end", timeout_s, pause_s=0.2)


def check(cluster: Cluster, loads: Sequence[Load]) -> Verdict:
    """Count. Call it when everything has settled and every server answers."""
    submissions = [submission for load in loads for submission in load.acks.values()]
    verdict = Verdict(submissions=len(submissions))
    with Client(cluster.url, cluster.api_key) as client:
        jobs = [job.as_dict() for job in client.jobs.list()]
        documents = {one.id: client.documents.get(one.id).as_dict() for one in submissions if one.is_document}
    verdict.jobs, verdict.states = len(jobs), Counter(job["status"] for job in jobs)
    if not has_ended(submissions, documents, jobs):
        verdict.problems.append("not everything has ended")
    told = count(submissions, documents, _with_cancelled_sound(jobs))
    for name in ("lost", "twice", "unsound"):
        if found := getattr(told, name):
            verdict.problems.append(f"{name}: {len(found)} ({', '.join(found[:3])})")
    verdict.problems += check_rows(cluster.sql)
    verdict.problems += [wrong for load in loads for wrong in sorted(set(load.tally.wrong))]
    return verdict


def check_rows(sql: Callable[[str], list[tuple[Any, ...]]]) -> list[str]:
    """What is wrong with the rows, as `sql` answers it; nothing where they are clean."""
    problems = [f"{text}: {n}" for text, statement in _NEVER.items() if (n := sql(statement)[0][0])]
    counted, lying = sql(_COUNTERS)[0], sql(_ROWS)[0]
    problems += [
        f"{name}: the counters say {a} and the rows {b}"
        for name, a, b in zip(_NAMES, counted, lying, strict=True)
        if a != b
    ]
    return problems


def _with_cancelled_sound(jobs: list[dict[str, object]]) -> list[dict[str, object]]:
    """A cancelled job needs no error to be sound."""
    return [job | {"error": {}} if job["status"] == "cancelled" and job["error"] is None else job for job in jobs]


def list_states(cluster: Cluster, ids: Sequence[str]) -> Counter[str]:
    """How many of these jobs are in each terminal state; `live` and `missing` for the others."""
    digits = [one.removeprefix("job_") for one in ids]
    rows = cluster.sql("SELECT final_state, count(*) FROM jobs WHERE id = ANY (%s::uuid[]) GROUP BY 1", digits)
    found = Counter({str(state) if state in TERMINAL else "live": number for state, number in rows})
    found["missing"] = len(digits) - sum(found.values())
    return +found
