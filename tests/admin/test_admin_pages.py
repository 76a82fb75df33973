"""The three pages as a browser without JavaScript gets them, and the fragments that live regions poll."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import text as sql

from batchinfer.domain import ids
from batchinfer.services import keys
from batchinfer.store.clean import as_jsonb
from batchinfer.store.keys import ensure_tenant
from batchinfer.store.pages import find_leaf

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

POLL = {"HX-Request": "true"}
ANSWER = '{"vendor": "Zorvex Supply", "total": "1204.50", "lines": [{"item": "bolts"}], "paid": null}'


def show(job: Any) -> str:
    return ids.show_id(ids.JOB, job.id)


def rows(page: str) -> list[str]:
    return re.findall(r'<tr id="(job_[0-9a-f]{32})"', page)


def test_an_empty_installation_teaches_the_first_step(client: FlaskClient) -> None:
    for path in ("/admin/", "/admin/jobs"):
        page = client.get(path)
        assert page.status_code == 200
        assert "Nothing was submitted yet." in page.text
        assert "curl -sS http://localhost/v1/jobs" in page.text


def test_the_overview_counts_what_waits_runs_and_ended(client: FlaskClient, stage: Any) -> None:
    stage.page_job(1, answer=ANSWER)
    stage.fail(stage.submit("Read."), "The engine ran out of <memory>.")
    stage.submit("Wait.")
    text = html.unescape(re.sub(r"<[^>]+>|\s+", " ", client.get("/admin/").text))
    flat = re.sub(r"\s+", " ", text)
    assert "Waiting 1 " in flat
    assert "Succeeded 1 in the last hour" in flat
    assert "Failed 1 in the last hour" in flat
    assert "The engine ran out of <memory>." in flat
    assert "model@stage" in flat
    assert "cpu@stage" in flat
    assert "2 alive" in flat


def test_the_list_shows_newest_first_with_words_of_prompt_and_answer(client: FlaskClient, stage: Any) -> None:
    first = stage.page_job(1, answer=ANSWER)
    second = stage.fail(stage.submit("Transcribe\nthis."), "No such page.")
    third = stage.submit("Later.")
    page = client.get("/admin/jobs").text
    assert rows(page) == [show(third), show(second), show(first)]
    assert "Zorvex Supply" in page
    assert "Transcribe this." in page
    assert "No such page." in page
    assert f"/admin/jobs/{show(first)}/images/0" in page
    for word in ("succeeded", "failed", "queued"):
        assert f'#{word}"></use>' in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [("state=succeeded", [0]), ("state=failed", [1]), ("state=queued", [2]), ("state=preparing", [3]),
     ("state=running", [4]), ("state=cancelled", []), ("state=&model=", [4, 3, 2, 1, 0]),
     ("model=reader", [4, 3, 2, 1, 0]), ("model=other", []), ("state=failed&model=reader", [1])],
)  # fmt: skip
def test_filters_are_in_the_address(client: FlaskClient, stage: Any, query: str, expected: list[int]) -> None:
    jobs = [stage.page_job(1, answer=ANSWER), stage.fail(stage.submit("Read."), "No.")]
    running = stage.submit("Run.")
    stage.claim(running)
    jobs += [stage.submit("Wait."), stage.submit(pictures=[b"\x89PNG\r\n\x1a\n" + b"0" * 64]), running]
    order = sorted(expected, key=lambda place: jobs[place].id, reverse=True)
    assert rows(client.get(f"/admin/jobs?{query}").text) == [show(jobs[place]) for place in order]


@pytest.mark.parametrize(
    "query", ["state=done", "document=x", "document=doc_1", "before=job_", "after=%00", "state=%27%20OR%201"]
)
def test_a_filter_that_cannot_be_says_so(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/admin/jobs?{query}")
    assert answer.status_code == 400
    assert query.split("=", maxsplit=1)[0] in answer.text


def test_pages_of_the_list_follow_keys_both_ways(
    client: FlaskClient, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchinfer.admin.jobs.ROWS", 3)
    jobs = [show(stage.submit(f"Number {number}.")) for number in range(8)][::-1]
    first = client.get("/admin/jobs?state=queued").text
    assert rows(first) == jobs[:3]
    assert 'rel="prev"' not in first
    second = client.get(link(first, "next")).text
    assert rows(second) == jobs[3:6]
    last = client.get(link(second, "next")).text
    assert rows(last) == jobs[6:]
    assert 'rel="next"' not in last
    assert rows(client.get(link(last, "prev")).text) == jobs[3:6]
    assert rows(client.get(link(client.get(link(last, "prev")).text, "prev")).text) == jobs[:3]


def link(page: str, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="([^"]+)"', page)
    assert found is not None
    return html.unescape(found[1])


def test_the_job_page_has_picture_answer_prompt_attempts_and_command(client: FlaskClient, stage: Any) -> None:
    job = stage.page_job(1, answer=ANSWER)
    page = client.get(f"/admin/jobs/{show(job)}").text
    assert f'<img src="/admin/jobs/{show(job)}/images/0"' in page
    for text in ("vendor", "Zorvex Supply", "1204.50", "bolts", "Extract.", "decoding", "curl -sS", "data-final"):
        assert text in page
    assert page.count("<h1") == 1
    assert "model@stage" in page


def test_errors_belong_to_attempts_newest_first(client: FlaskClient, stage: Any) -> None:
    job = stage.submit("Read.")
    stage.fail(job, "First <b>trouble</b>.", transient=True)
    with stage.context.db.transaction() as tx:
        tx.exec_driver_sql("UPDATE queue SET available_at = now()")
    stage.answer(job, "Fine in the end.")
    page = client.get(f"/admin/jobs/{show(job)}").text
    table = page[page.index('<table class="attempts"') :]
    assert table.index("succeeded") < table.index("First &lt;b&gt;trouble&lt;/b&gt;.")
    assert 'class="notice bad"' not in page
    assert "Fine in the end." in page


def test_an_unprepared_picture_is_a_placeholder(client: FlaskClient, stage: Any) -> None:
    job = stage.submit(pictures=[b"\x89PNG\r\n\x1a\n" + b"0" * 64])
    page = client.get(f"/admin/jobs/{show(job)}").text
    assert "Not prepared yet" in page
    assert "<img" not in page
    assert client.get(f"/admin/jobs/{show(job)}/images/0").status_code == 404


def test_the_picture_is_the_normalised_one(client: FlaskClient, stage: Any) -> None:
    job = stage.page_job(3)
    answer = client.get(f"/admin/jobs/{show(job)}/images/0")
    normal = job.prompt["images"][0]["normal"]
    assert answer.mimetype == "image/png"
    assert answer.data == stage.context.blobs.read(stage.caller.tenant_id, normal["sha256"])
    assert normal["sha256"] != job.prompt["images"][0]["sha256"]
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    etag = answer.headers["ETag"]
    assert client.get(f"/admin/jobs/{show(job)}/images/0", headers={"If-None-Match": etag}).status_code == 304
    assert client.get(f"/admin/jobs/{show(job)}/images/1").status_code == 404
    assert client.get(f"/admin/jobs/{show(job)}/images/-1").status_code == 404


HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\u202egnp.exe\u0007 {{ 1111*1111 }}"


def test_hostile_texts_stay_text(client: FlaskClient, stage: Any) -> None:
    job = stage.answer(stage.submit(HOSTILE, metadata={"<i>name</i>": HOSTILE}), HOSTILE)
    tree = stage.answer(stage.submit("x"), '{"<script>k": "<script>v\\u202e"}')
    failed = stage.fail(stage.submit(HOSTILE), HOSTILE)
    for path in ("/admin/", "/admin/jobs", *(f"/admin/jobs/{show(each)}" for each in (job, tree, failed))):
        page = client.get(path).text
        assert "<script>" not in page
        assert "<img src=x" not in page
        assert "<i>name" not in page
        assert "\u202e" not in page
        assert "1234321" not in page
    assert "U+202E" in client.get("/admin/jobs").text


def test_a_megabyte_on_one_line_is_cut_and_a_download_away(client: FlaskClient, stage: Any) -> None:
    job = stage.answer(stage.submit("Read."), "x" * 1_000_000)
    assert len(client.get("/admin/jobs").text) < 50_000
    page = client.get(f"/admin/jobs/{show(job)}").text
    assert len(page) < 150_000
    assert "1,000,000 characters" in page
    answer = client.get(f"/admin/jobs/{show(job)}/answer.txt")
    assert (answer.mimetype, len(answer.data)) == ("text/plain", 1_000_000)
    assert answer.headers["Content-Disposition"].startswith("attachment")


@pytest.mark.parametrize("path", ["/admin/", "/admin/jobs", "job"])
def test_a_fragment_that_did_not_change_answers_204(client: FlaskClient, stage: Any, path: str) -> None:
    job = stage.answer(stage.submit("Read."), "Done.")
    path = f"/admin/jobs/{show(job)}" if path == "job" else path
    first = client.get(path, headers=POLL)
    assert first.status_code == 200
    assert "<html" not in first.text
    seen = re.search(r'id="seen" name="seen" value="(\w+)"', first.text)
    assert seen is not None
    again = client.get(path, headers=POLL, query_string={"seen": seen[1]})
    assert (again.status_code, again.data) == (204, b"")
    assert re.fullmatch(r"\d\d:\d\d:\d\d UTC", again.headers["X-As-Of"])
    assert seen[1] in client.get(path).text
    stage.submit("Another.")
    changed = client.get(path, headers=POLL, query_string={"seen": seen[1]})
    assert changed.status_code == (204 if "job_" in path else 200)


@pytest.fixture
def stranger(context: Context, sign_in: Callable[[str], FlaskClient]) -> FlaskClient:
    """A browser signed in for another tenant."""
    tenant = UUID("00000000-0000-7000-8000-000000000002")
    with context.db.transaction() as tx:
        ensure_tenant(tx, tenant, "other")
    _, token = keys.create_key(context, "stranger", tenant_id=tenant)
    return sign_in(token)


def test_another_tenant_sees_nothing(stranger: FlaskClient, client: FlaskClient, stage: Any) -> None:
    job = stage.page_job(1, answer=ANSWER)
    stage.submit("Wait.")
    for path in (
        f"/admin/jobs/{show(job)}",
        f"/admin/jobs/{show(job)}/images/0",
        f"/admin/jobs/{show(job)}/answer.txt",
    ):
        assert client.get(path).status_code == 200
        assert stranger.get(path).status_code == 404
    for query in ("", "?state=succeeded", "?state=queued", "?model=reader"):
        assert rows(client.get(f"/admin/jobs{query}").text)
        page = stranger.get(f"/admin/jobs{query}").text
        assert not rows(page)
        assert 'class="count">1' not in page
    assert "Nothing was submitted yet." in stranger.get("/admin/").text


@pytest.mark.parametrize("path", ["/admin/nowhere", "/admin/jobs/nothing", "/admin/jobs/job_" + "0" * 32])
def test_what_is_not_there_is_a_page_with_a_way_back(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert 'href="/admin/jobs"' in answer.text


def test_a_database_that_does_not_answer_is_a_page(client: FlaskClient, context: Context, monkeypatch: Any) -> None:
    from batchinfer.errors import Unavailable

    def fail(*_: object, **__: object) -> None:
        raise Unavailable("The database does not answer.", retry_after_s=5)

    monkeypatch.setattr("batchinfer.store.pages.search_rows", fail)
    answer = client.get("/admin/jobs")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "The database does not answer." in answer.text


def test_a_fault_of_ours_shows_no_trace(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("batchinfer.store.pages.search_rows", fail)
    answer = client.get("/admin/jobs")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text


def test_a_page_of_a_document_knows_its_neighbours(client: FlaskClient, stage: Any, context: Context) -> None:
    document, jobs = stage.document([1, 2, 3], filename="<b>night\u202e.pdf")
    pages = [show(job) for job in jobs]
    middle = client.get(f"/admin/jobs/{pages[1]}").text
    assert link(middle, "prev").endswith(pages[0])
    assert link(middle, "next").endswith(pages[2])
    assert "Page 2 of 3" in re.sub(r"\s+", " ", middle)
    assert "&lt;b&gt;night" in middle
    assert "\u202e" not in middle
    assert 'rel="prev"' not in client.get(f"/admin/jobs/{pages[0]}").text
    listed = client.get(f"/admin/jobs?document={ids.show_id(ids.DOCUMENT, document)}").text
    assert rows(listed) == sorted(pages, reverse=True)
    assert "3 pages" in listed
    with context.db.transaction() as tx:
        assert find_leaf(tx, ids.new_id(), document, 2) is None
    other = client.get(f"/admin/jobs?document={ids.show_id(ids.DOCUMENT, ids.new_id())}")
    assert other.status_code == 404


def test_the_small_copy_stands_for_a_picture_that_was_let_go(client: FlaskClient, stage: Any) -> None:
    job = stage.page_job(answer="read")
    blobs, tenant = stage.context.blobs, stage.caller.tenant_id
    small = as_jpeg((90, 128))
    kept = {"sha256": blobs.put(tenant, small), "media_type": "image/jpeg", "width": 90, "height": 128}
    with stage.context.db.transaction() as tx:
        tx.execute(
            sql("UPDATE jobs SET prompt = jsonb_set(prompt, '{images,0,thumbnail}', :kept) WHERE id = :id"),
            {"kept": as_jsonb(kept), "id": job.id},
        )
    assert "A small copy" not in client.get(f"/admin/jobs/{show(job)}").text
    blobs.path(tenant, job.prompt["images"][0]["normal"]["sha256"]).unlink()
    assert "A small copy" in client.get(f"/admin/jobs/{show(job)}").text
    answer = client.get(f"/admin/jobs/{show(job)}/images/0")
    assert (answer.status_code, answer.mimetype, answer.data) == (200, "image/jpeg", small)


def as_jpeg(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "white").save(buffer, "JPEG")
    return buffer.getvalue()
