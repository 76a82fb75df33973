"""Jobs as OpenAI's Responses: created in the background and polled, or waited for."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.answers import show_response
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.chat_requests import RESPONSE_REQUEST
from batchinfer.api.chat_schemas import ResponseBody
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.patience import find_presence, read_patience_s, take_place
from batchinfer.api.queries import ResponsePath
from batchinfer.api.requests import mention_job
from batchinfer.api.state import current
from batchinfer.api.submission import read_json
from batchinfer.domain.ids import RESPONSE, parse_id
from batchinfer.domain.responses import parse_response
from batchinfer.services import answers, jobs

routes = APIBlueprint(
    "responses",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "responses"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.post(
    "/responses",
    operation_id="create_response",
    request_body=RESPONSE_REQUEST,
    responses={200: ResponseBody, **refusals(409, 413, 415, 422, 429, 504)},
)
def create_response() -> Response:
    """Answer a prompt: with `background` at once, as queued, to be polled; without it as soon as it has ended."""
    state = current()
    body, idempotency = read_json("/v1/responses")
    asked = parse_response(body, state.limits)
    if asked.background:
        job, replayed = answers.submit(state.context, caller(), asked.job, idempotency)
        mention_job(job.id)
    else:
        with take_place():
            job, replayed = answers.submit(state.context, caller(), asked.job, idempotency)
            mention_job(job.id)
            job = answers.wait_for_answer(state.context, caller(), job.id, read_patience_s(), find_presence())
    response = reply(show_response(job))
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@routes.get("/responses/<response_id>", operation_id="get_response", responses={200: ResponseBody})
def get_response(path: ResponsePath) -> Response:
    """A response as it stands. Every job is one, under the digits of its id."""
    return reply(show_response(jobs.get_job(current().context, caller(), parse_id(RESPONSE, path.response_id))))


@routes.post(
    "/responses/<response_id>/cancel", operation_id="cancel_response", responses={200: ResponseBody, **refusals(409)}
)
def cancel_response(path: ResponsePath) -> Response:
    """End a response that has not ended. Cancelling twice is harmless; one that ended otherwise answers 409."""
    return reply(show_response(jobs.cancel_job(current().context, caller(), parse_id(RESPONSE, path.response_id))))
