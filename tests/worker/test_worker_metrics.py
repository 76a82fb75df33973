"""A worker's page of metrics: a crew over the fake engine, who may read it, and a real process from start to drain."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr

from batchinfer import services
from batchinfer.domain.retries import RetryClass
from batchinfer.observe.metrics import CONTENT_TYPE, Sheet
from batchinfer.services.metrics import read_facts
from batchinfer.services.work import INFER
from batchinfer.stack.ports import free_ports
from batchinfer.store.claims import Ending
from tests.metrics_pages import read_page
from workers.committer import Finished
from workers.memory_readings import Residency
from workers.metrics import MetricsPage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchinfer.services.context import Context

MODEL = "fake-model"


def get(address: str, **headers: str) -> httpx.Response:
    return httpx.get(f"http://{address}/metrics", headers=headers, timeout=60, trust_env=False)


def test_a_crew_tells_of_its_engine_and_of_each_stage(make_rig: Any, work: Any, settings: Any) -> None:
    rig = make_rig(slots=4)
    rig.crew.start(threading.Event())
    good = [work.submit(f"question {number}") for number in range(6)]
    work.wait(*good)
    sheet = Sheet()
    rig.crew.tell(sheet)
    found = read_page(sheet.render().decode())
    assert found["batchinfer_engine_slots", MODEL] == 4
    assert found["batchinfer_engine_ended_total", MODEL] == 6
    assert found["batchinfer_engine_row_steps_total", MODEL] >= found["batchinfer_engine_steps_total", MODEL] > 0
    assert found["batchinfer_worker_rows_total", "completed"] == 6
    for stage in ("waiting", "decoding", "storing"):
        assert found["batchinfer_stage_seconds_count", MODEL, stage] == 6
        assert found["batchinfer_stage_seconds_bucket", MODEL, stage, "+Inf"] == 6
        assert found["batchinfer_stage_seconds_sum", MODEL, stage] >= 0
    assert found["batchinfer_worker_held_rows",] == 0


def test_retries_are_counted_by_class_and_cause(make_rig: Any, work: Any) -> None:
    rig = make_rig(slots=2)
    lease_id = rig.crew.lease.open()
    work.submit("fails once", **{"class": "batch"})
    (claim,) = services.work.claim(rig.ctx, lease_id=lease_id, kinds=(INFER,), model=MODEL, limit=1)
    ending = Ending(claim.id, claim.attempt, {"code": "x", "message": "x"}, RetryClass.TRANSIENT)
    rig.crew.committer.start()
    rig.crew.committer.put(Finished(claim, ending=ending))
    assert rig.crew.committer.flush(60.0)
    sheet = Sheet()
    rig.crew.tell(sheet)
    found = read_page(sheet.render().decode())
    assert found["batchinfer_worker_retries_total", MODEL, "batch", "transient"] == 1
    assert found["batchinfer_worker_rows_total", "retried"] == 1


@pytest.fixture
def make_page(context: Context) -> Any:
    """A page on a free port, with these settings."""
    pages = []

    def make(tell: Callable[[Sheet], None] = lambda _: None, **changes: Any) -> MetricsPage:
        port = changes.pop("metrics_port", next(free_ports()) % 65000)
        settings = context.settings.model_copy(update={"metrics_port": port, **changes})
        pages.append(MetricsPage(replace(context, settings=settings), tell))
        return pages[-1]

    yield make
    for page in pages:
        page.close()


def test_the_page_is_for_its_readers_alone(make_page: Any) -> None:
    page = make_page()
    answer = get(page.address)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
    assert "batchinfer_worker_resident_bytes" in answer.text
    assert page.address.startswith("127.0.0.1:"), "loopback unless told otherwise"
    assert get(page.address, **{"X-Forwarded-For": "1.2.3.4"}).status_code == 403
    assert httpx.get(f"http://{page.address}/other", timeout=60, trust_env=False).status_code == 404
    assert httpx.post(f"http://{page.address}/metrics", timeout=60, trust_env=False).status_code == 501
    guarded = make_page(metrics_token=SecretStr("abc"))
    assert get(guarded.address).status_code == 401
    assert get(guarded.address, Authorization="Bearer abc").status_code == 200
    assert make_page(metrics_port=0).address == ""
    named = make_page(metrics_host="::", host_name="gpu-7")
    assert named.address.startswith("gpu-7:"), "others find it by the machine's name"


def test_each_worker_takes_the_next_free_port(make_page: Any) -> None:
    first = make_page()
    port = int(first.address.rpartition(":")[2])
    second = make_page(metrics_port=port)
    assert port < int(second.address.rpartition(":")[2]) < port + 100
    assert get(second.address).status_code == 200


def test_a_page_that_breaks_or_hangs_or_is_read_slowly_says_so(
    make_page: Any, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    def fail(_sheet: Sheet) -> None:
        raise RuntimeError("secret")

    answer = get(make_page(fail).address)
    assert (answer.status_code, "secret" in answer.text) == (500, False)
    monkeypatch.setattr("workers.metrics._PAGE_S", 0.2)
    over, entered = threading.Event(), []

    def hang(_sheet: Sheet) -> None:
        entered.append(1)
        over.wait(60)

    page = make_page(hang)
    assert [get(page.address).status_code for _ in range(3)] == [503, 503, 503]
    assert entered == [1], "nobody begins another beside it"
    over.set()
    monkeypatch.setattr("workers.metrics._READER_S", 0.3)
    slow = make_page()
    host, _, port = slow.address.rpartition(":")
    with socket.create_connection((host, int(port))):  # who says nothing holds up the others no longer than that
        assert get(slow.address).status_code == 200


def test_residency_of_weights(tmp_path: Path) -> None:
    assert Residency(tmp_path).find_share() is None
    (tmp_path / "model.safetensors").write_bytes(b"x" * 10_000)
    share = Residency(tmp_path).find_share()
    assert share is None or 0.0 <= share <= 1.0


def test_a_process_tells_from_its_start_to_its_drain(launcher: Any, work: Any, until: Any, context: Context) -> None:
    port = next(free_ports()) % 65000
    process = launcher.start_model("--engine-options", '{"steps_per_s": 2.0}', metrics_port=port)
    (target,) = until(lambda: read_facts(context).targets, "the worker says where it tells its metrics")
    found = read_page(get(target.address).text)
    assert found["batchinfer_worker_state", "serving"] == 1
    info = next(key for key in found if key[0] == "batchinfer_worker_info")
    assert info[1] == "model"
    assert info[4] == MODEL
    assert found["batchinfer_engine_slots", MODEL] == 4
    job = work.submit("a long answer", max_tokens=200)
    work.wait_running(job)
    process.popen.terminate()
    until(
        lambda: read_page(get(target.address).text)["batchinfer_worker_state", "draining"] == 1,
        "it still tells",
    )
    process.popen.send_signal(9)
    process.wait()
    with pytest.raises(httpx.TransportError):
        get(target.address)


@pytest.mark.usefixtures("work")  # registers the model
def test_a_process_tells_while_postgres_and_redis_are_away(
    launcher: Any, until: Any, context: Context, database_proxy: Any
) -> None:
    """It says for how long it was silent, and that it serves all the same."""
    proxy, proxied = database_proxy
    launcher.start_model(
        metrics_port=next(free_ports()) % 65000, database_url=proxied, redis_url=SecretStr("redis://127.0.0.1:1/0")
    )
    (target,) = until(lambda: read_facts(context).targets, "the worker says where it tells its metrics")

    def read_silence() -> float:
        answer = get(target.address)
        assert answer.status_code == 200
        found = read_page(answer.text)
        assert found["batchinfer_worker_state", "serving"] == 1
        return found["batchinfer_worker_silent_seconds",]

    proxy.cut()
    until(lambda: read_silence() > 2.0, "its silence is told")
    proxy.mend()
    until(lambda: read_silence() < 1.0, "it gives signs of life again")
