"""The last release and today's code side by side on one database, migrated under load, in the order of
docs/upgrading.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer import __version__
from batchinfer.domain.ids import JOB, show_id
from batchinfer.domain.limits import Limits
from batchinfer.domain.prompts import parse_job
from batchinfer.services import jobs
from batchinfer.store import columns, migrate, queue
from bench.chaos.calls import document_body, picture_body, text_body
from bench.chaos.cluster import ROOT
from bench.chaos.ledger import list_states
from bench.chaos.released import find_release, list_committed

if TYPE_CHECKING:
    from pathlib import Path

    from bench.chaos.cluster import Cluster

OLD, NEW = "old", "new"
#: Only says that it hung: five processes start here while others work.
PATIENCE_S = 300.0
#: Nobody is lost here; a lease that ran out because the machine is busy would only take time.
LEASES = {"lease_ttl_s": 30.0, "heartbeat_s": 2.0, "drain_s": 20.0}
OPTIONS = json.dumps({"steps_per_s": 100})
DONE_BY = "SELECT count(*) FROM attempts WHERE outcome = 'succeeded' AND kind = %s AND worker = %s"
#: By a model worker, of what came after the migration: written and read by the two in the same schema.
DONE_SINCE = "SELECT count(*) FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.created_at > %s AND a.worker = %s"
NEWER = columns.SCHEMA_VERSION + 1
WAITING = "SELECT count(*) FROM queue WHERE schema_version = %s AND state = 'queued' AND attempt = 0"
#: Put first on the path of a process it makes it one of the release after this one.
TOMORROW = f"import batchinfer.store.columns\nbatchinfer.store.columns.SCHEMA_VERSION = {NEWER}\n"


def make_job(number: int, key: str) -> dict[str, Any]:
    """Mostly texts; some pictures and documents."""
    text = f"[[steps:{1 + number % 20}]] {key}"
    if number % 8 == 3:
        return picture_body(text, key)
    return document_body(text, key) if number % 32 == 7 else text_body(text, key)


class Stage:
    """The two releases, and who did how much."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def start(self, age: str) -> None:
        """The workers of one of them."""
        self.cluster.start_cpu(f"cpu-{age}")
        self.cluster.start_model(f"model-{age}", options=OPTIONS)

    def count(self, age: str) -> int:
        """Jobs answered by its model worker."""
        return self.cluster.count(DONE_BY, "infer", f"model-{age}@here")

    def wait_for(self, *ages: str, more: int = 15) -> None:
        """Until the model worker of each has answered so many more, and its CPU worker has prepared another."""
        aims = {age: (self.count(age) + more, self._prepared(age) + 1) for age in ages}
        self.cluster.wait(
            lambda: all(self.count(age) >= aim[0] and self._prepared(age) >= aim[1] for age, aim in aims.items()),
            f"work done by {', '.join(ages)}",
            PATIENCE_S,
        )

    def _prepared(self, age: str) -> int:
        return self.cluster.count(DONE_BY, "prepare", f"cpu-{age}@here")

    def submit_newer(self, monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
        """Jobs as the release after this one would write them."""
        ctx = self.cluster.ctx
        with monkeypatch.context() as patch:
            patch.setattr(queue, "SCHEMA_VERSION", NEWER)
            requests = [parse_job(text_body("newer", f"newer-{n}"), Limits.of(ctx.settings)) for n in range(number)]
            return [show_id(JOB, jobs.submit(ctx, self.cluster.caller, request)[0].id) for request in requests]


def test_the_wheel_is_the_release(tmp_path: Path) -> None:
    release = find_release()
    committed = list_committed(release)
    if committed is None:
        pytest.skip(f"the history of this checkout does not reach back to {release.version}")
    folder = release.unpack(tmp_path)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".dist-info" not in path.parent.name and path.parent.name != "licenses"
    }
    assert len(files) > 300
    assert files == committed


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_from_the_last_release_under_load(
    make_cluster: Any, send: Any, settle_clean: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrated while the old ones work; beat, workers and web replaced one by one; nothing lost, failed or done twice.
    Rows of a newer release are left to its workers by all others."""
    release = find_release()
    cluster: Cluster = make_cluster(release=release.unpack(tmp_path / "release"), **LEASES)
    schema = "SELECT version_num FROM alembic_version"
    assert cluster.sql(schema) == [(release.head(),)]
    assert release.head() < migrate.head_revision(), "nothing to migrate: renew the release, or leave this to the next"
    stage = Stage(cluster)
    cluster.start_web()
    cluster.start_beat()
    stage.start(OLD)
    cluster.wait_ready(PATIENCE_S)
    load = send(cluster, 100_000, make=make_job, rate_per_s=10, threads=2)
    stage.wait_for(OLD)

    # The schema first, by today's code, while all that runs is old.
    before = len(load.acks)
    cluster.code = ROOT
    assert migrate.upgrade(cluster.settings.require_database_url()) == migrate.head_revision()
    ((migrated_at,),) = cluster.sql("SELECT now()")
    # What came after it was taken in, stored and answered by old processes.
    done = (DONE_SINCE, migrated_at, "model-old@here")
    cluster.wait(lambda: cluster.count(*done) >= 15, "old work on the new schema", PATIENCE_S)
    assert len(load.acks) > before

    # Who cleans up: it must know what is new before anybody writes it.
    assert cluster.retire("beat", PATIENCE_S) == 0
    ((retired_at,),) = cluster.sql("SELECT now()")
    cluster.start_beat()
    ticked = "SELECT count(*) FROM ticks WHERE name = 'beat' AND ticked_at > %s"
    cluster.wait(lambda: cluster.count(ticked, retired_at), "a tick of the new one", PATIENCE_S)

    # New workers beside old ones. Rows of tomorrow are for neither.
    newer = stage.submit_newer(monkeypatch, 4)
    stage.start(NEW)
    cluster.wait_ready(PATIENCE_S)
    stage.wait_for(OLD, NEW)
    assert cluster.count(WAITING, NEWER) == len(newer)
    for role in ("cpu", "model"):
        assert cluster.retire(f"{role}-{OLD}", PATIENCE_S) == 0
    stage.wait_for(NEW)

    # Last who writes what is new.
    acks = len(load.acks)
    assert cluster.retire("web", PATIENCE_S) == 0
    cluster.start_web()
    cluster.wait(lambda: len(load.acks) > acks + 15, "submissions to the new web server", PATIENCE_S)
    load.finish()
    left = "SELECT count(*) FROM queue"
    cluster.wait(lambda: load.done and cluster.count(left) == len(newer), "all else has ended", PATIENCE_S)
    assert cluster.count(WAITING, NEWER) == len(newer), "one that does not know them has taken some"

    # And the release after this one: its workers take them.
    path = tmp_path / "tomorrow"
    path.mkdir()
    (path / "sitecustomize.py").write_text(TOMORROW)
    cluster.start_model("model-next", options=OPTIONS, environment={"PYTHONPATH": f"{path}:{ROOT}"})
    settle_clean(cluster, load, timeout_s=PATIENCE_S)
    assert cluster.count(DONE_BY, "infer", "model-next@here") >= len(newer)

    assert list_states(cluster, newer) == {"succeeded": len(newer)}
    assert cluster.sql("SELECT DISTINCT final_state FROM jobs") == [("succeeded",)]
    versions = "SELECT DISTINCT r.versions ->> 'batchinfer' FROM results r JOIN attempts a ON a.job_id = r.job_id"
    versions += " AND a.kind = 'infer' AND a.outcome = 'succeeded' WHERE a.worker = %s"
    told = [cluster.sql(versions, f"model-{age}@here") for age in (OLD, NEW)]
    assert told == [[(release.version,)], [(__version__,)]], "each result names the release that gave it"
