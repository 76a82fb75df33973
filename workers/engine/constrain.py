"""Answers held to a grammar while they are made: JSON, a JSON schema, a regular expression, or a choice of texts.

The grammar comes from llguidance, which is optional and imported here, late. Grammars are compiled where requests are
prepared, never in the engine's loop; its limits bound what a schema or an expression may cost per step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.engine.protocol import Refused

#: Characters of a schema, an expression or all choices together.
MAX_GRAMMAR_CHARS = 200_000
MAX_REGEX_CHARS = 20_000
_KINDS = "text, json_object, json_schema, regex or choice"


class Grammar:
    """One answer's progress through a grammar."""

    def __init__(self, matcher: Any, vocabulary: int, device: torch.device) -> None:
        self._matcher, self._vocabulary, self._device = matcher, vocabulary, device

    def fresh(self) -> Grammar:
        """The same grammar at its beginning, for an answer that begins again."""
        matcher = self._matcher.deep_copy()
        matcher.reset()
        return Grammar(matcher, self._vocabulary, self._device)

    def allowed(self) -> Tensor | None:
        """`[vocabulary]`, True where a token may come next; None where the grammar gave up on its limits."""
        if self._matcher.is_error():
            return None
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            return None
        mask = np.zeros(self._vocabulary, dtype=bool)
        flat = np.unpackbits(bits, bitorder="little").astype(bool)[: self._vocabulary]
        mask[: len(flat)] = flat
        return torch.from_numpy(mask).to(self._device)

    def accept(self, token: int) -> bool:
        """Move on by a token; False where the grammar does not take it (or ended before)."""
        return bool(self._matcher.consume_token(token))

    def ended(self) -> bool:
        """Whether nothing more may come."""
        return bool(self._matcher.is_stopped())

    def failed(self) -> bool:
        """Whether the grammar cannot go on: its limits were reached."""
        return bool(self._matcher.is_error())


class GrammarCompiler:
    """Makes grammars for one tokenizer. `available` is False where llguidance is absent or cannot read the tokenizer."""

    def __init__(self, tokenizer: Any, *, vocabulary: int, eos: frozenset[int], device: torch.device) -> None:
        self._vocabulary, self._device = vocabulary, device
        self.reason = ""
        try:
            from llguidance.hf import from_tokenizer

            self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=sorted(eos))
        except ImportError:
            self.reason = "llguidance is not installed"
        except Exception:  # the library raises what it likes for tokenizers that it cannot read
            self.reason = "llguidance cannot read this tokenizer"
        self.available = not self.reason

    def compile(self, response_format: Mapping[str, Any] | None) -> Grammar | None:
        """The grammar of a request, or None for free text. Raises Refused with the field and the remedy."""
        kind = (response_format or {}).get("type", "text")
        if response_format is None or kind == "text":
            return None
        if not self.available:
            raise Refused(
                "unsupported_response_format",
                f"response_format needs constrained decoding, and {self.reason} here. Leave it out, or install the "
                "extra `guided` where the worker runs.",
            )
        from llguidance import LLMatcher, LLParserLimits

        source = _grammar(str(kind), response_format)
        limits = LLParserLimits(
            initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, step_max_items=50_000, max_lexer_states=50_000,
            max_grammar_size=200_000, verbose_errors=False,
        )  # fmt: skip
        problem = LLMatcher.validate_grammar(source, self._tokenizer, limits=limits)
        if problem and not problem.startswith("WARNING"):
            raise _bad(str(kind))
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=limits)
        grammar = Grammar(matcher, self._vocabulary, self._device)
        allowed = grammar.allowed()
        if allowed is None or not bool(allowed.any()):
            raise _bad(str(kind))
        return grammar


def _bad(kind: str) -> Refused:
    remedy = {
        "json_schema": "Check that the schema can be met by some value, uses Draft 2020-12 keywords, and is smaller.",
        "regex": "Use an expression without look-around and with smaller repetitions.",
    }.get(kind, "Make it smaller.")
    return Refused("invalid_response_format", f"response_format: this {kind} cannot be held to. {remedy}")


def _grammar(kind: str, response_format: Mapping[str, Any]) -> str:
    from llguidance import LLMatcher

    # Compact JSON: a small model would otherwise spend its tokens on blanks.
    compact: Any = {"whitespace_flexible": False}
    try:
        if kind == "json_object":
            return str(LLMatcher.grammar_from_json_schema({"type": "object"}, overrides=compact))
        if kind == "json_schema":
            inner = response_format.get("json_schema", response_format)
            schema = inner.get("schema", inner) if isinstance(inner, Mapping) else inner
            return str(
                LLMatcher.grammar_from_json_schema(_sized(json.dumps(schema), kind), overrides=compact)
            )
        if kind == "regex":
            expression = str(response_format.get("regex") or response_format.get("pattern") or "")
            return str(LLMatcher.grammar_from_regex(_sized(expression, kind)))
        if kind == "choice":
            choices = response_format.get("choice") or response_format.get("choices") or []
            listed = " | ".join(json.dumps(str(choice)) for choice in choices)
            return str(LLMatcher.grammar_from_lark(_sized(f"start: {listed}", kind)))
    except (ValueError, TypeError, RecursionError):
        raise _bad(kind) from None
    raise Refused("invalid_response_format", f"response_format: type {kind!r} is unknown; use {_KINDS}.")


def _sized(text: str, kind: str) -> str:
    limit = MAX_REGEX_CHARS if kind == "regex" else MAX_GRAMMAR_CHARS
    if len(text) > limit:
        raise Refused(
            "invalid_response_format",
            f"response_format: this {kind} has {len(text)} characters, the limit is {limit}. Make it smaller.",
        )
    return text
