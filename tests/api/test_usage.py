"""Usage as a client reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

NUMBERS = {
    "jobs": 2, "prompt_tokens": 6, "completion_tokens": 4, "image_tokens": 0, "cached_tokens": 0, "images": 0,
    "device_seconds": 1.0,
}  # fmt: skip


def test_what_results_used(
    client: FlaskClient, stranger: FlaskClient, ask: Callable[..., dict[str, Any]], worker: Any, model: str
) -> None:
    for _ in range(2):
        client.post("/v1/jobs", json=ask())
    client.post(f"/v1/jobs/{client.post('/v1/jobs', json=ask()).json['id']}/cancel")
    assert worker.answer_all() == 2
    today = datetime.now(UTC).date()
    report = client.get("/v1/usage?group_by=day,model,key,schedule").json
    (row,) = report["data"]
    key = row.pop("key")
    assert key.startswith("key_")
    assert row == {"day": today.isoformat(), "model": model, "schedule": None, **NUMBERS}
    assert report["total"] == NUMBERS
    assert (report["object"], report["to"]) == ("usage", today.isoformat())
    assert report["from"] == (today - timedelta(days=29)).isoformat()
    assert client.get(f"/v1/usage?key={key}&model={model}&group_by=model").json["data"][0]["jobs"] == 2
    assert client.get("/v1/usage?model=another").json["total"]["jobs"] == 0
    assert client.get("/v1/usage?group_by=").json["data"] == [
        {"day": None, "model": None, "key": None, "schedule": None, **NUMBERS}
    ]
    assert stranger.get("/v1/usage").json["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("group_by=week", "group_by"), ("group_by=day,", "group_by"), ("from=yesterday", "from"), ("to=1", "to"),
        ("from=2026-02-02&to=2026-02-01", "from"), ("from=2020-01-01&to=2026-01-01", "from"), ("key=7", "key"),
        ("since=2026-01-01", "since"), ("from=0001-01-01", "from"),
    ],
)  # fmt: skip
def test_a_bad_query_is_named(client: FlaskClient, query: str, param: str) -> None:
    answer = client.get(f"/v1/usage?{query}")
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)
