"""Lists: each row once, newest first, filters, and what is wrong with a query."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient


def read_all(client: FlaskClient, path: str, limit: int) -> list[str]:
    """The ids of a list, page by page, as OpenAI's SDK goes through it."""
    ids: list[str] = []
    after = ""
    while True:
        page = client.get(f"{path}?limit={limit}{after}").json
        assert page["object"] == "list"
        assert len(page["data"]) <= limit
        ids += [thing["id"] for thing in page["data"]]
        if page["data"]:
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            return ids
        after = f"&after={page['last_id']}"


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_paging_brings_each_job_once(client: FlaskClient, ask: Callable[..., dict[str, Any]], limit: int) -> None:
    made = [client.post("/v1/jobs", json=ask()).json["id"] for _ in range(7)]
    assert read_all(client, "/v1/jobs", limit) == made[::-1]


def test_a_job_that_comes_while_paging_moves_nothing(client: FlaskClient, ask: Callable[..., dict[str, Any]]) -> None:
    made = [client.post("/v1/jobs", json=ask()).json["id"] for _ in range(4)]
    first = client.get("/v1/jobs?limit=2").json
    client.post("/v1/jobs", json=ask())
    second = client.get(f"/v1/jobs?limit=2&after={first['last_id']}").json
    assert [job["id"] for job in first["data"] + second["data"]] == made[::-1]
    assert second["has_more"] is False


def test_paging_brings_each_document_once(client: FlaskClient, model: str) -> None:
    def submit() -> str:
        form = {"model": model, "prompt": "x", "file": (io.BytesIO(b"%PDF-1.7"), "a.pdf")}
        document_id: str = client.post("/v1/jobs", data=form).json["id"]
        return document_id

    made = [submit() for _ in range(3)]
    assert read_all(client, "/v1/documents", 2) == made[::-1]


def test_an_empty_list(client: FlaskClient) -> None:
    assert client.get("/v1/jobs").json == {
        "object": "list",
        "has_more": False,
        "data": [],
        "first_id": None,
        "last_id": None,
    }


def test_filters(client: FlaskClient, ask: Callable[..., dict[str, Any]], model: str) -> None:
    kept = client.post("/v1/jobs", json=ask()).json["id"]
    ended = client.post("/v1/jobs", json=ask()).json["id"]
    client.post(f"/v1/jobs/{ended}/cancel")

    def ids(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/v1/jobs?{query}").json["data"]]

    assert ids("status=queued") == [kept]
    assert ids("status=cancelled") == [ended]
    assert ids("status=failed") == []
    assert ids(f"model={model}&status=queued") == [kept]
    assert ids("model=another") == []
    assert ids(f"document=doc_{'0' * 32}") == []


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("limit=0", "limit", "invalid_value"),
        ("limit=101", "limit", "invalid_value"),
        ("limit=many", "limit", "invalid_value"),
        ("limit=1e400", "limit", "invalid_value"),
        ("status=done", "status", "invalid_value"),
        ("after=7", "after", "invalid_cursor"),
        ("after=doc_" + "0" * 32, "after", "invalid_cursor"),
        ("after=job_" + "0" * 32 + "'", "after", "invalid_cursor"),
        ("document=job_" + "0" * 32, "document", "invalid_value"),
        ("model=a%00b", "model", "invalid_characters"),
        ("after=%00", "after", "invalid_characters"),
        ("model=" + "m" * 257, "model", "invalid_value"),
        ("state=queued", "state", "unknown_parameter"),
        ("limt=4", "limt", "unknown_parameter"),
    ],
)
def test_a_bad_query_is_named(client: FlaskClient, query: str, param: str, code: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    error = answer.json["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert param in error["message"]


def test_a_misspelt_parameter_is_answered_with_the_nearest(client: FlaskClient) -> None:
    assert "`limit`" in client.get("/v1/jobs?limt=4").json["error"]["message"]
    assert "1 to 100" in client.get("/v1/jobs?limit=0").json["error"]["message"]


@pytest.mark.parametrize("job_id", ["x", "job_", "job_zz", "doc_" + "0" * 32, "job_" + "0" * 31, "job_%00" + "0" * 31])
def test_what_is_no_id_is_not_there(client: FlaskClient, job_id: str) -> None:
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 404
