"""Workers among tenants, in a restart, and before rows that they cannot do."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import replace
from typing import Any

from sqlalchemy import text

from batchinfer.domain.ids import JOB, new_id, show_id
from batchinfer.domain.jobs import JobState
from batchinfer.store import keys
from batchinfer.store.tables import SCHEMA_VERSION


def start(rig: Any) -> Any:
    rig.crew.start(threading.Event())
    return rig


def fetch(work: Any, statement: str, **values: Any) -> Any:
    with work.ctx.db.transaction() as tx:
        return tx.execute(text(statement), values).one()


def test_one_job_beside_anothers_backlog_waits_for_one_claim(make_rig, work, until) -> None:
    """Between its submission and its start the worker began no more of the backlog than two claims can hold."""
    backlog = [work.submit(f"[[steps:40]] {number}") for number in range(240)]  # 24 s of work
    rig = start(make_rig(slots=4, steps_per_s=100))
    until(lambda: work.state(backlog[12]) is JobState.SUCCEEDED, "the backlog is being worked on")
    tenant_id = new_id()
    with work.ctx.db.transaction() as tx:
        keys.ensure_tenant(tx, tenant_id, "lone")
    lone = replace(work, caller=replace(work.caller, tenant_id=tenant_id))
    job_id = lone.submit("[[steps:4]] mine")
    seen_at = fetch(work, "SELECT clock_timestamp() AS now").now  # nobody sees it before its submission is committed
    (job,) = lone.wait(job_id)
    assert job.state is JobState.SUCCEEDED
    row = fetch(
        work,
        """SELECT (SELECT count(*) FROM attempts WHERE started_at > :since AND started_at <= :until AND job_id <> :id)
                + (SELECT count(*) FROM queue WHERE leased_at > :since AND leased_at <= :until) AS began""",
        since=seen_at,
        until=job.started_at,
        id=job_id,
    )
    assert row.began <= 2 * 5 * 2, "two claims of what four slots and one more hold, and as many in the way"
    assert work.state(backlog[-1]) is not JobState.SUCCEEDED
    assert rig.crew.feeder.rows >= 13


def test_a_worker_started_anew_goes_on_with_the_backlog(work, launcher) -> None:
    """SIGTERM in the middle: what runs ends or goes back, what waits stays, and no try is counted twice."""
    process = launcher.start_model("--engine-options", '{"steps_per_s": 100}', slots=2, drain_s=6.0)
    ids = [work.submit(f"[[steps:100]] {number}") for number in range(40)]  # 20 s of work here, a moment below
    work.wait_running(ids[0])
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    left = [job_id for job_id in ids if work.state(job_id) is JobState.QUEUED]
    assert left, "it was stopped with a backlog"
    launcher.start_model(slots=4, name="model-1")
    found = work.wait(*ids)
    assert {(job.state, job.attempts, job.crashes) for job in found} == {(JobState.SUCCEEDED, 1, 0)}


def test_rows_of_a_newer_schema_stay_where_they_are(make_rig, work, sql) -> None:
    newer = work.submit("for a later release")
    sql("UPDATE queue SET schema_version = %s WHERE id = %s", SCHEMA_VERSION + 1, newer)
    ours = [work.submit(f"ours {number}") for number in range(8)]
    start(make_rig())
    assert {job.state for job in work.wait(*ours)} == {JobState.SUCCEEDED}
    assert (work.state(newer), work.outcomes(newer)) == (JobState.QUEUED, [])


def test_a_job_whose_picture_is_gone_is_counted_and_named_in_the_log(make_rig, work, sql, logged) -> None:
    missing, good = work.submit("a"), work.submit("b")
    picture = {"sha256": "0" * 64, "media_type": "image/png", "width": 8, "height": 8}
    prompt = {
        "messages": [{"role": "user", "content": [{"type": "image", "index": 0}]}],
        "images": [{**picture, "normal": picture}],
    }
    sql("UPDATE jobs SET prompt = prompt || %s::jsonb WHERE id = %s", json.dumps(prompt), missing)
    start(make_rig())
    failed, done = work.wait(missing, good)
    assert (failed.state, failed.error["code"], done.state) == (JobState.FAILED, "blob_missing", JobState.SUCCEEDED)
    counted = fetch(work, "SELECT sum(failed) AS failed, sum(succeeded) AS succeeded FROM minutes")
    assert (counted.failed, counted.succeeded) == (1, 1)
    assert {line["code"] for line in logged if line.get("job_id") == show_id(JOB, missing)} == {"blob_missing"}
