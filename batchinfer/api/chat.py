"""Chat completions as OpenAI's SDK asks for them: a durable job, and a client that waits for it."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from batchinfer.api.answers import show_completion
from batchinfer.api.auth import caller
from batchinfer.api.bodies import reply
from batchinfer.api.chat_requests import CHAT, COMPLETED
from batchinfer.api.openapi import KEY, refusals
from batchinfer.api.patience import find_presence, read_patience_s, take_place
from batchinfer.api.requests import mention_job
from batchinfer.api.state import current
from batchinfer.api.streams import stream_chat
from batchinfer.api.submission import read_json
from batchinfer.domain.chat import parse_chat
from batchinfer.services import answers

routes = APIBlueprint(
    "chat",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "chat"}],
    abp_security=KEY,
    abp_responses=refusals(),
)


@routes.post(
    "/chat/completions",
    operation_id="create_chat_completion",
    request_body=CHAT,
    responses={200: COMPLETED, **refusals(409, 413, 415, 422, 429, 504)},
)
def create_chat_completion() -> Response:
    """Answer a prompt. Under it is a job, of class interactive unless said otherwise, that outlives a lost connection.

    With `stream` the text comes as it is made. Who has waited long enough is told 504 with `error.job_id`.
    """
    state = current()
    body, idempotency = read_json("/v1/chat/completions")
    chat = parse_chat(body, state.limits)
    if chat.stream:
        return stream_chat(chat, idempotency, state.context.settings.max_answer_s)
    with take_place():
        job, replayed = answers.submit(state.context, caller(), chat.job, idempotency)
        mention_job(job.id)
        job = answers.wait_for_answer(state.context, caller(), job.id, read_patience_s(), find_presence())
    response = reply(show_completion(job))
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response
