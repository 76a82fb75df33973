"""The API killed between its commit and what follows, and one key from many clients at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bench.chaos.calls import Caller, text_body
from bench.chaos.ledger import list_states

if TYPE_CHECKING:
    from bench.chaos.cluster import Cluster


def test_api_killed_after_the_commit(cluster: Cluster, settle_clean: Any, send: Any) -> None:
    """kill -9 of the API when the job is committed and nothing else has happened: the job runs, and the client that
    sends the same key again gets the same id."""
    renew_web(cluster)
    web = cluster.members["web"]
    ends = len(web.ends)
    caller = Caller(cluster.url, cluster.api_key, timeout_s=60)
    killed: list[bool] = []
    cluster.links["web"].database.call_at_commit(
        lambda: (cluster.kill("web"), killed.append(True)), b"INSERT INTO queue"
    )
    key = "killed-after-commit"
    body = text_body(f"[[steps:3]] {key}", key)
    assert caller.submit(key, body).status == 0
    assert killed == [True]
    rows = cluster.sql("SELECT id FROM jobs WHERE metadata ->> 'key' = %s", key)
    assert len(rows) == 1, "it was not committed: the fault did not bite"
    cluster.wait(lambda: len(web.ends) > ends and web.alive, "the API is back")
    again = cluster.wait(lambda: answer if (answer := caller.submit(key, body)).status == 202 else None, "an answer")
    assert again.body["id"] == f"job_{rows[0][0].hex}"
    assert again.headers["Idempotency-Replayed"] == "true"
    settle_clean(cluster)
    assert list_states(cluster, [again.body["id"]]) == {"succeeded": 1}


def renew_web(cluster: Cluster) -> None:
    """The API with new connections: on one that has prepared a statement its text, the mark, does not pass again."""
    web = cluster.members["web"]
    ends = len(web.ends)
    cluster.kill("web")
    cluster.wait(lambda: len(web.ends) > ends and web.alive, "the API is back")
    cluster.wait_ready()


def test_api_killed_before_the_answer(cluster: Cluster, settle_clean: Any) -> None:
    """kill -9 of the API between its commit and its answer, while it tries to announce."""
    link, caller = cluster.links["web"], Caller(cluster.url, cluster.api_key, timeout_s=60)
    ends = len(cluster.members["web"].ends)
    # The announcement, or the connection for it, is the first word to Redis, and comes after the commit.
    link.redis.swallow(lambda: cluster.kill("web"))
    key = "killed-before-answer"
    body = text_body(f"[[steps:3]] {key}", key)
    assert caller.submit(key, body).status == 0
    rows = cluster.sql("SELECT id FROM jobs WHERE metadata ->> 'key' = %s", key)
    assert len(rows) == 1, "it was not committed: the fault did not bite"
    link.redis.mend()
    cluster.wait(lambda: len(cluster.members["web"].ends) > ends and cluster.members["web"].alive, "the API is back")
    again = cluster.wait(lambda: answer if (answer := caller.submit(key, body)).status == 202 else None, "an answer")
    assert again.body["id"] == f"job_{rows[0][0].hex}"
    settle_clean(cluster)
    assert list_states(cluster, [again.body["id"]]) == {"succeeded": 1}


def test_one_key_from_fifty_clients(cluster: Cluster, settle_clean: Any) -> None:
    """Fifty at once with one key make one job; the same key with another body makes none."""
    key = "fifty-at-once"
    body = text_body(f"[[steps:3]] {key}", key)

    def submit(_: int) -> tuple[set[int], str]:
        caller, seen = Caller(cluster.url, cluster.api_key, timeout_s=60), set()
        for _ in range(200):
            answer = caller.submit(key, body)
            seen.add(answer.status)
            if answer.status == 202:
                return seen, answer.body["id"]
        return seen, ""

    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(submit, number) for number in range(50)]
        cluster.wait(lambda: all(one.done() for one in asked), "all fifty are answered")
    found = [one.result() for one in asked]
    assert {job_id for _, job_id in found} == {found[0][1]}
    assert set().union(*(seen for seen, _ in found)) <= {202, 409}
    assert cluster.count("SELECT count(*) FROM jobs WHERE metadata ->> 'key' = %s", key) == 1
    other = Caller(cluster.url, cluster.api_key).submit(key, text_body("another", key))
    assert (other.status, other.body["error"]["code"]) == (422, "idempotency_key_reused")
    settle_clean(cluster)
    assert list_states(cluster, [found[0][1]]) == {"succeeded": 1}
