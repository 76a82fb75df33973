"""Answers held to a grammar while they are made: JSON, a JSON schema, a regular expression, or a choice of texts.

The grammar comes from llguidance, which is optional and imported here, late. Grammars are compiled where requests are
prepared, never in the engine's loop (the library lets other threads run meanwhile); its limits bound what a step costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from workers.engine.grammars import find_kind, unusable, write_source
from workers.engine.protocol import Refused

_T = TypeVar("_T")


class GrammarLimitError(Exception):
    """The grammar cannot go on: its limits were reached, or the library failed."""


class Grammar:
    """One answer's progress through a grammar."""

    def __init__(self, matcher: Any, vocabulary: int, device: torch.device) -> None:
        self._matcher, self._vocabulary, self._device = matcher, vocabulary, device

    def fresh(self) -> Grammar:
        """The same grammar at its beginning, for an answer that begins."""
        matcher = self._matcher.deep_copy()
        matcher.reset()
        return Grammar(matcher, self._vocabulary, self._device)

    def allowed(self) -> Tensor | None:
        """`[vocabulary]`, True where a token may come next; None where the grammar gave up on its limits."""
        try:
            packed = _guard(self._matcher.compute_bitmask)
        except GrammarLimitError:
            return None
        if self._matcher.is_error():
            return None
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little").astype(bool)
        mask = np.zeros(self._vocabulary, dtype=bool)
        mask[: len(bits)] = bits[: self._vocabulary]
        return torch.from_numpy(mask).to(self._device)

    def accept(self, token: int) -> bool:
        """Move on by a token; False where the grammar does not take it (or ended before)."""
        try:
            return bool(_guard(lambda: self._matcher.consume_token(token)))
        except GrammarLimitError:
            return False

    def ended(self) -> bool:
        """Whether nothing more may come."""
        return bool(self._matcher.is_stopped())


class GrammarCompiler:
    """Makes grammars for one tokenizer. Not `available` where llguidance is absent or cannot read it."""

    def __init__(self, tokenizer: Any, *, vocabulary: int, eos: frozenset[int], device: torch.device) -> None:
        self._vocabulary, self._device = vocabulary, device
        self.reason = ""
        try:
            from llguidance.hf import from_tokenizer

            # Where the model names no end token, the library takes the tokenizer's.
            ends = sorted(eos) or None
            self._tokenizer = _guard(lambda: from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=ends))
        except ImportError:
            self.reason = "llguidance is not installed"
        except Exception:  # the library raises what it likes for tokenizers that it cannot read
            self.reason = "llguidance cannot read this tokenizer"
        self.available = not self.reason

    def check(self, response_format: Mapping[str, Any] | None) -> None:
        """Refuse what needs no compiling to be refused. Raises Refused with the field and the remedy."""
        kind = find_kind(response_format)
        if kind is None or response_format is None:
            return
        if not self.available:
            raise Refused(
                "unsupported_response_format",
                f"response_format {kind} needs constrained decoding, and {self.reason} here. Leave it out, or install "
                "the extra `guided` where the worker runs.",
            )
        write_source(kind, response_format)

    def compile(self, response_format: Mapping[str, Any] | None) -> Grammar | None:
        """The grammar of a request, or None for free text. Raises Refused with the field and the remedy."""
        kind = find_kind(response_format)
        if kind is None or response_format is None:
            return None
        self.check(response_format)
        from llguidance import LLMatcher, LLParserLimits

        source = write_source(kind, response_format)
        limits = LLParserLimits(
            initial_lexer_fuel=1_000_000,
            step_lexer_fuel=200_000,
            step_max_items=50_000,
            max_lexer_states=50_000,
            max_grammar_size=200_000,
            verbose_errors=False,
        )
        try:
            problem = _guard(lambda: LLMatcher.validate_grammar(source, self._tokenizer, limits=limits))
            matcher = _guard(lambda: LLMatcher(self._tokenizer, source, log_level=0, limits=limits))
        except (GrammarLimitError, ValueError, TypeError):
            raise unusable(kind) from None
        if problem and not problem.startswith("WARNING"):
            raise unusable(kind)
        grammar = Grammar(matcher, self._vocabulary, self._device)
        allowed = grammar.allowed()
        if allowed is None or not bool(allowed.any()):
            raise unusable(kind)
        return grammar


def _guard(call: Callable[[], _T]) -> _T:
    """Call into the library. A panic in its native part is no Exception, and would end the engine's thread."""
    try:
        return call()
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as panic:
        raise GrammarLimitError("the grammar library failed") from panic
