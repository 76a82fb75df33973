"""Every filter of the list of jobs, alone and together: what comes back is all that fits, each once."""

from __future__ import annotations

import itertools
import json
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import BATCH, DEFAULT_TENANT, JOB, new_id, show_id
from batchinfer.domain.jobs import JobClass
from batchinfer.store import jobs, queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
BATCHES = [new_id(), new_id()]
STATES = ["queued", "running", "succeeded", "cancelled"]
MODELS = ["one", "two"]
PAIRS = [{}, {"customer": "a"}, {"customer": "a", "lot": "7"}, {"customer": "b"}]


def fill(context: Context) -> list[dict[str, Any]]:
    """Jobs of many kinds, made at different hours; what each is."""
    chance = random.Random(4)
    made = []
    for number in range(60):
        job_id, state = new_id(), chance.choice(STATES)
        row = {
            "id": show_id(JOB, job_id), "status": state, "model": chance.choice(MODELS),
            "class": str(chance.choice(list(JobClass))), "batch": chance.choice([None, *BATCHES]),
            "created": NOON + timedelta(hours=chance.randint(-5, 5)), "metadata": chance.choice(PAIRS),
        }  # fmt: skip
        with context.db.transaction() as tx:
            new = jobs.NewJob(
                job_id, DEFAULT_TENANT, row["model"], JobClass(row["class"]), {"images": []}, row["metadata"],
                batch_id=row["batch"], line=number + 1, custom_id=str(number),
            )  # fmt: skip
            jobs.insert_jobs(tx, [new])
            if state in {"queued", "running"}:
                queue.enqueue(tx, [queue.Entry(job_id, "infer", DEFAULT_TENANT, row["model"], new.job_class)])
                tx.execute(text("UPDATE queue SET state = :state WHERE id = :id"), {"state": state, "id": job_id})
            values = {"id": job_id, "created": row["created"], "state": None if state in STATES[:2] else state}
            tx.execute(text("UPDATE jobs SET created_at = :created, final_state = :state WHERE id = :id"), values)
        made.append(row)
    return made[::-1]


def fits(row: dict[str, Any], name: str, value: Any) -> bool:
    if name == "metadata":
        return value.items() <= row["metadata"].items()
    if name in {"created_from", "created_before"}:
        return (row["created"] >= value) == (name == "created_from")
    return bool(row[name] == value)


def write(name: str, value: Any) -> str:
    if name == "metadata":
        return json.dumps(value)
    if name in {"created_from", "created_before"}:
        return str(value.timestamp())
    return show_id(BATCH, value) if name == "batch" else value


def test_filters_are_complete_and_bring_each_job_once(client: FlaskClient, context: Context) -> None:
    made = fill(context)
    choices = {
        "status": "queued", "model": "one", "class": "normal", "batch": BATCHES[0], "metadata": {"customer": "a"},
        "created_from": NOON - timedelta(hours=2), "created_before": NOON + timedelta(hours=3),
    }  # fmt: skip
    tried = [(), *((name,) for name in choices), *itertools.combinations(choices, 2), tuple(choices)[1:6]]
    tried += [("status=running",), ("status=cancelled", "model"), ("status=succeeded", "created_from")]
    for names in tried:
        conditions = {n.split("=")[0]: n.split("=")[1] if "=" in n else choices[n] for n in names}
        expected = [row["id"] for row in made if all(fits(row, *one) for one in conditions.items())]
        query = urlencode({name: write(name, value) for name, value in conditions.items()})
        found, after = [], ""
        while True:
            page = client.get(f"/v1/jobs?limit=9&{query}{after}").json
            found += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        assert found == expected, names


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("class=urgent", "class"), ("batch=job_" + "0" * 32, "batch"), ("created_from=yesterday", "created_from"),
        ("created_before=-1", "created_before"), ("created_before=nan", "created_before"),
        ("created_from=1e300", "created_from"), ("metadata=a", "metadata"), ("metadata=[1]", "metadata"),
        ('metadata={"a":1}', "metadata.a"), ("metadata=%00", "metadata"), ("job_class=normal", "job_class"),
    ],
)  # fmt: skip
def test_a_bad_filter_is_named(client: FlaskClient, query: str, param: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)
    assert param in answer.json["error"]["message"]


@pytest.mark.parametrize("bound", ["0", "0.22", "10000000000"])
def test_the_ends_of_time_are_bounds_too(client: FlaskClient, ask: Callable[..., dict[str, Any]], bound: str) -> None:
    job_id = client.post("/v1/jobs", json=ask()).json["id"]
    since = client.get(f"/v1/jobs?created_from={bound}").json["data"]
    until = client.get(f"/v1/jobs?created_before={bound}").json["data"]
    assert [[job["id"] for job in found] for found in (since, until)].count([job_id]) == 1
    assert [] in (since, until)
