"""What a run brought, over HTTP: its report, its sample and what people say of it, golden prompts."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api import review_schemas as schemas
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.lists import read_cursor, show_page
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.queries import GoldenPath, PageQuery, ReportQuery, RunPath, SampledPath, SampleQuery
from batchinfer.api.state import current
from batchinfer.api.submission import read_body
from batchinfer.domain.ids import DOCUMENT, GOLDEN, JOB, RUN, parse_id, show_id
from batchinfer.domain.review import parse_golden, parse_judgement, parse_sample
from batchinfer.domain.runs import find_page_outcome
from batchinfer.observe.clock import to_unix
from batchinfer.services import reports, reviewing, runs
from batchinfer.services.report_page import CSP, render_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from batchinfer.domain.review import Golden, Review

routes = APIBlueprint(
    "reviews",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "runs"}],
    abp_security=KEY,
    abp_responses=refusals(),
)
_RUN = "/runs/<run_id>"
_PICTURES = frozenset({"image/jpeg", "image/png", "image/webp"})


@routes.get(f"{_RUN}/report", operation_id="get_report", responses={200: schemas.REPORT})
def get_report(path: RunPath, query: ReportQuery) -> Response:
    """How a run went, or goes: counts, failures by cause, slow documents, tokens, what was skipped, how right it was.

    As JSON, or as a page of HTML that needs nothing else.
    """
    context = current().context
    report = reports.get_report(context, caller(), parse_id(RUN, path.run_id))
    form = query.form or request.accept_mimetypes.best_match(["application/json", "text/html"], "application/json")
    if form in {"html", "text/html"}:
        page = render_report(report, reports.load_thumbnails(context, caller().tenant_id, report))
        response = Response(page.encode("utf-8", "replace"), content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = CSP
    else:
        raw = json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")
        response = Response(raw + b"\n", mimetype="application/json")
    response.headers["Vary"] = "Accept"
    return response


@routes.post(f"{_RUN}/seal", operation_id="seal_run", responses={200: schemas.SealBody})
def seal_run(path: RunPath) -> Response:
    """Write what of a run's results could not be written to its sinks; a run that failed by that ends anew. Twice is as
    once."""
    run = reviewing.seal_run(current().context, caller(), parse_id(RUN, path.run_id))
    return reply(schemas.SealBody(id=path.run_id, status=run.state, cause=run.cause))


@routes.post(
    f"{_RUN}/sample", operation_id="draw_sample", request_body=schemas.DRAW,
    responses={200: schemas.SampleList, **refusals(409, 413)},
)  # fmt: skip
def draw_sample(path: RunPath) -> Response:
    """Let the random sample of a run that has ended have at least so many pages. What is judged stays; twice is as
    once."""
    caller().require("submit")
    context, run_id = current().context, parse_id(RUN, path.run_id)
    runs.get_own(context, caller(), run_id)  # what is not there is that first, whatever the body says
    size = parse_sample(read_body(), "body").size
    reviewing.draw_sample(context, caller(), run_id, size)
    return _show_sample(run_id, None, None, 20)


@routes.get(f"{_RUN}/sample", operation_id="list_sample", responses={200: schemas.SampleList})
def list_sample(path: RunPath, query: SampleQuery) -> Response:
    """Pages of a run's sample with their answers, in the order of the drawing; and how right it was so far."""
    return _show_sample(parse_id(RUN, path.run_id), read_cursor(JOB, query.after), query.verdict, query.limit)


def _show_sample(run_id: UUID, after: UUID | None, verdict: str | None, limit: int) -> Response:
    page, accuracy = reviewing.list_sample(
        current().context, caller(), run_id, verdict=verdict, after=after, limit=limit
    )  # fmt: skip
    shown = None if accuracy is None else schemas.AccuracyBody.model_validate(accuracy.as_dict())
    return reply(schemas.SampleList(**show_page(page, lambda review: show_review(run_id, review)), accuracy=shown))


@routes.post(
    f"{_RUN}/sample/<job_id>", operation_id="judge_page", request_body=schemas.JUDGE,
    responses={200: schemas.SamplePage, **refusals(413)},
)  # fmt: skip
def judge_page(path: SampledPath) -> Response:
    """Say whether the answer of a page is right or wrong; the last word counts."""
    caller().require("submit")
    context, ids = current().context, (parse_id(RUN, path.run_id), parse_id(JOB, path.job_id))
    reviewing.get_page(context, caller(), *ids)
    judgement = parse_judgement(read_body())
    return reply(show_review(ids[0], reviewing.judge_page(context, caller(), *ids, judgement)))


@routes.get(f"{_RUN}/sample/<job_id>/picture", operation_id="get_sample_picture", responses={200: schemas.PICTURE})
def get_picture(path: SampledPath) -> Response:
    """The picture of a page, in full where that is kept, else small."""
    context = current().context
    found = reviewing.get_picture(context, caller(), parse_id(RUN, path.run_id), parse_id(JOB, path.job_id))
    kind = found.media_type if found.media_type in _PICTURES else "application/octet-stream"
    return Response(context.blobs.read(caller().tenant_id, found.sha256), content_type=kind)


@routes.post(
    f"{_RUN}/sample/<job_id>/golden", operation_id="keep_golden", request_body=schemas.KEEP,
    responses={200: schemas.GoldenBody, **refusals(409, 413)},
)  # fmt: skip
def keep_golden(path: SampledPath) -> Response:
    """Keep a page as a golden prompt: what was asked, the picture, and the right answer. Twice is as once."""
    caller().require("submit")
    context, ids = current().context, (parse_id(RUN, path.run_id), parse_id(JOB, path.job_id))
    reviewing.get_page(context, caller(), *ids)
    answer = parse_golden(read_body(), context.settings.max_prompt_chars)
    return reply(show_golden(reviewing.keep_golden(context, caller(), *ids, answer)))


@routes.get("/goldens", operation_id="list_goldens", responses={200: schemas.GoldenList})
def list_goldens(query: PageQuery) -> Response:
    """Golden prompts, newest first."""
    after = read_cursor(GOLDEN, query.after)
    page = reviewing.list_goldens(current().context, caller(), after=after, limit=query.limit)
    return reply(schemas.GoldenList(**show_page(page, show_golden)))


@routes.get("/goldens/export", operation_id="export_goldens", responses={200: schemas.GOLDENS})
def export_goldens() -> Response:
    """All golden prompts, a line of JSON each: messages, picture, settings of the generation, and the right answer."""
    found = reviewing.iterate_goldens(current().context, caller())
    return Response(_show_lines(found), content_type="application/x-ndjson")


@routes.delete("/goldens/<golden_id>", operation_id="delete_golden", responses={200: schemas.GoldenDeleted})
def delete_golden(path: GoldenPath) -> Response:
    """Forget a golden prompt, and its picture where nothing else needs it."""
    reviewing.delete_golden(current().context, caller(), parse_id(GOLDEN, path.golden_id))
    return reply(schemas.GoldenDeleted(id=path.golden_id, deleted=True))


def _show_lines(found: Iterator[tuple[Golden, bytes]]) -> Iterator[bytes]:
    for golden, raw in found:
        kind = golden.prompt["images"][0].get("media_type", "image/jpeg")
        asked = {name: value for name, value in golden.prompt.items() if name not in ("images", "quality")}
        line = {
            **show_golden(golden).model_dump(mode="json"), "prompt": asked,
            "image": f"data:{kind};base64,{base64.b64encode(raw).decode()}",
        }  # fmt: skip
        yield json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def show_review(run_id: UUID, review: Review) -> schemas.SamplePage:
    """A page of a sample as users see it."""
    outcome = find_page_outcome(succeeded=True, engine=review.engine)
    has_picture = reviewing.find_picture(current().context, caller().tenant_id, review.prompt) is not None
    job_id = show_id(JOB, review.job_id)
    return schemas.SamplePage(
        id=job_id, number=review.number, name=review.name, page=review.page, outcome=outcome, answer=review.text,
        document_id=show_id(DOCUMENT, review.document_id) if review.document_id else None,
        picture=f"/v1/runs/{show_id(RUN, run_id)}/sample/{job_id}/picture" if has_picture else None,
        verdict=review.verdict, note=review.note, judged_by=review.actor, judged_at=to_unix(review.judged_at),
        golden=review.golden,
    )  # fmt: skip


def show_golden(golden: Golden) -> schemas.GoldenBody:
    """A golden prompt as users see it."""
    return schemas.GoldenBody(
        id=show_id(GOLDEN, golden.id), job_id=show_id(JOB, golden.job_id), model=golden.model, answer=golden.answer,
        run_id=show_id(RUN, golden.run_id) if golden.run_id else None, sha256=golden.blob,
        created_at=to_unix(golden.created_at) or 0, created_by=golden.actor,
    )  # fmt: skip
