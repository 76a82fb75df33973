"""A report says what happened, for people and programs, and what a model wrote in it stays text."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from PIL import Image

from batchinfer.cli.reviews import goldens, runs
from batchinfer.client import Client
from batchinfer.domain import reports as domain
from batchinfer.domain.ids import FILE, RUN, parse_id, show_id
from batchinfer.services import reports, userfiles
from batchinfer.services.report_page import CSP, render_report
from batchinfer.web import create_app

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\u202e{{ 7*7 }}"


class Tags(HTMLParser):
    """What is in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


@pytest.fixture
def night(make_night):
    night = make_night({"type": "jsonl"}, sample={"size": 3})
    file = io.BytesIO()
    Image.new("RGB", (60, 84), "navy").save(file, "JPEG")
    thumb = night.ctx.blobs.put(night.caller.tenant_id, file.getvalue())
    images = [{"sha256": "0" * 64, "thumbnail": {"sha256": thumb, "media_type": "image/jpeg"}}]
    night.close(f"{EVIL}.pdf", ("ok", "x"), ("failed", "invalid_output"), images=images, seconds=90)
    for number in range(5):
        night.close(f"{number}.pdf", ("ok", "x"), ("failed", "timeout"), ("blank", ""), seconds=number)
    night.close("locked.pdf", outcome="failed", error={"code": "encrypted", "message": EVIL})
    return night


def test_a_run_under_way_has_a_report_as_of_now(night):
    report = reports.get_report(night.ctx, night.caller, night.run_id)
    assert (report["state"], report["finished_at"], report["accuracy"]) == ("running", None, None)
    assert {name: report["documents"][name] for name in ("total", "completed_with_errors", "failed")} == {
        "total": 7, "completed_with_errors": 6, "failed": 1,
    }  # fmt: skip
    assert {name: report["pages"][name] for name in ("total", "ok", "blank", "failed")} == {
        "total": 17, "ok": 6, "blank": 5, "failed": 6,
    }  # fmt: skip
    assert [(cause["code"], cause["of"], cause["count"], len(cause["examples"])) for cause in report["failures"]] == [
        ("encrypted", "documents", 1, 1),
        ("timeout", "pages", 5, 3),
        ("invalid_output", "pages", 1, 1),
    ]
    assert report["failures"][2]["examples"][0]["page"] == 2
    assert report["slowest"][0]["name"] == f"{EVIL}.pdf"
    assert report["tokens"] == {"input": 170, "output": 85}


def test_pieces_of_a_long_run_bring_the_same_causes(night, monkeypatch):
    whole = reports.get_report(night.ctx, night.caller, night.run_id)["failures"]
    monkeypatch.setattr(reports, "_LINES", 3)
    assert reports.get_report(night.ctx, night.caller, night.run_id)["failures"] == whole


def test_the_page_has_no_script_and_nothing_from_elsewhere(night):
    report = reports.get_report(night.ctx, night.caller, night.run_id)
    page = render_report(report, reports.load_thumbnails(night.ctx, night.caller.tenant_id, report))
    parsed = Tags()
    parsed.feed(page)
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    sources = [value or "" for name, value in parsed.attributes if name in ("src", "href")]
    assert len(sources) == 1
    assert all(value.startswith("data:image/jpeg;base64,") for value in sources)
    assert "&lt;script&gt;alert(1)" in page
    assert "{{ 7*7 }}" in page
    assert "\u202e" not in page
    assert not re.search(r"https?://|@import|url\(", page)


def test_pictures_of_a_page_are_few_and_small(night, monkeypatch):
    report = reports.get_report(night.ctx, night.caller, night.run_id)
    monkeypatch.setattr(domain, "MAX_THUMBNAIL_BYTES", 10)
    assert reports.load_thumbnails(night.ctx, night.caller.tenant_id, report) == {}


@pytest.fixture
def web(context, api_key):
    made = create_app(context=context).test_client()
    made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {api_key}"
    return made


def test_a_report_is_served_as_json_and_as_a_page(night, web):
    at = f"/v1/runs/{show_id(RUN, night.run_id)}/report"
    assert web.get(at).json["object"] == "run.report"
    for answer in (web.get(f"{at}?format=html"), web.get(at, headers={"Accept": "text/html"})):
        assert answer.content_type == "text/html; charset=utf-8"
        assert answer.headers["Content-Security-Policy"] == CSP
        assert "default-src 'none'" in CSP
        assert "script-src" not in CSP
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert b"<!doctype html>" in answer.data
    assert web.get(f"{at}?format=pdf").json["error"]["param"] == "format"
    assert web.get("/v1/runs/run_" + "0" * 32 + "/report").json["error"]["code"] == "run_not_found"


def test_the_report_of_an_ended_run_is_the_one_that_was_written(night, web):
    night.end()
    run = night.finish()
    night.execute("UPDATE jobs SET deleted_at = now()")
    at = f"/v1/runs/{show_id(RUN, night.run_id)}/report"
    report = web.get(at).json
    assert (report["state"], report["pages"]["failed"], len(report["failures"])) == ("completed_with_errors", 6, 3)
    assert report["accuracy"]["sampled"] == 3
    _, pieces = userfiles.open_file(night.ctx, night.caller, parse_id(FILE, run.files["report.json"]))
    written = json.loads(b"".join(pieces))
    assert written["failures"] == report["failures"]
    assert written["finished_at"] is not None


def test_the_command_line_reports_and_reviews(night, web, monkeypatch, tmp_path, logged):
    night.end()
    night.finish()
    transport = Transport(web)
    client = Client("http://127.0.0.1:1", "bi_x")
    for noun in (client.reviews, client.goldens):
        noun._transport = transport
    monkeypatch.setattr("batchinfer.cli.remote.open_client", lambda *_: client)
    run_id = show_id(RUN, night.run_id)
    told = CliRunner().invoke(runs, ["report", run_id])
    assert told.exit_code == 0, told.output
    assert "completed_with_errors" in told.output
    assert "timeout" in told.output
    assert "\u202e" not in told.output
    keys = iter("xyns")
    monkeypatch.setattr("click.getchar", lambda: next(keys))
    told = CliRunner().invoke(runs, ["review", run_id])
    assert told.exit_code == 0, told.output
    assert "1 of 2 judged pages, 50.0 %" in told.output
    assert "Nothing is left" in told.output
    told = CliRunner().invoke(runs, ["sample", run_id, "--size", "6", "--json"])
    lines = [json.loads(line) for line in told.output.splitlines()]
    assert [line["verdict"] for line in lines] == ["right", "wrong", None, None, None, None]
    assert json.loads(CliRunner().invoke(runs, ["report", run_id, "--json"]).output)["accuracy"]["judged"] == 2
    assert CliRunner().invoke(runs, ["seal", run_id]).output.split()[1] == "completed_with_errors"
    assert CliRunner().invoke(goldens, ["list"]).output == ""
    page = tmp_path / "report.html"
    assert CliRunner().invoke(runs, ["report", run_id, "--html", str(page)]).exit_code == 0
    assert "<!doctype html>" in page.read_text()


class Transport:
    """The client's, over the application without a network."""

    def __init__(self, web):
        self.web = web

    def ask(self, method, path, *, params=None, json=None):
        answer = self.web.open(path, method=method, query_string=params, json=json)
        assert answer.status_code == 200, answer.json
        return answer.json

    def list(self, path, query, limit):
        asked = {name: value for name, value in query.items() if value is not None}
        yield from self.ask("GET", path, params={**asked, "limit": limit or 100})["data"]

    def download(self, path, to):
        return to.write_bytes(self.web.get(path).data)
