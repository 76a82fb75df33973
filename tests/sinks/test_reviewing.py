"""How right a run was: the interval against published values, an even sample that is the same each time, verdicts."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import text

from batchinfer.domain.ids import JOB, RUN, new_id, show_id
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.review import (
    Judgement,
    Verdict,
    find_interval,
    may_be_drawn,
    measure_accuracy,
    parse_judgement,
    rank_page,
)
from batchinfer.errors import BadRequest, Conflict, NotFound
from batchinfer.services import reports, reviewing, sampling, sweeping
from batchinfer.store import jobs


@pytest.mark.parametrize(
    ("right", "judged", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", Stat. Med. 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_the_interval_has_the_published_values(right, judged, low, high):
    found = find_interval(right, judged)
    assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_nothing_is_said_of_a_sample_that_nobody_judged():
    assert find_interval(0, 0) is None
    accuracy = measure_accuracy(right=0, judged=0, sampled=200, population=1000)
    assert (accuracy.share, accuracy.low, accuracy.high) == (None, None, None)


@pytest.fixture
def ended(make_night):
    """A run that has ended, with 24 pages that a sample may have, and others."""
    night = make_night({"type": "jsonl"}, sample={"size": 5})
    for number in range(8):
        pages = [("ok", f"{number}.{page}") for page in range(3)]
        night.close(f"{number}.pdf", *pages, ("blank", ""), ("failed", "invalid_output"))
    night.close("last.pdf", ("fallback", "from the file"))
    night.end()
    night.finish()
    return night


def sampled(night, **more):
    page, accuracy = reviewing.list_sample(night.ctx, night.caller, night.run_id, limit=100, **more)
    return page.data, accuracy


def test_a_sample_is_the_pages_with_the_smallest_hashes(ended):
    def rank(job_id):
        rank = hashlib.sha256((ended.run_id.hex + job_id.hex).encode()).hexdigest()
        assert rank == rank_page(ended.run_id, job_id)
        return rank

    fitting = [job for (_, page), job in ended.jobs.items() if page <= 3]
    pages, accuracy = sampled(ended)
    assert [review.job_id for review in pages] == sorted(fitting, key=rank)[:5]
    assert [review.number for review in pages] == [1, 2, 3, 4, 5]
    assert all(review.engine != "blank" and review.text for review in pages)
    assert (accuracy.sampled, accuracy.judged, accuracy.population) == (5, 0, 25)
    reviewing.draw_sample(ended.ctx, ended.caller, ended.run_id, 12)
    more, _ = sampled(ended)
    assert [review.job_id for review in more] == sorted(fitting, key=rank)[:12]
    for size in (12, 3, 1000):
        reviewing.draw_sample(ended.ctx, ended.caller, ended.run_id, size)
    assert len(sampled(ended)[0]) == 25
    assert sampling.choose_pages(ended.ctx, ended.run, 0) == []


def test_pieces_of_a_long_run_bring_the_same_sample(ended, monkeypatch):
    whole = sampling.choose_pages(ended.ctx, ended.run, 9)
    monkeypatch.setattr(sampling, "_LINES", 4)
    assert sampling.choose_pages(ended.ctx, ended.run, 9) == whole


def test_every_page_is_as_likely_as_every_other(make_night):
    """2,000 pages in 10 strata by their order, 500 drawn: the chi-square of 9 degrees of freedom stays far below what
    one in a million even drawings exceeds (49). The ids are fixed by nothing but this run, so that this may not fail by
    more than that chance."""
    night = make_night({"type": "jsonl"})
    new = [
        jobs.NewJob(id=new_id(), tenant_id=night.caller.tenant_id, model="reader", job_class=JobClass.BATCH, prompt={},
                    page=1, batch_id=night.run_id, line=line)
        for line in range(1, 2001)
    ]  # fmt: skip
    with night.ctx.db.transaction() as tx:
        jobs.insert_jobs(tx, new)
        tx.execute(text("UPDATE jobs SET final_state = 'succeeded'"))
        tx.execute(
            text("""INSERT INTO results (job_id, tenant_id, attempt, lease_id, text, finish_reason, usage, model,
                    revision, engine) SELECT id, tenant_id, 1, id, 'x', 'stop', '{}', 'm', 'r', 'fake' FROM jobs""")
        )
        tx.execute(text("UPDATE batches SET total = 2000"))
    chosen = sampling.choose_pages(night.ctx, night.run, 500)
    assert len(set(chosen)) == 500
    place = {job.id: number // 200 for number, job in enumerate(new)}
    counts = Counter(place[job_id] for job_id in chosen)
    assert sum((counts[stratum] - 50) ** 2 / 50 for stratum in range(10)) < 49


def test_pictures_of_what_will_be_drawn_are_kept_from_the_first_page_on():
    run_id, size, pages = UUID(int=7), 50, [UUID(int=number) for number in range(20_000)]
    kept = {page for n, page in enumerate(pages, 1) if may_be_drawn(run_id, page, size=size, ended=n)}
    assert set(sorted(pages, key=lambda page: rank_page(run_id, page))[:size]) <= kept
    assert len(kept) < 1500
    assert not any(may_be_drawn(run_id, page, size=0, ended=1) for page in pages[:50])


def test_verdicts_add_up_and_the_last_word_counts(ended):
    pages, _ = sampled(ended)
    said = [Verdict.RIGHT, Verdict.RIGHT, Verdict.WRONG, Verdict.WRONG]
    for review, verdict in zip(pages, said, strict=False):
        reviewing.judge_page(ended.ctx, ended.caller, ended.run_id, review.job_id, Judgement(verdict, "because"))
    judged = reviewing.judge_page(
        ended.ctx, ended.caller, ended.run_id, pages[2].job_id, Judgement(Verdict.RIGHT, None)
    )
    assert (judged.verdict, judged.note, judged.actor) == (Verdict.RIGHT, None, ended.caller.actor)
    accuracy = reports.find_accuracy(ended.ctx, ended.run)
    assert (accuracy.right, accuracy.judged, accuracy.share) == (3, 4, 0.75)
    report = reports.get_report(ended.ctx, ended.caller, ended.run_id)
    assert report["accuracy"]["low"] == pytest.approx(accuracy.low)
    assert [review.number for review in sampled(ended, verdict="none")[0]] == [5]
    assert [review.number for review in sampled(ended, verdict="wrong")[0]] == [4]
    reviewing.judge_page(ended.ctx, ended.caller, ended.run_id, pages[0].job_id, Judgement(None, None))
    assert reports.find_accuracy(ended.ctx, ended.run).judged == 3


def test_what_is_not_in_a_sample_cannot_be_judged(ended):
    failed = ended.jobs["0.pdf", 5]
    with pytest.raises(NotFound) as raised:
        reviewing.judge_page(ended.ctx, ended.caller, ended.run_id, failed, Judgement(Verdict.RIGHT, None))
    assert raised.value.code == "sample_page_not_found"
    for body in ({"verdict": "good"}, {"verdict": "right", "more": 1}, {"note": "x" * 5000}, []):
        with pytest.raises(BadRequest):
            parse_judgement(body)


def test_a_run_under_way_has_no_sample(make_night):
    night = make_night({"type": "jsonl"})
    night.close("a.pdf", ("ok", "1"))
    with pytest.raises(Conflict) as raised:
        reviewing.draw_sample(night.ctx, night.caller, night.run_id, 5)
    assert raised.value.code == "run_not_ended"
    assert sampled(night) == ([], None)


def make_picture(night, colour="white"):
    file = io.BytesIO()
    Image.new("RGB", (40, 56), colour).save(file, "JPEG")
    return night.ctx.blobs.put(night.caller.tenant_id, file.getvalue())


def test_a_page_becomes_a_golden_prompt_whose_picture_stays(make_night):
    night = make_night({"type": "jsonl"})
    page, thumb = make_picture(night), make_picture(night, "red")
    image = {"page": 1, "sha256": page, "media_type": "image/jpeg",
             "normal": {"sha256": page, "media_type": "image/jpeg", "width": 40, "height": 56},
             "thumbnail": {"sha256": thumb, "media_type": "image/jpeg"}}  # fmt: skip
    night.close("a.pdf", ("ok", "Total: 1"), images=[image])
    night.end()
    night.finish()
    ids = night.run_id, night.jobs["a.pdf", 1]
    assert reviewing.get_picture(night.ctx, night.caller, *ids).sha256 == page
    golden = reviewing.keep_golden(night.ctx, night.caller, *ids, None)
    assert (golden.answer, golden.blob, golden.model) == ("Total: 1", page, "reader")
    assert golden.prompt["images"] == [{"sha256": page, "media_type": "image/jpeg"}]
    again = reviewing.keep_golden(night.ctx, night.caller, *ids, "Total: 2")
    assert (again.id, again.answer) == (golden.id, "Total: 2")
    assert sampled(night)[0][0].golden
    # Everything else that held the picture goes; upkeep leaves it alone as long as the golden prompt is there.
    with night.ctx.db.transaction() as tx:
        for table in ("job_blobs", "documents", "jobs"):
            tx.execute(text(f"DELETE FROM {table}"))  # noqa: S608
        tx.execute(text("UPDATE blobs SET used_at = now() - interval '90 days', erase_at = now()"))
    sweeping.erase_blobs(night.ctx)
    sweeping.sweep_blobs(night.ctx)
    ((found, raw),) = reviewing.iterate_goldens(night.ctx, night.caller)
    assert (found.id, raw[:2]) == (golden.id, b"\xff\xd8")
    reviewing.delete_golden(night.ctx, night.caller, golden.id)
    with pytest.raises(NotFound):
        reviewing.delete_golden(night.ctx, night.caller, golden.id)
    assert reviewing.list_goldens(night.ctx, night.caller).data == []


def test_no_golden_prompt_without_its_picture_or_a_right_answer(make_night):
    night = make_night({"type": "jsonl"})
    page, thumb = make_picture(night), make_picture(night, "red")
    gone = {"sha256": "0" * 64, "normal": {"sha256": "0" * 64}, "thumbnail": {"sha256": thumb}}
    night.close("a.pdf", ("ok", "x"), images=[gone])
    night.close("b.pdf", ("ok", "y"), images=[{"sha256": page, "media_type": "image/jpeg"}])
    night.end()
    night.finish()
    ids = night.run_id, night.jobs["a.pdf", 1]
    assert not reviewing.get_picture(night.ctx, night.caller, *ids).whole
    with pytest.raises(NotFound) as raised:
        reviewing.keep_golden(night.ctx, night.caller, *ids, None)
    assert raised.value.code == "picture_not_kept"
    ids = night.run_id, night.jobs["b.pdf", 1]
    reviewing.judge_page(night.ctx, night.caller, *ids, Judgement(Verdict.WRONG, None))
    with pytest.raises(Conflict) as conflict:
        reviewing.keep_golden(night.ctx, night.caller, *ids, None)
    assert conflict.value.code == "no_right_answer"
    assert reviewing.keep_golden(night.ctx, night.caller, *ids, "right").answer == "right"


@pytest.fixture
def client(context, api_key):
    from batchinfer.web import create_app

    made = create_app(context=context).test_client()
    made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {api_key}"
    return made


def test_a_sample_is_judged_over_http(ended, client):
    at = f"/v1/runs/{show_id(RUN, ended.run_id)}"
    assert client.post(f"{at}/sample", json={"size": 7}).json["accuracy"]["sampled"] == 7
    seen, after = [], ""
    while True:
        page = client.get(f"{at}/sample?limit=3{after}").json
        seen += [one["number"] for one in page["data"]]
        after = f"&after={page['last_id']}"
        if not page["has_more"]:
            break
    assert seen == list(range(1, 8))
    one = page["data"][0]
    judged = client.post(f"{at}/sample/{one['id']}", json={"verdict": "wrong", "note": "No."})
    assert (judged.status_code, judged.json["verdict"], judged.json["note"]) == (200, "wrong", "No.")
    assert client.get(f"{at}/sample?verdict=wrong").json["accuracy"]["judged"] == 1
    refused = client.post(f"{at}/sample/{one['id']}", json={"verdict": "maybe"})
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "verdict")
    assert client.get(f"{at}/sample?after=job_x").json["error"]["code"] == "invalid_cursor"
    assert client.get(f"{at}/sample?after={show_id(JOB, new_id())}").status_code == 404
    assert client.get(f"{at}/sample/{one['id']}/picture").json["error"]["code"] == "picture_not_kept"
    assert client.post(f"{at}/seal").json["status"] == "completed_with_errors"
    assert client.get("/v1/goldens").json["data"] == []
    assert client.get("/v1/goldens/export").data == b""


def test_golden_prompts_are_exported_with_their_pictures(make_night, client):
    night = make_night({"type": "jsonl"})
    page = make_picture(night)
    night.close("a.pdf", ("ok", "x"), images=[{"sha256": page, "media_type": "image/jpeg"}])
    night.end()
    night.finish()
    at = f"/v1/runs/{show_id(RUN, night.run_id)}/sample/{show_id(JOB, night.jobs['a.pdf', 1])}"
    assert client.get(f"{at}/picture").content_type == "image/jpeg"
    kept = client.post(f"{at}/golden", json={"answer": "right"})
    assert kept.status_code == 200
    (line,) = client.get("/v1/goldens/export").data.splitlines()
    golden = json.loads(line)
    assert (golden["id"], golden["answer"]) == (kept.json["id"], "right")
    assert golden["image"].startswith("data:image/jpeg;base64,/9j/")
    assert golden["prompt"]["messages"] == [{"role": "user", "content": "Read."}]
    assert client.delete(f"/v1/goldens/{golden['id']}").json["deleted"] is True
