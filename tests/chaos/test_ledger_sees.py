"""The ledger itself: each kind of damage that it is there to find, done by hand, is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bench.chaos import ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.chaos.cluster import Cluster

#: A damage, what undoes it, and a word of what the ledger then says.
DAMAGES = {
    "a result is gone": (
        """CREATE TABLE kept AS SELECT * FROM results LIMIT 1;
            DELETE FROM results WHERE job_id IN (SELECT job_id FROM kept)""",
        "INSERT INTO results SELECT * FROM kept; DROP TABLE kept",
        "successes without a result",
    ),
    "a job never ended": (
        "UPDATE jobs SET final_state = NULL WHERE id = (SELECT min(id::text)::uuid FROM jobs)",
        "UPDATE jobs SET final_state = 'succeeded' WHERE final_state IS NULL",
        "jobs have not ended",
    ),
    "a job is gone": (
        "CREATE TABLE kept AS SELECT * FROM jobs LIMIT 1; DELETE FROM jobs WHERE id IN (SELECT id FROM kept)",
        "INSERT INTO jobs SELECT * FROM kept; DROP TABLE kept",
        "lost: 1",
    ),
    "a key made two jobs": (
        """INSERT INTO jobs SELECT '00000000-0000-7000-8000-000000000009', tenant_id, schema_version, class, model,
            document_id, page, prompt, metadata, 'cancelled', 0, 0, NULL, now() FROM jobs LIMIT 1""",
        "DELETE FROM jobs WHERE id = '00000000-0000-7000-8000-000000000009'",
        "idempotency keys that made two things",
    ),
    "tokens were counted twice": (
        "UPDATE minutes SET completion_tokens = completion_tokens + 1 WHERE ctid = (SELECT min(ctid) FROM minutes)",
        "UPDATE minutes SET completion_tokens = completion_tokens - 1 WHERE ctid = (SELECT max(ctid) FROM minutes)",
        "completion_tokens: the counters say",
    ),
    "a result names what did not answer": (
        "UPDATE results SET revision = 'another' WHERE job_id = (SELECT min(job_id::text)::uuid FROM results)",
        "UPDATE results SET revision = 'r1' WHERE revision = 'another'",
        "results that name another revision",
    ),
    "a try succeeded twice": (
        """INSERT INTO attempts (job_id, number, tenant_id, outcome, kind)
            SELECT job_id, 99, tenant_id, 'succeeded', 'infer' FROM attempts LIMIT 1""",
        "DELETE FROM attempts WHERE number = 99",
        "successes without exactly one try",
    ),
}


@pytest.fixture
def small(make_cluster: Callable[..., Cluster], send: Any, settle_clean: Any) -> tuple[Cluster, Any]:
    cluster = make_cluster()
    cluster.start_web()
    cluster.start_model("model-0")
    cluster.wait_ready()
    load = send(cluster, 12)
    settle_clean(cluster, load)
    return cluster, load


def test_damage_is_found(small: tuple[Cluster, Any]) -> None:
    cluster, load = small
    for name, (damage, undo, word) in DAMAGES.items():
        cluster.sql(damage)
        found = ledger.check(cluster, [load]).problems
        assert any(word in problem for problem in found), (name, found)
        cluster.sql(undo)
        assert ledger.check(cluster, [load]).problems == [], name
