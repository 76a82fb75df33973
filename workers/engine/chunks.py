"""A long prompt goes through the model in pieces, so that rows in flight have decode steps between them.

Each piece is a forward over the keys and values of those before it. It never ends inside a picture: a run of
placeholders stays whole, since some families look both ways inside one. Models whose whole prompt attends both ways
(prefix-LM) differ; the self-test finds them, and prompts go in one piece there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache

from workers.engine.prefix import Prefix
from workers.engine.prepared import Prepared


@dataclass
class PartialPrompt:
    """One prompt of which the first `done` tokens are in `cache`, `prefix_tokens` of them copied."""

    item: Prepared
    cache: DynamicCache
    prefix_tokens: int = 0
    done: int = 0
    #: Pieces so far.
    pieces: int = 0
    #: The encodings of its pictures, once they were needed, and positions of the whole prompt.
    features: dict[str, Any] | None = field(default=None, repr=False)
    positions: Tensor | None = field(default=None, repr=False)
    #: What the last piece gave.
    outcome: Any = field(default=None, repr=False)

    @classmethod
    def begin(cls, item: Prepared, prefix: Prefix | None) -> PartialPrompt:
        """A prompt of which only a kept beginning, if any, is there."""
        if prefix is None:
            return cls(item, DynamicCache())
        return cls(item, prefix.expand(1), prefix.tokens, prefix.tokens)

    @property
    def complete(self) -> bool:
        """Whether the whole prompt went through the model."""
        return self.done >= self.item.prompt_tokens

    def rewind(self) -> None:
        """Forget what a piece that failed has left in some layers."""
        if not self.done:
            self.cache = DynamicCache()
        # Not by `crop`, whose argument means other things in other versions of transformers.
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, : self.done], layer.values[:, :, : self.done]


def find_end(prompt_ids: Sequence[int], image_token_ids: frozenset[int], start: int, tokens: int) -> int:
    """Where a piece that begins at `start` ends: at most `tokens` further, but a longer picture stays whole."""
    end = start + tokens
    if end >= len(prompt_ids):
        return len(prompt_ids)

    def splits(place: int) -> bool:
        return prompt_ids[place - 1] == prompt_ids[place] and prompt_ids[place] in image_token_ids

    earlier = end
    while earlier > start and splits(earlier):
        earlier -= 1
    if earlier > start:
        return earlier
    while end < len(prompt_ids) and splits(end):
        end += 1
    return end


def cut_features(features: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """Encodings of picture tokens `first .. last` of a prompt. Raises ValueError where their shape does not tell."""
    found = {}
    for name, value in features.items():
        if name == "deepstack_features":
            found[name] = [_cut(layer, first, last) for layer in value]
        else:
            found[name] = value if name == "type" else _cut(value, first, last)
    return found


def _cut(value: Any, first: int, last: int) -> Any:
    if isinstance(value, Tensor) and value.ndim == 2:
        return value[first:last]
    if isinstance(value, Tensor) and value.ndim == 3:
        each = value.shape[1]
        if first % each or last % each:
            raise ValueError("a picture's encoding cannot be cut")
        return value[first // each : last // each]
    if isinstance(value, list | tuple):
        return _cut_list(value, first, last)
    raise ValueError("the encoder's output cannot be cut by tokens")


def _cut_list(values: Sequence[Tensor], first: int, last: int) -> list[Tensor]:
    """One encoding a picture, `[tokens, hidden]` each."""
    found, begin = [], 0
    for value in values:
        if value.ndim != 2:
            raise ValueError("the encoder's output cannot be cut by tokens")
        end = begin + len(value)
        if begin < last and first < end:
            found.append(value[max(0, first - begin) : last - begin])
        begin = end
    return found
