"""The fake engine: who asked what, markers that steer it, and its rate."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers.engine import tickets
from workers.engine.fake import CRASH_EXIT_CODE, FakeEngine
from workers.engine.loader import open_engine
from workers.engine.phases import Phases
from workers.engine.protocol import Refused, Request

PATIENCE_S = 60.0
NewRequest = Callable[..., Request]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    opened = FakeEngine(slots=4)
    yield opened
    opened.close()


def test_the_answer_names_prompt_and_pictures(engine: FakeEngine, new_request: NewRequest) -> None:
    request = new_request("which one?", images=2, max_tokens=500)
    done = engine.submit(request).result(PATIENCE_S)
    answer = json.loads(done.text)
    assert done.finish == "stop"
    assert answer["prompt"] == "which one?"
    assert answer["images"] == [image.sha256 for image in request.images]
    assert engine.submit(new_request("which one?", images=2, max_tokens=500)).result(PATIENCE_S).text == done.text


@pytest.mark.parametrize(
    ("steps", "max_tokens", "tokens", "finish"),
    [(3, 500, 3, "stop"), (1, 500, 1, "stop"), (450, 500, 450, "stop"), (450, 7, 7, "length")],
)
def test_steps(
    engine: FakeEngine, new_request: NewRequest, steps: int, max_tokens: int, tokens: int, finish: str
) -> None:
    done = engine.submit(new_request(f"[[steps:{steps}]]", max_tokens=max_tokens)).result(PATIENCE_S)
    assert (done.usage.completion_tokens, done.finish) == (tokens, finish)


def test_failures_by_marker(engine: FakeEngine, new_request: NewRequest) -> None:
    failed = engine.submit(new_request("[[fail:bad_page]] please")).result(PATIENCE_S)
    transient = engine.submit(new_request("[[transient:busy]]")).result(PATIENCE_S)
    assert failed.error is not None
    assert transient.error is not None
    assert (failed.error.code, failed.error.transient) == ("bad_page", False)
    assert (transient.error.code, transient.error.transient) == ("busy", True)


def test_a_failure_that_passes_the_second_time(engine: FakeEngine, new_request: NewRequest) -> None:
    request = new_request("[[once:flaky]]")
    assert engine.submit(request).result(PATIENCE_S).finish == "error"
    deadline = time.monotonic() + PATIENCE_S
    while engine.stats().running and time.monotonic() < deadline:
        time.sleep(0.001)
    assert engine.submit(request).result(PATIENCE_S).finish == "length"


def test_faults_need_permission(engine: FakeEngine, new_request: NewRequest) -> None:
    for marker in ("[[crash]]", "[[hang]]"):
        assert engine.submit(new_request(marker)).result(PATIENCE_S).finish == "length"


def test_a_hang_stops_the_steps_until_close(new_request: NewRequest) -> None:
    engine = FakeEngine(allow_faults=True)
    hanging = engine.submit(new_request("[[hang]]"))
    behind = engine.submit(new_request("behind it"))
    deadline = time.monotonic() + PATIENCE_S
    while engine.progress() + 0.2 > time.monotonic():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not behind.done()
    engine.close()
    assert {hanging.result(PATIENCE_S).finish, behind.result(PATIENCE_S).finish} == {"cancelled"}


def test_a_crash_ends_the_process() -> None:
    code = """
from workers.engine import lifecycle
from workers.engine.fake import FakeEngine
from workers.engine.protocol import Request
message = {"role": "user", "content": [{"type": "text", "text": "[[crash]]"}]}
FakeEngine(allow_faults=True).submit(Request("one", (message,))).result()
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S).returncode == CRASH_EXIT_CODE


def test_the_rate_of_steps_is_kept(new_request: NewRequest) -> None:
    engine = FakeEngine(steps_per_s=100.0)
    start = time.monotonic()
    engine.submit(new_request("[[steps:20]]", max_tokens=20)).result(PATIENCE_S)
    took_s = time.monotonic() - start
    engine.close()
    assert took_s >= 19 * 0.01, "20 steps have 19 pauses between them"


def test_the_rate_of_requests_is_kept(new_request: NewRequest) -> None:
    engine = FakeEngine(requests_per_s=50.0)
    start = time.monotonic()
    for handle in [engine.submit(new_request()) for _ in range(6)]:
        handle.result(PATIENCE_S)
    took_s = time.monotonic() - start
    engine.close()
    assert took_s >= 5 * 0.02, "6 admissions have 5 pauses between them"


def test_waiting_makes_a_request_more_urgent(new_request: NewRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "AGEING_S", 0.01)
    engine, ended = FakeEngine(slots=1, steps_per_s=200.0), []
    running = engine.submit(new_request("[[steps:1000]]", max_tokens=1000))
    old = engine.submit(new_request(job_class="batch"), lambda done: ended.append(done.id))
    start = engine.stats().steps
    deadline = time.monotonic() + PATIENCE_S
    while engine.stats().steps < start + 20 and time.monotonic() < deadline:  # at least 0.1 s
        time.sleep(0.005)
    new = engine.submit(new_request(job_class="interactive"), lambda done: ended.append(done.id))
    engine.cancel(running.id)
    assert engine.drain(PATIENCE_S) == ()
    engine.close()
    assert ended == [old.id, new.id]


def test_a_prompt_beyond_the_context_is_refused(new_request: NewRequest) -> None:
    engine = FakeEngine(context_tokens=64)
    with pytest.raises(Refused) as refused:
        engine.submit(new_request("x" * 300))
    engine.close()
    assert refused.value.code == "context_length_exceeded"
    assert "75" in refused.value.message


def test_seam_and_fake_import_no_torch() -> None:
    code = """
import sys
import workers.engine.protocol, workers.engine.fake, workers.engine.loader, workers.engine.folder
from pathlib import Path
workers.engine.loader.open_engine("fake", Path("none")).close()
sys.exit(bool({"torch", "transformers", "PIL", "numpy"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S).returncode == 0


def test_a_load_takes_its_time_in_each_phase() -> None:
    phases = Phases()
    engine = open_engine("fake", Path("m"), phases=phases, read_s=0.03, copy_s=0.02, warm_up_s=0.01)
    engine.close()
    assert [phases.seconds[name] >= least for name, least in (("read", 0.03), ("copy", 0.02), ("warm_up", 0.01))] == [
        True
    ] * 3
