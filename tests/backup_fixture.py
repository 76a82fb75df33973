"""`make backup-fixture`: a small backup of this version under tests/fixtures/backups/, kept for later ones to restore.

Made at each tagged version. The service runs whole, with the fake engine, on something of everything: jobs that ended
each way, a picture, a document, a batch, a night's run, a template, a schedule, an endpoint, a second tenant, and jobs
that wait behind a pause. `--source` takes another checkout's code for the service; the backup is written by ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from batchinfer.services.backups import back_up
from batchinfer.settings import load_settings
from bench.chaos.calls import document_body, picture_body

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures" / "backups"
PATIENCE_S = 600.0


class Api:
    """The service over HTTP."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """One request. Raises where it is refused."""
        sent = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **headers}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, sent, method=method)  # noqa: S310 - our own address
        try:
            with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310 - the same
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code} {error.read()[:600]!r}") from None

    def wait(self, path: str, *states: str) -> Any:
        """Until the thing is in one of these states."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.ask("GET", path))["status"] not in states:
            if time.monotonic() > deadline:
                raise SystemExit(f"{path} is still {found['status']}")
            time.sleep(0.5)
        return found

    def upload(self, name: str, data: bytes, purpose: str) -> str:
        """A file of the user's. Answers its id."""
        edge = b"--edge\r\nContent-Disposition: form-data; name="
        body = edge + b'"purpose"\r\n\r\n' + purpose.encode() + b"\r\n"
        body += edge + f'"file"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n--edge--\r\n"
        return str(self.ask("POST", "/v1/files", body, **{"Content-Type": "multipart/form-data; boundary=edge"})["id"])


def live(api: Api, model: str) -> dict[str, str]:
    """Something of everything. Answers ids that a test looks for."""
    import base64

    def named(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "model": model}

    text = {"model": model, "messages": [{"role": "user", "content": "Read this."}], "max_tokens": 8}
    keyed = {"Idempotency-Key": "kept"}
    done = api.ask("POST", "/v1/jobs", {**text, "metadata": {"night": "1"}}, **keyed)["id"]
    picture = api.ask("POST", "/v1/jobs", named(picture_body("Read.", "p")))["id"]
    drawn = document_body("Read.", "d")
    document = api.ask("POST", "/v1/jobs", named(drawn))["id"]
    template = {"name": "invoice", "prompt": "Read page {{ page }}.", "note": "first"}
    template_id = api.ask("POST", "/v1/templates", template)["id"]
    hook = {"name": "nights", "url": "https://example.com/hook", "event_types": ["batch.completed"]}
    endpoint = api.ask("POST", "/v1/webhook_endpoints", hook)["id"]
    api.ask("POST", "/v1/tenants", {"name": "second", "weight": 2})
    lines = [
        {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/chat/completions", "body": {**text}} for n in range(3)
    ]
    wanted = api.upload("in.jsonl", "\n".join(json.dumps(line) for line in lines).encode(), "batch")
    batch = {"input_file_id": wanted, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch_id = api.ask("POST", "/v1/batches", batch)["id"]
    address = drawn["messages"][0]["content"][1]["file"]["file_data"].partition(",")[2]
    pdf = api.upload("two.pdf", base64.b64decode(address), "user_data")
    night = {
        "name": "letters",
        "source": {"files": [pdf]},
        "pipeline": {"model": model, "prompt": "Read page {{ page }}.", "mode": "per_page"},
    }
    timing = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "window": "5h", "misfire": "skip"}
    schedule = api.ask("POST", "/v1/schedules", {**night, "timing": timing})["id"]
    run = api.ask("POST", "/v1/runs", {**night, "sinks": [{"type": "jsonl"}]})["id"]
    for path in (f"/v1/jobs/{done}", f"/v1/jobs/{picture}"):
        api.wait(path, "succeeded", "failed")
    api.wait(f"/v1/documents/{document}", "completed", "completed_with_errors", "succeeded", "failed")
    api.wait(f"/v1/batches/{batch_id}", "completed", "failed")
    api.wait(f"/v1/runs/{run}", "completed", "completed_with_errors", "succeeded", "failed")
    api.ask("POST", "/v1/queue/pause", {})
    waiting = api.ask("POST", "/v1/jobs", text)["id"]
    cancelled = api.ask("POST", "/v1/jobs", text)["id"]
    api.ask("POST", f"/v1/jobs/{cancelled}/cancel", {})
    return {
        "job": done, "picture": picture, "document": document, "template": template_id, "endpoint": endpoint,
        "batch": batch_id, "schedule": schedule, "run": run, "waiting": waiting, "cancelled": cancelled,
    }  # fmt: skip


def make(source: Path, out: Path) -> None:
    """Run the service of a checkout, let it live, and write its backup with the ids and the key into `out`/version."""
    found = re.search(r'__version__ = "(.+)"', (source / "batchinfer" / "__init__.py").read_text())
    assert found
    version = found[1]
    work = Path(tempfile.mkdtemp(prefix="backup-fixture-"))
    work.chmod(0o755)
    home, ready = work / "home", work / "ready.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHINFER_")}
    command = [sys.executable, "-m", "batchinfer.cli", "up", "--home", str(home), "--engine", "fake"]
    command += ["--cpu-workers", "1", "--ready-file", str(ready)]
    with subprocess.Popen(command, cwd=source, env={**environment, "PYTHONPATH": str(source)}) as up:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not ready.exists():
                if up.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the service did not start")
                time.sleep(0.5)
            told = json.loads(ready.read_text())
            api = Api(told["url"], told["api_key"])
            ids = live(api, api.ask("GET", "/v1/models")["data"][0]["id"])
            servers = json.loads((home / "servers.json").read_text())
            settings = load_settings(home=home, database_url=SecretStr(servers["database_url"]))
            shutil.rmtree(out / version, ignore_errors=True)
            made = back_up(settings, out / version)
        finally:
            up.terminate()
            up.wait(60)
            shutil.rmtree(work, ignore_errors=True)
    _tidy(made.place, version)
    (out / version / "known.json").write_text(json.dumps({"api_key": told["api_key"], **ids}, indent=1) + "\n")
    size = sum(path.stat().st_size for path in (out / version).rglob("*") if path.is_file())
    print(f"{out / version}: {made.manifest.rows} rows, {size >> 10} KiB")


def _tidy(place: Path, version: str) -> None:
    """The program that wrote it is not the one that lived: the manifest says whose rows they are. And the home of this
    machine is nobody else's."""
    settings, manifest = place / "settings.json", place / "manifest.json"
    found = json.loads(settings.read_text())
    found["settings"]["BATCHINFER_HOME"] = "~/.batchinfer"
    settings.write_text(json.dumps({**found, "version": version}, indent=1) + "\n")
    digest = hashlib.sha256(settings.read_bytes()).hexdigest()
    told = {**json.loads(manifest.read_text()), "version": version, "settings_sha256": digest}
    manifest.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, default=FIXTURES)
    options = parser.parse_args()
    make(options.source.absolute(), options.out.absolute())
