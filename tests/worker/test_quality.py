"""Pages of a run through real workers: answers that are refused, tried otherwise, and at last replaced."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.jobs import JobState
from batchinfer.domain.runs import RunState
from batchinfer.errors import BadDocument
from batchinfer.services import jobs, runs
from batchinfer.services.context import open_context
from tests.page_runs import make_page_run
from workers.committer import Committer
from workers.crew import Crew
from workers.lease import Lease
from workers.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = "fake-model"
WARMER = [{"temperature": 0.2}, {"temperature": 0.4}]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "page", "schema": {"type": "object", "required": ["engine", "prompt"]}},
}


@pytest.fixture
def make_run(work: Any, tmp_path: Path) -> Callable[..., Any]:
    """Runs whose pages have no pictures, but where a test says so."""
    return lambda **pipeline: make_page_run(
        work.ctx, work.caller, tmp_path, model=MODEL, **{"fallback": "none", "ladder": WARMER, **pipeline}
    )


def start(rig: Any) -> Any:
    rig.crew.start(threading.Event())
    return rig


def list_errors(work: Any, job_id: Any) -> list[str]:
    tries = jobs.list_attempts(work.ctx, work.caller, job_id)
    return [tried.error["code"] for tried in tries if tried.error]


def test_bad_answers_are_refused_until_a_good_one_comes(make_rig, work, make_run) -> None:
    run = make_run(generation={"max_tokens": 900})
    asked = {
        "[[loops:1]]": ["output_repeats"],
        "[[empty:2]]": ["output_empty", "output_empty"],
        "[[long:1]]": ["output_truncated"],
        "fine": [],
        "[[empty:9]]": ["output_empty"] * 3,
    }
    ids = {said: run.put(said=said, pictures=False)[0] for said in asked}
    start(make_rig())
    found = dict(zip(asked, work.wait(*ids.values()), strict=True))
    assert {said: list_errors(work, job_id) for said, job_id in ids.items()} == asked
    assert {said: job.state for said, job in found.items()} == {
        said: JobState.FAILED if said == "[[empty:9]]" else JobState.SUCCEEDED for said in asked
    }
    assert [job.attempts for job in found.values()] == [2, 3, 2, 1, 3]


def test_a_loop_is_stopped_long_before_its_end(make_rig, work, make_run) -> None:
    (job_id,) = make_run(ladder=[], generation={"max_tokens": 4096}).put(said="[[loops:9]]", pictures=False)
    rig = start(make_rig())
    (job,) = work.wait(job_id)
    assert (job.state, job.error["code"]) == (JobState.FAILED, "output_repeats")
    assert rig.engine.stats().completion_tokens == 256


def test_an_answer_is_held_to_its_schema(make_rig, work, make_run) -> None:
    run = make_run(generation={"response_format": SCHEMA})
    wrong = {**SCHEMA, "json_schema": {"name": "page", "schema": {"type": "object", "required": ["total"]}}}
    (fits,) = run.put(pictures=False)
    (once,) = run.put(said="[[wrong:1]]", pictures=False)
    (never,) = run.put(pictures=False, response_format=wrong)
    start(make_rig())
    found = work.wait(fits, once, never)
    assert [job.state for job in found] == [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED]
    assert list_errors(work, once) == ["invalid_output"]
    assert list_errors(work, never) == ["invalid_output"] * 3
    assert "`required`" in found[2].error["message"]


def test_checks_that_are_not_asked_for_are_not_made(make_rig, work, make_run) -> None:
    run = make_run(checks=[], generation={"max_tokens": 300})
    ids = [run.put(said=said, pictures=False)[0] for said in ("[[loops:9]]", "[[empty:9]]", "[[long:9]]")]
    start(make_rig())
    assert {job.state for job in work.wait(*ids)} == {JobState.SUCCEEDED}


class Sandbox:
    """Stands for the child processes: a PDF whose second page says nothing itself."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def run(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((operation, arguments))
        if arguments.get("dpi") == 600:
            raise BadDocument("The page is too large.", code="page_too_large")
        if operation == "read_text":
            return {"text": "" if arguments["page"] == 2 else "the text of the page\n"}
        Path(arguments["target"]).write_bytes(b"drawn " + str(arguments["rotate"]).encode())
        return {"media_type": "image/png", "width": 8, "height": 8}

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def sandbox(settings: Any, work: Any, tmp_path: Path) -> Iterator[Sandbox]:
    """What a CPU worker in this process opens documents with."""
    ctx = open_context(settings, name="cpu rig", pool_size=4)
    lease = Lease(ctx, role="cpu", worker="cpu@here", slots=1)
    committer = Committer(ctx, lease)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    station = Workshop(ctx, lease, committer, processes=1, scratch=scratch)
    station._sandbox.close()
    station._sandbox = made = Sandbox()  # type: ignore[assignment]
    crew = Crew(ctx, lease, committer, station)
    station.on_room = crew.feeder.wake
    crew.start(threading.Event())
    yield made
    crew.drain(5.0, "the test ended")
    ctx.close()


@pytest.fixture
def put_pages(work: Any, make_run: Any) -> Callable[..., list[Any]]:
    """Pages of a document whose file and pictures are in the store."""

    def put(number: int, said: str, **pipeline: Any) -> list[Any]:
        file, picture = (work.ctx.blobs.put(work.caller.tenant_id, data) for data in (b"%PDF-", b"a page"))
        run = make_run(blob=file, **pipeline)
        normal = {"sha256": picture, "media_type": "image/png", "width": 8, "height": 8}
        return [
            run.put(said=said, images=[{"page": page, "sha256": picture, "media_type": "image/png", "normal": normal}])[
                0
            ]
            for page in range(1, number + 1)
        ]

    return put


def test_the_pages_own_text_stands_where_no_try_was_good(make_rig, work, put_pages, sandbox) -> None:
    first, second = put_pages(2, "[[empty:9]]", ladder=[], fallback="text_layer")
    start(make_rig())
    read, silent = work.wait(first, second)
    assert (read.state, read.result["text"], read.result["engine"]) == (
        JobState.SUCCEEDED, "the text of the page", "text_layer",
    )  # fmt: skip
    assert (silent.state, silent.error["code"]) == (JobState.FAILED, "output_empty")
    assert sorted(arguments["page"] for operation, arguments in sandbox.asked if operation == "read_text") == [1, 2]


def test_a_page_is_turned_and_asked_again(make_rig, work, put_pages, sandbox) -> None:
    (job_id,) = put_pages(1, "[[empty:1]]", ladder=[{"rotate": 180, "max_side": 512}])
    start(make_rig())
    (job,) = work.wait(job_id)
    assert (job.state, job.attempts, list_errors(work, job_id)) == (JobState.SUCCEEDED, 2, ["output_empty"])
    ((operation, arguments),) = sandbox.asked
    assert (operation, arguments["page"], arguments["rotate"], arguments["max_side"]) == ("render_page", 1, 180, 512)
    (image,) = job.prompt["images"]
    assert work.ctx.blobs.path(work.caller.tenant_id, image["normal"]["sha256"]).read_bytes() == b"drawn 180"
    assert image["normal"]["sha256"] in job.result["text"], "the model saw the new picture"


def test_a_rung_that_cannot_be_drawn_is_left_for_the_next(make_rig, work, put_pages, sandbox) -> None:
    ladder = [{"dpi": 600}, {"temperature": 0.3}]
    (job_id,) = put_pages(1, "[[empty:1]]", ladder=ladder)
    start(make_rig())
    (job,) = work.wait(job_id)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 2), "drawing is not paid for"
    assert list_errors(work, job_id) == ["output_empty", "page_too_large"]


def test_a_run_that_goes_wrong_stops_itself_and_goes_on_when_told(make_rig, work, make_run, until) -> None:
    run = make_run(ladder=[], stop_after={"share": 0.5, "pages": 10})
    run.put(60, said="[[empty:9]]", pictures=False)
    good = run.put(5, pictures=False)
    start(make_rig(slots=2, steps_per_s=200))
    until(lambda: run.look().state is RunState.PAUSED, "the run pauses itself")
    assert run.look().cause["code"] == "too_many_failures"
    assert {work.state(job_id) for job_id in good} == {JobState.QUEUED}
    while run.look().state is RunState.PAUSED or not all(work.get(i).finished_at for i in good):
        runs.resume_run(work.ctx, work.caller, run.id)
        until(
            lambda: run.look().state is RunState.PAUSED or all(work.get(i).finished_at for i in good),
            "the run pauses again, or its pages end",
        )
    assert {work.state(job_id) for job_id in good} == {JobState.SUCCEEDED}
