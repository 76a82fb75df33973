"""The JSON of chat completions and responses, as OpenAI's SDK types it; OpenAPI is made from these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from batchinfer.api.schemas import Time


class ChatMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class TokenLogprob(BaseModel):
    """A token and the logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Any] = Field(default_factory=list)


class Logprobs(BaseModel):
    """The tokens of the answer; there where the request set `logprobs`."""

    content: list[TokenLogprob]


class ChatChoice(BaseModel):
    """The one answer. `finish_reason` is stop or length."""

    index: int = 0
    message: ChatMessage
    logprobs: Logprobs | None
    finish_reason: str


class PromptTokens(BaseModel):
    """Of the prompt's tokens: those of pictures, and those read from a cache."""

    image_tokens: int = 0
    cached_tokens: int = 0


class ChatUsage(BaseModel):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class AnswerExtras(BaseModel):
    """What OpenAI's object has no place for."""

    cached: bool = Field(description="Whether it is the answer of an earlier job, so that no tokens were used.")


class ChatCompletion(BaseModel):
    """An answer. `id` has the digits of its job: `GET /v1/jobs/job_<digits>` reads the same."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: Time
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    service_tier: str
    system_fingerprint: str | None
    batchinfer: AnswerExtras


class OutputText(BaseModel):
    """A text of the answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)


class OutputMessage(BaseModel):
    """What the model said."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["completed", "incomplete"]
    content: list[OutputText]


class InputTokens(BaseModel):
    """Of the tokens that came in: those read from a cache, and those of pictures."""

    cached_tokens: int = 0
    image_tokens: int = 0


class OutputTokens(BaseModel):
    """Of the tokens that went out: none are for reasoning alone."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Tokens in and out."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens = OutputTokens()
    total_tokens: int


class ResponseFault(BaseModel):
    """Why a response failed, in the words of its job's error."""

    code: str
    message: str


class Incomplete(BaseModel):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseBody(BaseModel):
    """A job seen as a response. `id` has the digits of its job: `GET /v1/jobs/job_<digits>` reads the same."""

    id: str
    object: Literal["response"] = "response"
    created_at: Time
    completed_at: Time | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[OutputMessage]
    usage: ResponseUsage | None
    error: ResponseFault | None
    incomplete_details: Incomplete | None
    metadata: dict[str, str]
    service_tier: str
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    batchinfer: AnswerExtras
    background: bool = True
    instructions: None = None
    previous_response_id: None = None
    parallel_tool_calls: bool = True
    tool_choice: Literal["auto"] = "auto"
    tools: list[Any] = Field(default_factory=list)
