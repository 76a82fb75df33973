"""Prompt templates over HTTP."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flask.testing import FlaskClient

SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def test_a_template_and_its_versions(client: FlaskClient) -> None:
    text = {"prompt": "Read page {{ page }} of {{ page_count }}.", "system": "You read.", "response_format": SCHEMA}
    made = client.post("/v1/templates", json={"name": "invoice", "note": "first", **text})
    assert made.status_code == 200
    template = made.json
    path = f"/v1/templates/{template['id']}"
    assert (template["object"], template["name"], template["version"]) == ("template", "invoice", 1)
    (version,) = template["versions"]
    assert (version["prompt"], version["system"], version["note"]) == (text["prompt"], "You read.", "first")
    assert version["response_format"]["type"] == "json_schema"
    same = client.post(f"{path}/versions", json={**text, "note": "the same"}).json
    assert same == template, "the same text makes no version"
    newer = client.post(f"{path}/versions", json={"prompt": "Shorter."}).json
    assert [(one["version"], one["prompt"]) for one in newer["versions"]] == [(2, "Shorter."), (1, text["prompt"])]
    assert client.get(path).json == newer
    (listed,) = client.get("/v1/templates").json["data"]
    assert (listed["version"], "versions" in listed) == (2, False)
    assert client.delete(path).json["deleted"] is True
    for answer in (client.get(path), client.post(f"{path}/versions", json={"prompt": "x"}), client.delete(path)):
        assert (answer.status_code, answer.json["error"]["code"]) == (404, "template_not_found")
    assert client.post("/v1/templates", json={"name": "invoice", "prompt": "x"}).json["version"] == 1


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"prompt": "{{ nobody }}"}, "unknown_variable", "prompt"),
        ({"prompt": "a\n{% for %}"}, "invalid_template", "prompt"),
        ({"prompt": "{{ page.__class__.__mro__ }}"}, "invalid_template", "prompt"),
        ({"system": "{{ () }}{{ range(9) }}"}, "unknown_variable", "system"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": None}, "missing_required_parameter", "prompt"),
        ({"name": None}, "missing_required_parameter", "name"),
        ({"response_format": {"type": "poem"}}, "invalid_value", "response_format.type"),
        ({"text": "x"}, "unknown_parameter", "text"),
    ],
)
def test_a_template_that_cannot_work(client: FlaskClient, change: dict[str, Any], code: str, param: str) -> None:
    answer = client.post("/v1/templates", json={"name": "t", "prompt": "Read.", **change})
    assert (answer.status_code, answer.json["error"]["code"], answer.json["error"]["param"]) == (400, code, param)
    assert client.get("/v1/templates").json["data"] == []


def test_names_keys_and_applying(client: FlaskClient, stranger: FlaskClient, read_all: Any) -> None:
    body, headers = {"name": "t", "prompt": "Read."}, {"Idempotency-Key": "k"}
    first = client.post("/v1/templates", json=body, headers=headers)
    assert client.post("/v1/templates", json=body, headers=headers).json == first.json
    assert client.post("/v1/templates", json=body).json["error"]["code"] == "template_exists"
    assert stranger.post("/v1/templates", json=body).status_code == 200
    applied = [client.post("/v1/templates/apply", json=one).json for one in (body, {**body, "prompt": "Read it."})]
    assert [(one["applied"], one["version"]) for one in applied] == [("unchanged", 1), ("changed", 2)]
    assert client.post("/v1/templates/apply", json={**body, "name": "u"}).json["applied"] == "created"
    assert len(read_all("/v1/templates", 1)) == 2


def test_a_run_takes_the_newest_version_or_the_one_that_it_names(client: FlaskClient, model: str, declare: Any) -> None:
    made = client.post("/v1/templates", json={"name": "t", "prompt": "One.", "system": "S"}).json["id"]
    client.post(f"/v1/templates/{made}/versions", json={"prompt": "Two."})
    expected = {"t": ("Two.", None, 2), ("t", 1): ("One.", "S", 1)}
    for named, (prompt, system, version) in expected.items():
        template = named if isinstance(named, str) else {"name": named[0], "version": named[1]}
        body = declare(pipeline={"model": model, "template": template})
        resolved = client.post("/v1/runs", json=body).json["resolved"]
        assert (resolved["prompt"], resolved["system"]) == (prompt, system)
        assert resolved["template"] == {"name": "t", "version": version}


def test_a_try_is_a_run_over_the_first_pages(client: FlaskClient, model: str) -> None:
    def upload() -> str:
        form = {"purpose": "user_data", "file": (io.BytesIO(b"%PDF-1.7"), "a.pdf")}
        made: str = client.post("/v1/files", data=form).json["id"]
        return made

    files = [upload() for _ in range(4)]
    path = f"/v1/templates/{client.post('/v1/templates', json={'name': 't', 'prompt': 'Read.'}).json['id']}"
    run = client.post(f"{path}/try", json={"model": model, "files": files[:1], "generation": {"max_tokens": 9}}).json
    assert (run["class"], run["name"], run["metadata"]["version"]) == ("interactive", "try t", "1")
    pipeline = run["spec"]["pipeline"]
    assert pipeline["render"] == {"pages": "1-3"}
    assert (pipeline["template"], pipeline["generation"]) == ({"name": "t", "version": 1}, {"max_tokens": 9})
    assert run["spec"]["source"] == {"files": files[:1], "incremental": "off"}
    three = client.post(f"{path}/try", json={"model": model, "files": files[:3]}).json
    assert three["spec"]["pipeline"]["render"] == {"pages": "1-1"}
    for change, param in (
        ({"files": files}, "files"), ({"files": []}, "files"), ({"pages": 4}, "pages"), ({"pages": 1}, "files"),
        ({"version": 9}, "pipeline.template"), ({"model": "gone"}, "pipeline.model"), ({"prompt": "x"}, "prompt"),
    ):  # fmt: skip
        answer = client.post(f"{path}/try", json={"model": model, "files": files[:2], **change})
        assert (answer.status_code in (400, 404), answer.json["error"]["param"]) == (True, param)
