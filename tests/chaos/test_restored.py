"""A backup under load, everything wiped, restored, and gone on with: what was acknowledged before is there, once."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.services.backups import back_up
from batchinfer.services.restoring import restore
from bench.chaos.calls import Caller, picture_body, text_body
from bench.chaos.ledger import list_states

if TYPE_CHECKING:
    from pathlib import Path

    from bench.chaos.cluster import Cluster

RUNNING = "SELECT count(*) FROM queue WHERE state = 'running' AND kind = 'infer'"


def mixed(number: int, key: str) -> dict[str, Any]:
    make = picture_body if number % 10 == 0 else text_body
    return make(f"[[steps:150]] {key}", key)


def wipe(cluster: Cluster) -> None:
    """Everything of the service killed and gone: processes, rows, files, announcements."""
    for name in list(cluster.members):
        cluster.kill(name)
        cluster.members[name].wait()
    cluster.ctx.db.dispose()
    cluster.sql("DROP SCHEMA public CASCADE")
    cluster.sql("CREATE SCHEMA public")
    shutil.rmtree(cluster.settings.blobs_dir)
    cluster.servers.flush()


@pytest.mark.long
def test_restored_from_a_backup_under_load(make_cluster: Any, send: Any, settle_clean: Any, tmp_path: Path) -> None:
    cluster = make_cluster()
    cluster.start(models=1, slots=16, options='{"steps_per_s": 100}')
    load = send(cluster, 6000, rate_per_s=20, make=mixed)
    cluster.wait(lambda: len(load.acks) >= 60 and cluster.count(RUNNING) >= 8, "there is work in every state")
    before = dict(load.acks)
    made = back_up(cluster.settings, tmp_path / "kept")
    rows = {table.name: table.file.rows for table in made.manifest.tables}
    assert rows["queue"] > 0, "nothing was under way: the fault did not bite"
    cluster.wait(lambda: len(load.acks) > len(before) + 20, "the clients go on")
    load.stop()
    wipe(cluster)
    restored = restore(cluster.settings, tmp_path / "kept")
    assert restored.requeued > 0
    assert cluster.count("SELECT count(*) FROM jobs") == rows["jobs"]
    cluster.wait_ready()
    # The clients send every request again: what the backup has is what they were told, what it has not is made anew.
    caller = Caller(cluster.url, cluster.api_key, timeout_s=60)
    for key in list(load.acks):
        answer = cluster.wait(
            lambda key=key: (
                found if (found := caller.submit(key, mixed(int(key.rpartition("-")[2]), key))).status == 202 else None
            ),
            "an answer",
        )
        if key in before:
            assert answer.body["id"] == before[key].id
            assert answer.headers["Idempotency-Replayed"] == "true"
        load._note(key, answer)
    settle_clean(cluster, load)
    assert list_states(cluster, load.ids()) == {"succeeded": len(load.acks)}
    released = cluster.count("SELECT count(*) FROM attempts WHERE outcome = 'released'")
    assert released >= restored.requeued, "what was under way was given back, and no try was counted"
