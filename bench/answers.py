"""Whether all contestants give the same answers, and where one does not, whether two scores were as good as equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from workers.engine.loader import LoadedModel
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
    return loaded.model(**sequence, **item.vision).logits[0, -1].float()
