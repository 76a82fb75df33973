"""The Python client on a whole service: submit, wait, map over a folder, resume."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from batchinfer import errors
from batchinfer.client import Batch, Client, Document, Job, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD = ("a.png", "b.png", "c.png", "deep/d.png", "deep/e.pdf")
BROKEN = "broken.png"


@pytest.fixture
def ours(service: Any) -> Iterator[Client]:
    with Client(service.url, service.key) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures, a PDF of two pages, a picture that is none, and what nobody asks for."""
    folder = tmp_path / "scans"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    pages = [Image.new("RGB", (64, 48), (number * 20, 99, 7)) for number in range(6)]
    for name, page in zip(GOOD[:4], pages, strict=False):
        page.save(folder / name)
    pages[4].save(folder / GOOD[4], save_all=True, append_images=[pages[5]])
    (folder / BROKEN).write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("not a picture")
    (folder / "deep" / ".hidden" / "x.png").write_bytes((folder / "a.png").read_bytes())
    return folder


def test_a_text_a_picture_and_a_document(ours: Client, model: str, folder: Path) -> None:
    text = ours.wait(ours.submit("Say which request this is.", metadata={"page": "7"}), 120)
    assert isinstance(text, Job)
    assert (text.status, text.model, text.metadata) == ("succeeded", model, {"page": "7"})
    assert text.result is not None
    assert text.result.engine == "fake"
    picture = ours.wait(
        ours.submit("Read.", folder / "a.png", max_tokens=5, job_class="batch", system="Be brief."), 120
    )
    assert picture.succeeded
    both = [(folder / "a.png").read_bytes(), folder / "b.png"]
    assert ours.wait(ours.submit("Compare.", both, response_format={"type": "text"}), 120).succeeded
    document = ours.wait(ours.submit("Read.", folder / "deep" / "e.pdf"), 120)
    assert isinstance(document, Document)
    assert (document.status, document.pages, document.filename) == ("completed", 2, "e.pdf")
    assert [ours.jobs.get(job_id).page for job_id in document.jobs] == [1, 2]
    assert ours.documents.list(limit=1).__next__().id == document.id
    assert [attempt.outcome for attempt in ours.jobs.list_attempts(text.id)] == ["succeeded"]
    with pytest.raises(errors.Conflict):
        ours.jobs.cancel(text.id)
    kept = [ours.wait(ours.submit("Once.", cache="reuse"), 120).cached for _ in range(2)]
    assert kept == [False, True]
    said = ours.submit_messages([{"role": "user", "content": "Hello."}], idempotency_key="hello")
    again = ours.submit_messages([{"role": "user", "content": "Hello."}], idempotency_key="hello")
    assert said.id == again.id


def test_what_is_refused_names_the_field(ours: Client, tmp_path: Path) -> None:
    with pytest.raises(errors.BadRequest, match="temperature") as caught:
        ours.submit("Hello.", temperature=9.0)
    assert caught.value.param == "temperature"
    assert caught.value.request_id
    with pytest.raises(errors.NotFound):
        ours.jobs.get("job_" + "0" * 32)
    with pytest.raises(errors.NotFound):
        ours.models.get("org/none")
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(100))
    with pytest.raises(errors.Unsupported):
        ours.submit("Read.", tmp_path / "a.gif")


def test_a_wait_that_is_too_short_says_which_job_goes_on(ours: Client) -> None:
    job = ours.submit("x" * 200, max_tokens=4000)
    with pytest.raises(errors.Overrun) as caught:
        ours.wait(job, 0)
    assert caught.value.job_id == job.id


def test_a_folder_with_a_bad_picture_among_good_ones(ours: Client, folder: Path) -> None:
    outcomes = list(ours.map(folder, "Read this page.", in_flight=3, ordered=True))
    assert [outcome.file for outcome in outcomes] == sorted([*GOOD, BROKEN])
    assert [outcome.index for outcome in outcomes] == list(range(6))
    by_name = {outcome.file: outcome for outcome in outcomes}
    assert {name for name, outcome in by_name.items() if outcome.succeeded} == set(GOOD)
    bad = by_name[BROKEN]
    assert (bad.status, bad.error is not None and bad.error.code) == ("failed", "image_parse_error")
    assert len(by_name["deep/e.pdf"].jobs) == len(by_name["deep/e.pdf"].texts) == 2
    assert all(by_name["deep/e.pdf"].texts)


def test_more_files_than_may_be_in_flight_at_once(ours: Client, tmp_path: Path) -> None:
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number:02}.png")
    said: list[tuple[int, int, str]] = []

    class Told:
        def show(self, done: int, total: int, text: str) -> None:
            said.append((done, total, text))

    outcomes = list(ours.map(tmp_path, "Read.", in_flight=8, progress=Told()))
    assert sorted(outcome.file for outcome in outcomes) == [f"{number:02}.png" for number in range(40)]
    assert all(outcome.succeeded for outcome in outcomes)
    assert len({outcome.id for outcome in outcomes}) == 40
    assert said[-1][:2] == (40, 40)
    flying = [int(text.split(" in flight")[0].split()[-1]) for _, _, text in said if "in flight" in text]
    assert max(flying, default=0) <= 8


def test_a_second_run_redoes_nothing(ours: Client, folder: Path, tmp_path: Path) -> None:
    before = sum(1 for _ in ours.jobs.list())
    options = {"state": tmp_path / "state", "in_flight": 4}
    first = list(islice(write_jsonl(ours.map(folder, "Read once.", **options), tmp_path / "out.jsonl"), 2))
    rest = list(write_jsonl(ours.map(folder, "Read once.", **options), tmp_path / "out.jsonl"))
    # The second outcome was given, but not asked past: it is told again, and its line is not written again.
    assert sorted(outcome.file for outcome in [first[0], *rest]) == sorted([*GOOD, BROKEN])
    assert list(ours.map(folder, "Read once.", **options)) == []
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(line["file"] for line in lines) == sorted([*GOOD, BROKEN])
    # Five pictures and two pages, each submitted once.
    assert sum(1 for _ in ours.jobs.list()) - before == 7
    again = list(ours.map(folder, "Read once.", retry_failed=True, **options))
    assert [outcome.file for outcome in again] == [BROKEN]
    assert sum(1 for _ in ours.jobs.list()) - before == 8
    with pytest.raises(errors.Conflict, match="another request"):
        list(ours.map(folder, "Read twice.", **options))


def test_a_submission_that_was_not_noted_is_found_again(ours: Client, folder: Path, tmp_path: Path) -> None:
    """A crash between the service's answer and the journal's line."""
    first = {outcome.file: outcome.id for outcome in ours.map(folder, "Note.", state=tmp_path / "state")}
    lines = (tmp_path / "state").read_text().splitlines(keepends=True)
    (tmp_path / "state").write_text(lines[0])
    second = {outcome.file: outcome.id for outcome in ours.map(folder, "Note.", state=tmp_path / "state")}
    assert second == first


def test_what_concerns_all_files_is_raised(ours: Client, service: Any, folder: Path) -> None:
    with pytest.raises(errors.BadRequest, match="temperature"):
        list(ours.map(folder, "Read.", temperature=9.0))
    with pytest.raises(errors.NotFound):
        list(ours.map(folder, "Read.", model="org/none"))
    with pytest.raises(errors.BadRequest, match="in_flight"):
        list(ours.map(folder, "Read.", in_flight=0))
    with Client(service.url, "bi_00000000_" + "x" * 43) as stranger, pytest.raises(errors.Unauthenticated):
        list(stranger.map(folder, "Read."))


def test_files_that_are_named_need_not_be_pictures(ours: Client, folder: Path) -> None:
    named = [folder / "notes.txt", folder / "gone.png", folder / "a.png"]
    outcomes = list(ours.map(named, "Read.", ordered=True))
    assert [(outcome.status, outcome.error and outcome.error.code) for outcome in outcomes] == [
        ("refused", "unsupported_media_type"),
        ("refused", "storage_error"),
        ("succeeded", None),
    ]


def test_files_and_batches(ours: Client, model: str, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    body = {"model": model, "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 5}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    path.write_text("".join(json.dumps({"custom_id": f"r{number}", **line}) + "\n" for number in range(5)))
    file = ours.files.upload(path, expires_s=3600)
    assert (file.filename, file.purpose, file.bytes) == ("in.jsonl", "batch", path.stat().st_size)
    assert ours.files.get(file.id) == next(ours.files.list(purpose="batch"))
    batch = ours.batches.create(file.id, metadata={"night": "1"}, priority="high", idempotency_key="b1")
    assert ours.batches.create(file.id, metadata={"night": "1"}, priority="high", idempotency_key="b1").id == batch.id
    told: list[Batch] = []
    ended = ours.batches.wait(batch.id, 120, tell=told.append)
    assert (ended.status, ended.done, ended.succeeded, ended.batchinfer.priority) == ("completed", 5, True, "high")
    assert told[-1] == ended == ours.wait(batch, 10)
    assert ended.output_file_id is not None
    assert ours.files.download(ended.output_file_id, tmp_path / "out.jsonl") > 0
    answers = [json.loads(answer) for answer in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"r{number}" for number in range(5)]
    assert next(ours.batches.list()).id == batch.id
    with pytest.raises(errors.BadRequest):
        ours.batches.cancel(batch.id)
    ours.files.delete(file.id)
    with pytest.raises(errors.NotFound):
        ours.files.get(file.id)
