"""A request's trace: read at the door, answered, kept with what it makes, and bound to its lines in the log."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import JOB, parse_id
from batchinfer.observe.logs import configure_logging
from batchinfer.observe.traces import decode_trace, following, parse_trace
from batchinfer.services import reading, work
from batchinfer.store.claims import READ, Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}


@pytest.fixture
def lines(context: Context) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What is logged."""
    root = logging.getLogger()
    before, stream = (root.level, list(root.handlers)), io.StringIO()
    configure_logging(context.settings, "web", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def find_kept(context: Context, table: str) -> list[str]:
    with context.db.transaction() as tx:
        return list(tx.execute(text(f"SELECT trace FROM {table} ORDER BY id")).scalars())  # noqa: S608 - a test's own word


def test_a_trace_goes_from_the_header_to_the_job(client: FlaskClient, context: Context, ask: Any, lines: Any) -> None:
    answer = client.post("/v1/jobs", json=ask(), headers=HEADERS)
    job = answer.json
    back = parse_trace(answer.headers["traceresponse"])
    assert back is not None
    assert (back.trace_id, back.sampled) == (TRACE, True)
    assert back.span_id != SPAN
    assert job["trace_id"] == client.get(f"/v1/jobs/{job['id']}").json["trace_id"] == TRACE
    assert client.get(f"/v1/jobs/{job['id']}/timeline").json["trace_id"] == TRACE
    assert find_kept(context, "jobs") == [f"{back.parent} vendor=1"]
    submitted = next(line for line in lines() if line["event"] == "answered")
    assert (submitted["trace_id"], submitted["job_id"]) == (TRACE, job["id"])

    lease_id = work.open_lease(context, role="model", worker="w", host="h", pid=1, model=job["model"])
    claims = work.claim(context, lease_id=lease_id, kinds=("infer",), model=job["model"], limit=1)
    (piece,) = work.load_claims(context, claims)
    assert piece.claim.tags == {"kind": "infer", "job_id": job["id"], "attempt": 1, "trace_id": TRACE}


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "é" * 300])
def test_a_malformed_header_is_no_error(client: FlaskClient, ask: Any, header: str) -> None:
    sent = {"traceparent": header.encode().decode("latin-1"), "tracestate": "vendor=1"}
    answer = client.post("/v1/jobs", json=ask(), headers=sent)
    assert answer.status_code == 202
    fresh = parse_trace(answer.headers["traceresponse"])
    assert fresh is not None
    assert fresh.trace_id == answer.json["trace_id"] != TRACE
    assert not fresh.sampled, "nobody takes the spans"


def test_each_request_has_its_own(client: FlaskClient, ask: Any) -> None:
    first, second = (client.post("/v1/jobs", json=ask()).json["trace_id"] for _ in range(2))
    assert first != second


def test_every_line_of_a_batch_belongs_to_its_trace(
    client: FlaskClient, context: Context, ask: Any, model: str
) -> None:
    body = "\n".join(
        json.dumps({"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": ask(f"page {n}")})
        for n in range(3)
    )
    form = {"purpose": "batch", "file": (io.BytesIO(body.encode()), "in.jsonl")}
    file_id = client.post("/v1/files", data=form).json["id"]
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert client.post("/v1/batches", json=asked, headers=HEADERS).status_code == 200
    lease_id = work.open_lease(context, role="cpu", worker="w", host="h", pid=1)
    claims = work.claim(context, lease_id=lease_id, kinds=(READ,), model=None, limit=1)
    (piece,) = work.load_claims(context, claims)
    assert_reads(context, piece.claim)
    (batch,), jobs = find_kept(context, "batches"), find_kept(context, "jobs")
    assert batch.startswith(f"00-{TRACE}-")
    assert jobs == [batch] * 3
    found = client.get("/v1/jobs").json["data"]
    assert {job["trace_id"] for job in found} == {TRACE}
    assert parse_id(JOB, found[0]["id"])


def assert_reads(context: Context, claim: Claim) -> None:
    """As the CPU worker does."""
    with following(decode_trace(claim.trace)):
        assert reading.read_batch(context, claim, lambda action: action(), lambda: True)
