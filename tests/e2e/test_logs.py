"""The logs and spans of a whole service, at DEBUG: what users send and what is secret is in none, and ids are."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw

from tests.api.collector import Collector, run_collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
NEEDLE = "zq7Kuhflade"


class Receiver:
    """A webhook's receiver that refuses what comes first, and keeps all headers."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []


@pytest.fixture
def receiver() -> Iterator[tuple[str, Receiver]]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            kept.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(500 if len(kept.headers) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook?token=url-{NEEDLE}", kept
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with run_collector() as running:
        yield running


def make_picture(broken: bool = False) -> str:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "white").save(file, "PNG")
    data = file.getvalue()[:60] + f"picture-{NEEDLE}".encode() if broken else file.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode()


def show(*parts: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "text", "text": f"prompt-{NEEDLE}"}]
    content += [{"type": "image_url", "image_url": {"url": url}} for url in parts]
    return [{"role": "user", "content": content}]


def send_everything(client: httpx.Client, hook: str) -> tuple[dict[str, str], list[str]]:
    """Jobs that succeed and fail, a batch, requests that are refused. Answers jobs by what they are, and secrets."""
    endpoint = client.post("/v1/webhook_endpoints", json={"name": "n", "url": hook, "event_types": ["job.succeeded"]})
    assert endpoint.status_code in (200, 201), endpoint.text
    jobs = {}
    ask = {"model": "docreader", "metadata": {"note": f"meta-{NEEDLE}"}}
    sent = {
        "plain": show(),
        "picture": show(make_picture()),
        "broken": show(make_picture(broken=True)),
        "address": show(f"https://files.invalid/a.png?signature=signed-{NEEDLE}"),
        "engine": [{"role": "user", "content": f"[[fail:server_error]] prompt-{NEEDLE}"}],
    }
    for name, messages in sent.items():
        answer = client.post("/v1/jobs", json={**ask, "messages": messages}, headers=HEADERS)
        if answer.status_code == 202:
            jobs[name] = answer.json()["id"]
    chat = client.post("/v1/chat/completions", json={"model": "docreader", "messages": show()}, headers=HEADERS)
    assert chat.status_code == 200, chat.text
    for wrong in ({"messages": f"wrong-{NEEDLE}"}, {f"field-{NEEDLE}": 1}, {"model": f"model-{NEEDLE}"}):
        assert client.post("/v1/jobs", json=wrong).status_code >= 400
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer bi_key-{NEEDLE}"}).status_code == 401
    assert client.get(f"/v1/path-{NEEDLE}?query={NEEDLE}").status_code == 404
    body = json.dumps(
        {
            "custom_id": f"c-{NEEDLE}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**ask, "messages": show()},
        }
    )
    file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": (f"name-{NEEDLE}.jsonl", body.encode())})
    wanted = {"input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = client.post("/v1/batches", json=wanted, headers=HEADERS)
    assert batch.status_code == 200, batch.text
    return {**jobs, "batch": batch.json()["id"]}, [endpoint.json()["signing_secret"]]


def make_pdf(words: str) -> bytes:
    file = io.BytesIO()
    page = Image.new("RGB", (420, 594), "white")
    ImageDraw.Draw(page).text((40, 40), words, fill="black")
    page.save(file, "PDF", title=words)
    return file.getvalue()


def send_documents(client: httpx.Client, folder: Path) -> tuple[str, list[str]]:
    """A run over a folder, and files that are sent for themselves. Answers the run and the documents."""
    folder.mkdir()
    (folder / f"good-{NEEDLE}.pdf").write_bytes(make_pdf(f"page-{NEEDLE}"))
    (folder / f"bad-{NEEDLE}.pdf").write_bytes(b"%PDF-1.7\n" + NEEDLE.encode())
    pipeline = {"model": "docreader", "prompt": f"prompt-{NEEDLE}", "mode": "merged", "merge_prompt": f"put-{NEEDLE}"}
    body = {"source": {"uri": f"file://{folder}"}, "sinks": [{"type": "jsonl"}], "pipeline": pipeline}
    run = client.post("/v1/runs", json=body, headers=HEADERS)
    assert run.status_code in (200, 201, 202), run.text
    form, found = {"model": "docreader", "prompt": f"prompt-{NEEDLE}"}, []
    for path in sorted(folder.iterdir()):
        answer = client.post("/v1/jobs", data=form, files={"file": (path.name, path.read_bytes())}, headers=HEADERS)
        assert answer.status_code == 202, answer.text
        found.append(answer.json()["id"])
    return run.json()["id"], found


@pytest.mark.long
def test_no_text_and_no_secret_is_in_a_log(
    tmp_path: Path,
    start_up: Callable[..., Any],
    patience: Callable[..., None],
    receiver: tuple[str, Receiver],
    collector: Collector,
) -> None:
    hook, kept = receiver
    up = start_up(
        tmp_path / "home", "--engine", "fake", BATCHINFER_LOG_LEVEL="DEBUG", BATCHINFER_WEBHOOK_HTTP="true",
        BATCHINFER_OTLP_ENDPOINT=collector.url, NO_PROXY="127.0.0.1", BATCHINFER_WEBHOOK_NETWORKS="127.0.0.0/8",
        BATCHINFER_FETCH_HOSTS="files.invalid", BATCHINFER_MAX_ATTEMPTS="2", BATCHINFER_SOURCE_FOLDERS=str(tmp_path),
    ).wait_ready()  # fmt: skip
    with up.client() as client:
        jobs, secrets = send_everything(client, hook)
        run, documents = send_documents(client, tmp_path / "in")
        ended = {name: up.wait_ended(client, job_id) for name, job_id in jobs.items() if name != "batch"}
        patience(lambda: client.get(f"/v1/batches/{jobs['batch']}").json()["status"] == "completed")
        patience(lambda: len(kept.headers) >= 4)
        patience(lambda: client.get(f"/v1/runs/{run}").json()["status"] == "completed_with_errors")
        patience(
            lambda: (
                {client.get(f"/v1/documents/{name}").json()["status"] for name in documents} == {"completed", "failed"}
            )
        )
    assert ended["plain"]["status"] == ended["picture"]["status"] == "succeeded"
    assert ended["broken"]["status"] == ended["address"]["status"] == "failed"
    assert all(NEEDLE not in json.dumps(job["error"]) for job in ended.values() if job["error"])
    assert all(header["traceparent"].startswith(f"00-{TRACE}-") for header in kept.headers)
    assert all(header["tracestate"] == "vendor=1" for header in kept.headers)
    assert len({header["traceparent"] for header in kept.headers}) == len(kept.headers), "each try is a span of its own"

    found = run_logs(up.home, "--job", jobs["picture"])
    assert {line["role"] for line in found} >= {"web", "cpu", "model"}
    # A poll is a request with a trace of its own; the submission and all work are in the job's.
    assert {line["trace_id"] for line in found if line["role"] != "web"} == {TRACE}
    assert [line["method"] for line in found if line["role"] == "web" and line["trace_id"] == TRACE] == ["POST"]
    assert {line["trace_id"] for line in run_logs(up.home, "--job", jobs["broken"], "--level", "warning")} == {TRACE}
    assert {line.get("job_id") for line in run_logs(up.home, "--trace", TRACE)} >= {job["id"] for job in ended.values()}
    worked = [line for line in run_logs(up.home, "--process", "cpu") if line["event"] == "worked"]
    assert {line["kind"] for line in worked} >= {"prepare", "render", "read", "list", "close", "seal", "export"}
    assert {line["trace_id"] for line in worked} == {TRACE}
    assert {line["role"] for line in run_logs(up.home, "--process", "beat")} == {"beat"}
    spans = {"POST /v1/jobs", "job", "wait", "prepare", "attempt", "claim", "decode", "store", "deliver"}
    spans |= {"render", "read", "list", "close", "seal", "export"}
    collector.wait(lambda: spans <= {span.name for span in list(collector.spans.values())})
    assert {span.trace_id.hex() for span in collector.named("deliver")} == {TRACE}
    assert NEEDLE not in str(collector.spans)
    servers = json.loads((up.home / "servers.json").read_text())
    secrets += [url.split("@")[0].rpartition(":")[2] for url in servers.values() if "@" in url]
    secrets += [up.facts["api_key"], (up.home / "secret-key").read_text().strip()]
    assert len(secrets) == 5
    up.stop()

    logs = {log.name: log.read_text(errors="replace") for log in (up.home / "logs").iterdir()}
    assert {"web.log", "cpu0.log", "beat.log", "model0.log", "postgres.log"} <= logs.keys()
    for name, text in logs.items():
        where = [line[:400] for line in text.splitlines() if NEEDLE in line]
        assert not where, f"{name}: {where}"
        assert not [secret[:6] for secret in secrets if secret in text], name
        assert "iVBORw0KGgo" not in text, "a picture"


def run_logs(home: Path, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "batchinfer.cli", "logs", "--home", str(home), "--json", *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in said.stdout.splitlines()]
