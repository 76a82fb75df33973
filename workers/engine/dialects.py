"""What each kind of OpenAI-compatible server calls the things that OpenAI has no word for.

Chat completions are common ground: messages, max_tokens, temperature, top_p, seed, stop, logprobs and JSON schemas.
Other sampling fields, expressions, choices and priorities have another name, or none, from server to server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workers.engine.grammars import find_kind, read_choices, read_regex, read_schema
from workers.engine.protocol import Refused, Request, Sampling
from workers.engine.repetition import MAX_PERIOD, REPEATS

Fields = dict[str, Any]
#: A constraint of kind regex or choice as fields of a body; None where the server has no word for it.
Constrain = Callable[[str, Mapping[str, Any]], Fields | None]
_ALL = frozenset({"top_k", "min_p", "repetition_penalty"})
_RANKS = {"interactive": 0, "normal": 1, "batch": 2}


@dataclass(frozen=True)
class Dialect:
    """`sampling` are the fields beyond OpenAI's that the server takes, `waiting` its metric of queued requests."""

    name: str
    sampling: frozenset[str]
    constrain: Constrain
    waiting: str | None = None
    #: How urgency is said, where it is: vLLM's `priority` (a number, the least first) or our own `class`.
    urgency: str | None = None
    #: Where the server says which version it is, in a member `version`; empty where it does not.
    version_at: str = ""

    def check(self, request: Request) -> None:
        """Raises Refused for what this server has no word for, and would ignore in silence."""
        for name in sorted(_list_unusual(request.sampling) - self.sampling):
            raise Refused("bad_sampling", f"{name} is not served by a server of kind {self.name}; leave it out.")
        self.write_format(request.response_format)

    def write_sampling(self, sampling: Sampling) -> Fields:
        """The sampling fields of a body; what is as usual is left out."""
        fields: Fields = {"temperature": sampling.temperature}
        if sampling.top_p != 1.0:
            fields["top_p"] = sampling.top_p
        if sampling.seed is not None:
            fields["seed"] = sampling.seed
        if sampling.logprobs:
            fields["logprobs"] = True
        return fields | {name: getattr(sampling, name) for name in sorted(_list_unusual(sampling))}

    def write_format(self, response_format: Mapping[str, Any] | None) -> Fields:
        """The fields of a body that hold the answer to a format. Raises Refused."""
        kind = find_kind(response_format)
        if kind is None or response_format is None:
            return {}
        if kind == "json_object":
            return {"response_format": {"type": "json_object"}}
        if kind == "json_schema":
            schema = json.loads(read_schema(response_format))
            if self.name == "tgi":
                return {"response_format": {"type": "json", "value": schema}}
            named = {"name": _find_name(response_format), "schema": schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        fields = self.constrain(kind, response_format)
        if fields is None:
            raise Refused(
                "unsupported_response_format",
                f"response_format {kind} has no word in the language of a server of kind {self.name}. Leave it out, "
                "use json_schema, or ask for another engine.",
            )
        return fields

    def write_urgency(self, job_class: str) -> Fields:
        """How urgent a request is; nothing where the server has no word for it."""
        if self.urgency is None:
            return {}
        return {self.urgency: _RANKS.get(job_class, 1) if self.urgency == "priority" else job_class}


def find_dialect(name: str) -> Dialect:
    """Raises ValueError for a name that is none."""
    if name not in DIALECTS:
        raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}, not {name}.")
    return DIALECTS[name]


#: Has vLLM end an answer that says the same again and again, by its own rule, without telling each token.
VLLM_LOOPS: Fields = {
    "repetition_detection": {"max_pattern_size": MAX_PERIOD, "min_pattern_size": 1, "min_count": REPEATS}
}


def _list_unusual(sampling: Sampling) -> frozenset[str]:
    """Fields that OpenAI does not have, and that ask for something."""
    usual = Sampling()
    return frozenset(name for name in _ALL if getattr(sampling, name) != getattr(usual, name))


def _find_name(response_format: Mapping[str, Any]) -> str:
    inner = response_format.get("json_schema")
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) and re.fullmatch(r"[\w-]{1,64}", name) else "answer"


def _say_nothing(_kind: str, _asked: Mapping[str, Any]) -> Fields | None:
    return None


def _say_as_vllm(kind: str, asked: Mapping[str, Any]) -> Fields:
    return {"structured_outputs": {kind: read_regex(asked) if kind == "regex" else read_choices(asked)}}


def _say_guided(kind: str, asked: Mapping[str, Any]) -> Fields:
    return {f"guided_{kind}": read_regex(asked) if kind == "regex" else read_choices(asked)}


def _say_as_sglang(kind: str, asked: Mapping[str, Any]) -> Fields:
    return {"regex": _as_regex(kind, asked)}


def _say_as_tgi(kind: str, asked: Mapping[str, Any]) -> Fields:
    return {"response_format": {"type": "regex", "value": _as_regex(kind, asked)}}


def _say_as_ours(kind: str, asked: Mapping[str, Any]) -> Fields:
    found = {"regex": read_regex(asked)} if kind == "regex" else {"choice": read_choices(asked)}
    return {"response_format": {"type": kind, **found}}


def _as_regex(kind: str, asked: Mapping[str, Any]) -> str:
    if kind == "regex":
        return read_regex(asked)
    return "(" + "|".join(re.escape(choice) for choice in read_choices(asked)) + ")"


VLLM_VERSION_AT = "/version"
DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai", frozenset(), _say_nothing),
        Dialect("vllm", _ALL, _say_as_vllm, "vllm:num_requests_waiting", "priority", VLLM_VERSION_AT),
        # vLLM before 0.12, whose fields had other names.
        Dialect("vllm-guided", _ALL, _say_guided, "vllm:num_requests_waiting", "priority", VLLM_VERSION_AT),
        Dialect("sglang", _ALL, _say_as_sglang, "sglang:num_queue_reqs", version_at="/get_server_info"),
        Dialect("tgi", frozenset(), _say_as_tgi, "tgi_queue_size", version_at="/info"),
        Dialect("xinference", frozenset({"top_k", "repetition_penalty"}), _say_guided),
        Dialect("batchinfer", _ALL, _say_as_ours, None, "class"),
    )
}
