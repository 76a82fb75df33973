"""A batch through real processes, and through OpenAI's own client where it is installed."""

from __future__ import annotations

import base64
import io
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from werkzeug.serving import make_server

from batchinfer.domain.batches import TERMINAL, BatchState, parse_batch, parse_bulk
from batchinfer.domain.ids import FILE, show_id
from batchinfer.domain.userfiles import FileRequest
from batchinfer.services import batch_items, batches, upkeep, userfiles
from batchinfer.web import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from batchinfer.domain.batches import Batch

MODEL = "fake-model"
CHAT = "/v1/chat/completions"


def write_lines(number: int) -> bytes:
    lines = [
        {
            "custom_id": f"n{index}",
            "method": "POST",
            "url": CHAT,
            "body": {"model": MODEL, "messages": [{"role": "user", "content": f"line {index}"}], "max_tokens": 8},
        }
        for index in range(number)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def create(work: Any, number: int) -> Batch:
    request = FileRequest("in.jsonl", "batch", None)
    file, _ = userfiles.upload_file(work.ctx, work.caller, request, io.BytesIO(write_lines(number)))
    body = {"input_file_id": show_id(FILE, file.id), "endpoint": CHAT, "completion_window": "1h"}
    return batches.create_batch(work.ctx, work.caller, parse_batch(body))[0]


def read_output(work: Any, file_id: UUID | None) -> list[dict[str, Any]]:
    assert file_id is not None
    _, pieces = userfiles.open_file(work.ctx, work.caller, file_id)
    return [json.loads(row) for row in b"".join(pieces).splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("lease_ttl_s", [4.0])  # it waits for the end of one
def test_a_worker_lost_while_it_reads_costs_no_line_and_doubles_none(work, launcher, until) -> None:
    number = 6000
    batch = create(work, number)

    def look() -> Batch:
        return batches.get_batch(work.ctx, work.caller, batch.id)

    def count_jobs() -> int:
        with work.ctx.db.transaction() as tx:
            return int(tx.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one())

    first = launcher.start_cpu()
    until(lambda: count_jobs() > 0, "the first lines are jobs")
    first.kill()
    made = count_jobs()
    assert made < number, "the kill came too late to prove anything"
    until(lambda: upkeep.tick(work.ctx).leases_ended, "its lease is reaped")
    launcher.start_cpu(name="cpu-1")
    until(lambda: count_jobs() == number, "the rest is read")
    launcher.start_model(slots=64)
    ended = until(lambda: look() if look().status in TERMINAL else None, "the batch ends", 200.0)
    assert (ended.status, ended.counts.completed, ended.counts.total) == (BatchState.COMPLETED, number, number)
    rows = read_output(work, ended.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"n{index}" for index in range(number)]


def _read_peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.long
def test_50_000_lines_are_checked_and_queued_with_flat_memory(work, launcher, until) -> None:
    line = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * 1500}]}).encode() + b"\n"
    cpu = launcher.start_cpu()

    def queue(number: int) -> None:
        """Send so many lines and wait until all of them are jobs."""
        pieces = (line * 100 for _ in range(number // 100))
        batch, _ = batches.create_from_lines(work.ctx, work.caller, parse_bulk({}), pieces)

        def is_read() -> bool:
            with work.ctx.db.transaction() as tx:
                found = tx.exec_driver_sql("SELECT lines_read FROM batches WHERE id = %s", (batch.id,))
                return bool(found.scalar_one() == number)

        until(is_read, f"{number} lines are jobs", 240.0)

    queue(1000)
    before_mib = _read_peak_mib(cpu.pid)
    queue(50_000)
    assert _read_peak_mib(cpu.pid) - before_mib < 40, "the lines alone are over 70 MiB"


def _draw(form: str, size: tuple[int, int], mode: str = "L", **more: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 255).save(file, form, **more)
    return file.getvalue()


def test_pictures_that_cannot_be_read_fail_their_lines_alone(work, launcher, until) -> None:
    """A bomb, a picture that is cut off, one that moves, and one that is fine."""
    frames = [Image.new("L", (8, 8), shade) for shade in range(9)]
    pictures = {
        "bomb": _draw("PNG", (14_000, 13_000), "1"),
        "cut": _draw("JPEG", (64, 64))[:300],
        "moving": _draw("WEBP", (8, 8), "RGB", save_all=True, append_images=frames),
        "fine": _draw("PNG", (8, 8)),
    }
    rows = [
        {
            "custom_id": name,
            "model": MODEL,
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
        }
        for name, data in pictures.items()
        for url in [f"data:image/png;base64,{base64.b64encode(data).decode()}"]
    ]
    assert len(pictures["bomb"]) < 60_000
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    batch, _ = batches.create_from_lines(work.ctx, work.caller, parse_bulk({}), [lines])
    launcher.start_cpu()
    launcher.start_model()

    def ended() -> Batch | None:
        found = batches.get_batch(work.ctx, work.caller, batch.id)
        return found if found.status in TERMINAL else None

    done = until(ended, "the batch ends")
    assert (done.status, done.counts.completed, done.counts.failed) == (BatchState.COMPLETED, 1, 3)
    causes = {cause.custom_id: cause for cause in batch_items.list_causes(work.ctx, work.caller, batch.id)}
    assert {name: cause.code for name, cause in causes.items()} == {
        "bomb": "image_too_large", "cut": "image_parse_error", "moving": "too_many_frames"
    }  # fmt: skip
    assert not any(cause.retry_helps for cause in causes.values())
    with work.ctx.db.transaction() as tx:
        tried = tx.exec_driver_sql("SELECT count(*) FROM attempts WHERE kind = 'infer'").scalar_one()
    assert tried == 1, "no model worker met the others"


@pytest.fixture
def address(work) -> Iterator[str]:
    """The application on a socket of this machine."""
    server = make_server("127.0.0.1", 0, create_app(context=work.ctx), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_the_openai_package_runs_a_batch(work, launcher, until, address, api_key) -> None:
    openai = pytest.importorskip("openai")
    launcher.start_cpu()
    launcher.start_model()
    with openai.OpenAI(base_url=address, api_key=api_key) as client:
        file = client.files.create(file=("in.jsonl", write_lines(3)), purpose="batch")
        assert client.files.retrieve(file.id).status == "processed"
        batch = client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"a": "b"}
        )
        assert batch.request_counts.total == 0
        ended = ("completed", "failed", "expired", "cancelled")
        until(lambda: client.batches.retrieve(batch.id).status in ended, "the batch ends")
        done = client.batches.retrieve(batch.id)
        assert (done.status, done.request_counts.completed, done.metadata) == ("completed", 3, {"a": "b"})
        rows = [json.loads(row) for row in client.files.content(done.output_file_id).text.splitlines()]
        assert [row["custom_id"] for row in rows] == ["n0", "n1", "n2"]
        assert [found.id for found in client.batches.list(limit=1)] == [batch.id]
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.BadRequestError):
            client.batches.cancel(batch.id)
