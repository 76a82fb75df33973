"""Our own server as the upstream of a remote engine, and of a worker of ours that serves another model by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.services import models
from batchinfer.services.context import open_context
from batchinfer.settings import load_settings
from workers.engine.protocol import Image, ModelError, Request, Sampling
from workers.engine.remote import RemoteEngine, open_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

PATIENCE_S = 120.0


@pytest.fixture
def engine(fake_up: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteEngine]:
    monkeypatch.setenv("UPSTREAM_KEY", fake_up.facts["api_key"])
    opened = open_remote(
        slots=3,
        url=fake_up.facts["url"],
        model="docreader",
        key_env="UPSTREAM_KEY",
        dialect="batchinfer",
        priority=True,
    )
    yield opened
    opened.close()


def ask(name: str, text: str, images: tuple[Image, ...] = (), **fields: Any) -> Request:
    content: list[dict[str, Any]] = [{"type": "image", "index": index} for index in range(len(images))]
    return Request(name, ({"role": "user", "content": [*content, {"type": "text", "text": text}]},), images, **fields)


def test_a_remote_engine_over_our_own_server(fake_up: Any, engine: RemoteEngine, tmp_path: Path) -> None:
    from hashlib import sha256

    from batchinfer.samples import draw_page

    path = tmp_path / "page.png"
    draw_page(7).image.convert("RGB").save(path)
    page = Image(sha256(path.read_bytes()).hexdigest(), path)
    pieces: list[str] = []
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    sampling = Sampling(temperature=0.2, top_k=4, min_p=0.1, repetition_penalty=1.1, seed=1)
    handles = [
        engine.submit(ask("streamed", "Streamed."), on_token=lambda _id, text: pieces.append(text)),
        engine.submit(ask("whole", "Whole.", job_class="batch")),
        engine.submit(ask("page", "A page.", (page,), job_class="normal", response_format=wanted, sampling=sampling)),
    ]
    streamed, whole, read = (handle.result(PATIENCE_S) for handle in handles)
    assert [done.error for done in (streamed, whole, read)] == [None] * 3
    assert "".join(pieces) == streamed.text
    assert json.loads(whole.text)["prompt"] == "Whole."
    assert json.loads(read.text)["engine"] == "fake"
    assert read.usage.images == 1
    assert 0 < read.usage.image_tokens < read.usage.prompt_tokens
    with fake_up.client() as client:
        listed = client.get("/v1/jobs", params={"limit": 3, "class": "batch"}).json()["data"]
    assert len(listed) == 1, "the class goes out with the request"


def test_what_it_refuses_is_refused_here(engine: RemoteEngine, fake_up: Any) -> None:
    done = engine.submit(ask("failed", "[[fail:output_repeats]]")).result(PATIENCE_S)
    assert done.error is not None
    assert (done.error.code, done.error.transient) == ("output_repeats", False)
    with pytest.raises(ModelError) as refused:
        open_remote(slots=1, url=fake_up.facts["url"], model="nobody", key_env="UPSTREAM_KEY")
    assert refused.value.code == "upstream_model_missing"
    with pytest.raises(ModelError) as refused:
        open_remote(slots=1, url=fake_up.facts["url"], model="docreader")
    assert refused.value.code == "upstream_key_refused"


@contextmanager
def far_worker(up: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A model worker that answers for the model `far` by asking the service for `docreader`."""
    servers = json.loads((up.home / "servers.json").read_text())
    options = {"url": up.facts["url"], "model": "docreader", "key_env": "UPSTREAM_KEY", "dialect": "batchinfer"}
    command = [sys.executable, "-m", "celery", "-A", "workers.model", "worker", "-n", "far@here", "-P", "threads"]
    command += ["-c", "1", "--without-gossip", "--without-mingle", "--model", "far", "--device", "cpu", "--slots", "3"]
    command += ["--engine", "remote", "--engine-options", json.dumps(options)]
    environment = {
        "BATCHINFER_HOME": str(up.home),
        "BATCHINFER_DATABASE_URL": servers["database_url"],
        "BATCHINFER_REDIS_URL": servers["redis_url"],
        "UPSTREAM_KEY": up.facts["api_key"],
    }
    settings = load_settings(home=up.home, database_url=servers["database_url"], redis_url=servers["redis_url"])
    context = open_context(settings, name="test", pool_size=1)
    try:
        models.register_model(context, "far", "", "upstream")
    finally:
        context.close()
    with (up.home / "far.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log, cwd=up.home)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def test_a_worker_of_ours_over_a_server_of_ours(fake_up: Any, patience: Callable[..., None]) -> None:
    with far_worker(fake_up) as process, fake_up.client() as client:
        jobs = [
            client.post("/v1/jobs", json={"model": "far", "messages": [{"role": "user", "content": f"far {number}"}]})
            for number in range(6)
        ]
        assert {job.status_code for job in jobs} == {202}
        ended = [fake_up.wait_ended(client, job.json()["id"]) for job in jobs]
        assert process.poll() is None
    log = (fake_up.home / "far.log").read_text()
    assert [job["status"] for job in ended] == ["succeeded"] * 6, log[-3000:]
    assert {job["result"]["engine"] for job in ended} == {"remote"}
    assert {json.loads(job["result"]["text"])["engine"] for job in ended} == {"fake"}
    assert fake_up.facts["api_key"] not in log
