"""Whether all contestants give the same answers, and where one does not, whether two scores were as good as equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.contestants import Run
from workers.engine.loader import LoadedModel
from workers.engine.pixel_bytes import join_vision
from workers.engine.protocol import Request

#: Two scores this close, as a share of the range of all scores, may change places by float32 rounding alone.
TIE_SHARE = 1e-4
#: Differences that are looked into, for each contestant.
_EXPLAINED = 8

Answers = Mapping[str, tuple[int, ...]]


@dataclass
class Comparison:
    """Collects answers. The first answer to a request that is seen is the reference for the others."""

    loaded: LoadedModel
    _references: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _checked: dict[str, int] = field(default_factory=dict)
    _equal: dict[str, int] = field(default_factory=dict)
    _differences: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def add(self, contestant: str, requests: Sequence[Request], answers: Answers) -> None:
        """Compare the answers of one run."""
        asked = {request.id: request for request in requests}
        for name, tokens in answers.items():
            reference = self._references.setdefault(name, tokens)
            self._checked[contestant] = self._checked.get(contestant, 0) + 1
            self._equal[contestant] = self._equal.get(contestant, 0) + (tokens == reference)
            known = self._differences.setdefault(contestant, {})
            if tokens != reference and name not in known and len(known) < _EXPLAINED:
                known[name] = explain_difference(self.loaded, asked[name], reference, tokens)

    def as_json(self) -> dict[str, dict[str, Any]]:
        """For each contestant: answers compared, equal ones, and up to eight requests whose answers differ."""
        return {
            name: {"of": of, "equal": self._equal[name], "differences": self._differences[name]}
            for name, of in self._checked.items()
        }


@dataclass
class TextComparison:
    """Compares the texts of a peer with our answers, blanks at their ends aside."""

    loaded: LoadedModel
    _checked: int = 0
    _equal: int = 0
    _differences: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, requests: Sequence[Request], ours: Run, texts: Mapping[str, str]) -> None:
        """Compare the answers of one run."""
        for request in requests:
            tokens, theirs = ours.answers[request.id], texts[request.id]
            self._checked += 1
            if ours.texts[request.id].strip() == theirs.strip():
                self._equal += 1
            elif len(self._differences) < _EXPLAINED:
                self._differences[request.id] = explain_text(self.loaded, request, tokens, theirs)

    def as_json(self) -> dict[str, Any]:
        """Texts compared, equal ones, and up to eight requests whose texts differ."""
        return {"of": self._checked, "equal": self._equal, "differences": self._differences}


def explain_text(loaded: LoadedModel, request: Request, tokens: Sequence[int], text: str) -> dict[str, Any]:
    """The first of our tokens whose text the other lacks, and how far apart the two best scores lie there."""
    decode, wanted = loaded.processing.tokenizer.decode, text.strip()
    place = next((n for n in range(len(tokens)) if not wanted.startswith(decode(list(tokens[: n + 1])).strip())), None)
    if place is None:
        return {"place": len(tokens), "gap": None, "tie": False}
    scores = _score(loaded, request, tokens[:place])
    best = scores.topk(2).values
    gap = (best[0] - best[1]).item() / (scores.max() - scores.min()).item()
    return {"place": place, "gap": gap, "tie": gap <= TIE_SHARE}


def explain_difference(
    loaded: LoadedModel, request: Request, reference: Sequence[int], found: Sequence[int]
) -> dict[str, Any]:
    """The first place where two answers differ, and how far apart the two scores lie there, of their whole range."""
    place = find_difference(reference, found)
    if place >= min(len(reference), len(found)):
        return {"place": place, "gap": None, "tie": False}
    scores = _score(loaded, request, reference[:place])
    gap = abs(scores[reference[place]] - scores[found[place]]).item() / (scores.max() - scores.min()).item()
    return {"place": place, "gap": gap, "tie": gap <= TIE_SHARE}


def find_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """The first index at which two sequences differ; the shorter length where one begins the other."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


@torch.inference_mode()
def _score(loaded: LoadedModel, request: Request, tokens: Sequence[int]) -> Any:
    """Scores `[vocabulary]` of what follows `tokens` in the answer to a request."""
    item = loaded.processing.prepare(request, loaded.processing.render(request), 0.0)
    sequence = {name: torch.cat([value, value.new_zeros(1, len(tokens))], 1) for name, value in item.sequence.items()}
    sequence["input_ids"][0, item.prompt_tokens :] = torch.tensor(tokens, dtype=torch.long)
    sequence["attention_mask"][0, item.prompt_tokens :] = 1
    vision = join_vision([item], loaded.model.device, loaded.model.dtype) if item.vision else {}
    return loaded.model(**sequence, **vision).logits[0, -1].float()
