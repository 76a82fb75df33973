"""A swap whose workers are killed in each of its phases: what served goes on or the switch stands, and no job fails."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.limits import Limits
from batchinfer.domain.swaps import parse_swap
from batchinfer.services import deployments, jobs, swapping
from batchinfer.stack.orphans import process_runs
from batchinfer.store import revisions
from bench.chaos import ledger
from tests.worker.houses import MODEL, run_until, want

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

#: What is never answered within a test: fifty tokens a second.
ENDLESS = "[[steps:30000]]"
ENGINE = {"steps_per_s": 50}
MOST_TOKENS = 30_000


class Stream(threading.Thread):
    """Jobs submitted one after the other until it is told to stop."""

    def __init__(self, work: Any) -> None:
        super().__init__(daemon=True)
        self.ids: list[UUID] = []
        self._work, self._quit = work, threading.Event()

    def stop(self) -> None:
        self._quit.set()
        self.join()

    def run(self) -> None:
        while not self._quit.wait(0.1):
            self.ids.append(self._work.submit(f"[[steps:5]] {len(self.ids)}", cache="off"))


class Stage:
    """A deployment that serves r1 under load, and a swap of it to r2."""

    def __init__(self, work: Any, rows: Any, hold: Any, house: Any) -> None:
        self.work, self.rows, self.hold, self.house = work, rows, hold, house
        self.id = want(work.ctx)
        rows.query("UPDATE deployments SET options = %s", json.dumps(ENGINE))
        with work.ctx.db.transaction() as tx:
            for revision in ("r1", "r2"):
                revisions.save_revision(tx, MODEL, revision, source={}, path=f"/nowhere/{revision}", state="fetched")
        self.until(lambda: self.find("r1")[2] == "ready", "r1 serves")
        self.stream = Stream(work)
        self.stream.start()
        self.until(lambda: self.stream.ids and work.state(self.stream.ids[0]).value == "succeeded", "it answers")
        self.anchor: UUID | None = None

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return run_until([self.house], condition, what)

    def find(self, revision: str) -> tuple[Any, str, str]:
        """Id, worker and state of the newest replica of a revision."""
        found = self.rows.query(
            "SELECT id, worker, state FROM replicas WHERE revision = %s ORDER BY id DESC LIMIT 1", revision
        )
        return found[0] if found else (None, "", "")

    def read(self) -> tuple[str, str | None, str, str | None]:
        """The deployment's revision and the next, and how its swap stands: state, and the code of its error."""
        ((*found,),) = self.rows.query(
            "SELECT coalesce(d.revision, m.revision), next_revision, swap ->> 'state', swap -> 'error' ->> 'code'"
            " FROM deployments d JOIN models m ON m.id = d.model_id"
        )
        return tuple(found)  # type: ignore[return-value]

    def begin(self, golden: str | None = None) -> None:
        body: dict[str, Any] = {"revision": "r2"}
        if golden is not None:
            body["golden"] = [{"prompt": golden, "expect": {"regex": "."}, "max_tokens": MOST_TOKENS}]
        request = parse_swap(body, Limits.of(self.work.ctx.settings))
        swapping.begin_swap(self.work.ctx, self.work.caller, self.id, request)

    def kill(self, revision: str) -> Any:
        """kill -9 of a revision's process, until its row has ended. Answers the replica's id."""
        replica_id, worker, state = self.find(revision)
        pid = self.house.find_pid(worker)
        assert process_runs(pid)
        os.kill(pid, signal.SIGKILL)
        ended = "SELECT state, error ->> 'message' FROM replicas WHERE id = %s AND ended_at IS NOT NULL"
        ((end, message),) = self.until(lambda: self.rows.query(ended, replica_id), "its end is known")
        if state == "draining":
            assert end == "stopped"
        else:
            assert (end, "killed by signal 9" in message) == ("failed", True)
        return replica_id

    def settle(self, revision: str) -> None:
        """One revision is there and answers; every job has succeeded, each by what its result names."""
        self.hold.release()
        if self.anchor is not None:
            jobs.cancel_job(self.work.ctx, self.work.caller, self.anchor)
        left = "SELECT revision, state FROM replicas WHERE ended_at IS NULL"
        self.until(lambda: self.rows.query(left) == [(revision, "ready")], f"{revision} alone is there")
        assert self.read()[:2] == (revision, None)
        assert self.rows.query("SELECT revision FROM models") == [(revision,)]
        assert self.rows.query("SELECT failures, next_try_at FROM deployments") == [(0, None)]
        self.stream.stop()
        last = self.work.submit("the last one", cache="off")
        ids = [*self.stream.ids, last]
        self.until(lambda: self.rows.query("SELECT count(*) FROM queue") == [(0,)], "all have ended")
        assert {self.work.state(job_id).value for job_id in ids} == {"succeeded"}
        assert ledger.check_rows(self.rows.query) == []
        answered = self.rows.query("SELECT revision FROM results WHERE job_id = ANY (%s) ORDER BY job_id", ids)
        assert (answered[0], answered[-1]) == (("r1",), (revision,))


@pytest.fixture
def stage(work, rows, hold, open_house) -> Iterator[Stage]:
    made = Stage(work, rows, hold, open_house(drain_s=600.0))
    yield made
    made.stream.stop()


def reach_loading(stage: Stage) -> None:
    stage.hold("verifying", "r2")
    stage.begin()
    stage.until(lambda: stage.find("r2")[2] == "loading", "r2 is loaded")


def reach_goldens(stage: Stage) -> None:
    stage.begin(ENDLESS)
    stage.until(lambda: stage.find("r2")[2] == "verifying", "r2 is tested")
    worker = stage.find("r2")[1].partition("@")[0]
    stage.until(lambda: "golden prompts are asked" in stage.rows.read_log(worker), "golden prompts run")
    assert stage.find("r2")[2] == "verifying"


def reach_the_switch(stage: Stage) -> None:
    stage.hold("switched")
    stage.begin()
    stage.until(lambda: stage.find("r2")[2] == "standing_by", "r2 stands by")


BEFORE = {"loading": reach_loading, "goldens": reach_goldens, "the switch": reach_the_switch}


@pytest.mark.parametrize("phase", BEFORE)
def test_the_next_one_killed_before_the_switch_fails_the_swap_alone(stage: Stage, phase: str) -> None:
    old, pid = stage.find("r1"), stage.house.find_pid(stage.find("r1")[1])
    BEFORE[phase](stage)
    stage.kill("r2")
    stage.until(lambda: stage.read() == ("r1", None, "failed", "worker_lost"), "the swap has failed")
    stage.settle("r1")
    assert (stage.find("r1"), stage.house.find_pid(old[1])) == (old, pid)


def test_the_old_one_killed_while_the_next_is_loaded_is_loaded_again_and_swapped(stage: Stage) -> None:
    reach_loading(stage)
    next_one = stage.find("r2")
    killed = stage.kill("r1")
    stage.until(lambda: stage.find("r1")[0] != killed and stage.find("r1")[2] == "ready", "r1 serves again")
    assert stage.read()[:3] == ("r1", "r2", "loading")
    stage.hold.release()
    stage.until(lambda: stage.read()[:3] == ("r2", None, "switched"), "the swap goes on")
    stage.settle("r2")
    assert stage.find("r2")[0] == next_one[0]


def test_the_old_one_killed_while_golden_prompts_run_is_loaded_again(stage: Stage) -> None:
    reach_goldens(stage)
    killed = stage.kill("r1")
    stage.until(lambda: stage.find("r1")[0] != killed and stage.find("r1")[2] == "ready", "r1 serves again")
    assert stage.read()[:3] == ("r1", "r2", "testing")
    assert stage.find("r2")[2] == "verifying"
    deployments.cancel_load(stage.work.ctx, stage.work.caller, stage.id)
    assert stage.read()[:3] == ("r1", None, "cancelled")
    stage.settle("r1")


def test_the_old_one_killed_just_before_the_switch_holds_it_up_no_longer_than_a_look(stage: Stage) -> None:
    reach_the_switch(stage)
    next_one = stage.find("r2")
    stage.kill("r1")
    assert stage.read()[:2] == ("r1", "r2")
    stage.hold.release()
    stage.until(lambda: stage.read()[:3] == ("r2", None, "switched"), "the swap goes on")
    stage.settle("r2")
    assert stage.find("r2")[0] == next_one[0]


def test_the_next_one_killed_between_the_switch_and_its_first_job_is_loaded_again(stage: Stage) -> None:
    stage.hold("ready", "r2")
    stage.begin()
    stage.until(lambda: stage.read()[:3] == ("r2", None, "switched"), "it switches")
    assert stage.find("r2")[2] == "standing_by"
    killed = stage.kill("r2")
    stage.settle("r2")
    assert stage.find("r2")[0] != killed
    assert stage.read() == ("r2", None, "switched", None)


def reach_draining(stage: Stage) -> None:
    """The next one serves, and the old one has something left to do."""
    stage.anchor = stage.work.submit(ENDLESS, max_tokens=MOST_TOKENS)
    stage.until(lambda: stage.work.state(stage.anchor).value == "running", "r1 has much to do")
    stage.begin()
    stage.until(lambda: (stage.find("r1")[2], stage.find("r2")[2]) == ("draining", "ready"), "r1 drains")


def test_the_old_one_killed_while_it_drains_leaves_its_work_to_the_next(stage: Stage) -> None:
    reach_draining(stage)
    stage.kill("r1")
    assert stage.anchor is not None
    held = """SELECT p.revision FROM queue q JOIN replicas p ON p.lease_id = q.lease_id
        WHERE q.subject_id = %s AND q.state = 'running'"""
    stage.until(lambda: stage.rows.query(held, stage.anchor) == [("r2",)], "r2 does it again")
    # A row of a lost worker runs apart, and may have waited for that.
    assert stage.work.outcomes(stage.anchor)[0] == "lost"
    stage.settle("r2")


def test_the_next_one_killed_while_the_old_one_drains_is_loaded_again(stage: Stage) -> None:
    reach_draining(stage)
    old = stage.find("r1")
    killed = stage.kill("r2")
    stage.until(lambda: stage.find("r2")[0] != killed and stage.find("r2")[2] == "ready", "r2 serves again")
    assert stage.read() == ("r2", None, "switched", None)
    assert stage.find("r1") == old, "what drains goes on with its work"
    stage.settle("r2")
