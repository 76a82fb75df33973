"""A batch from the upload of its file to the last line in the queue, beside COPY of the same rows."""

from __future__ import annotations

import io
import json
import time
from http.client import HTTPConnection
from typing import Any

import psycopg

from bench.api.web import Web, open_web
from bench.queue.stand import MODEL, Stand, make_bodies

#: What a batch's lines are in the two tables that hold them.
_TABLES = {
    "jobs": "id, tenant_id, class, model, batch_id, line, custom_id, prompt, metadata, created_at, expires_at",
    "queue": "id, kind, subject_id, tenant_id, model, class, rank, state, available_at, expires_at, created_at",
}


def measure_batch(stand: Stand, *, lines: int) -> dict[str, Any]:
    """Seconds of upload, of the batch until all is queued, and of COPY of the same rows in one transaction."""
    stand.start_celery(
        ["workers.cpu", "worker", "-n", "cpu@bench", "-P", "threads", "-c", "1", "--without-gossip",
         "--without-mingle", "--processes", "1", "-l", "WARNING"], stand.settings,
    )  # fmt: skip
    stand.wait(lambda: stand.run("SELECT count(*) FROM leases WHERE role = 'cpu' AND NOT dead"), "a CPU worker")
    data = write_file(lines)
    with open_web(stand) as web:
        connection = web.connect()
        began = time.perf_counter()
        file_id = upload(web, connection, data)
        uploaded = time.perf_counter()
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = post(web, connection, "/v1/batches", json.dumps(body).encode(), "application/json")
        status = stand.wait(lambda: _read_status(stand, batch["id"]), "the end of the reading", every_s=0.1)
        queued = time.perf_counter()
    if status != "in_progress":
        raise RuntimeError(f"the batch is {status}")
    rows = int(stand.run("SELECT count(*) FROM queue WHERE kind = 'infer' AND state = 'queued'"))
    copy_s = copy_again(stand)
    return {
        "lines": lines,
        "file_mib": round(len(data) / 2**20, 1),
        "queued": rows,
        "upload_s": round(uploaded - began, 3),
        "seconds": round(queued - began, 2),
        "lines_per_s": round(lines / (queued - began), 1),
        "copy_s": round(copy_s, 3),
        "of_copy": round((queued - began) / copy_s, 2),
    }


def _read_status(stand: Stand, batch_id: str) -> str | None:
    """The batch's status once its file has been read to the end: it is in progress while its jobs are being made."""
    if stand.run("SELECT EXISTS (SELECT 1 FROM queue WHERE kind = 'read')"):
        return None
    return str(stand.run("SELECT status FROM batches WHERE id = CAST(:id AS uuid)", id=batch_id.removeprefix("batch_")))


def write_file(lines: int) -> bytes:
    """A file of requests with about 200 characters each."""
    file = io.BytesIO()
    for number, text in enumerate(make_bodies(lines, 4), 1):
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 64}
        line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        file.write(json.dumps(line).encode() + b"\n")
    return file.getvalue()


def upload(web: Web, connection: HTTPConnection, data: bytes) -> str:
    """The id of a file."""
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
        b'Content-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    )
    whole = head + data + b"\r\n--b--\r\n"
    return str(post(web, connection, "/v1/files", whole, "multipart/form-data; boundary=b")["id"])


def post(web: Web, connection: HTTPConnection, path: str, body: bytes, kind: str) -> dict[str, Any]:
    """The answer. Raises RuntimeError where it is an error."""
    connection.request("POST", path, body, {**web.headers, "Content-Type": kind})
    answer = connection.getresponse()
    told: dict[str, Any] = json.loads(answer.read())
    if answer.status >= 300:
        raise RuntimeError(f"{path} answered {answer.status}: {told['error']['message']}")
    return told


def copy_again(stand: Stand) -> float:
    """Seconds that the same rows take as one COPY a table, in one transaction, into the emptied tables."""
    url = stand.settings.require_database_url().replace("+psycopg", "", 1)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        held = {}
        for table, columns in _TABLES.items():
            with cursor.copy(f"COPY (SELECT {columns} FROM {table}) TO STDOUT".encode()) as out:  # noqa: S608
                held[table] = [bytes(piece) for piece in out]
        cursor.execute("TRUNCATE jobs, queue")
        connection.commit()
        began = time.perf_counter()
        for table, columns in _TABLES.items():
            with cursor.copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as into:
                for piece in held[table]:
                    into.write(piece)
        connection.commit()
        return time.perf_counter() - began
