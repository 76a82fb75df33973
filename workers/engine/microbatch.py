"""The rows of one `generate`: collated, sampled row by row, and watched between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.engine.loader import LoadedModel
from workers.engine.pixel_bytes import join_vision
from workers.engine.protocol import EngineFailure, Finish
from workers.engine.rows import Row
from workers.engine.sampling import next_tokens, read_back


@dataclass
class Place:
    """A request's row, and whether its end has come."""

    row: Row
    over: bool = False


#: Called when a row has ended.
OnEnd = Callable[[Place, Finish, EngineFailure | None], None]
#: Called after each step with the rows that took part; afterwards rows may be over.
OnStep = Callable[[Sequence[Place]], None]


class MicroBatch:
    """Runs places through `generate` once. It is `generate`'s logits processor and its stopping criterion.

    Rows share a batch whatever their sampling settings: each has a generator of its own, so that a seed gives the
    same text alone and in company (in float32).
    """

    def __init__(self, loaded: LoadedModel, places: Sequence[Place], *, on_end: OnEnd, on_step: OnStep) -> None:
        self._loaded = loaded
        self._places = list(places)
        self._on_end, self._on_step = on_end, on_step
        self._tokens: Tensor = torch.empty(0)
        self._logprobs: dict[int, Tensor] = {}
        self._began = time.monotonic()
        self._samplers = [place.row.sampler for place in self._places]
        self._plain = all(sampler.is_plain for sampler in self._samplers)

    @torch.inference_mode()
    def run(self) -> None:
        """Until every row is over. What `generate` raises comes through; rows that are not over may run again."""
        loaded = self._loaded
        loaded.model.generate(
            **self._collate(),
            max_new_tokens=max(place.row.item.request.max_tokens for place in self._places),
            eos_token_id=sorted(loaded.eos_ids) or None,
            pad_token_id=loaded.pad_id,
            logits_processor=[self.choose],
            stopping_criteria=[self.watch],
        )

    def choose(self, _: Tensor, scores: Tensor) -> Tensor:
        """Pick each row's token and leave `generate`, which is greedy, no other choice."""
        self._tokens, self._logprobs = next_tokens(scores, self._samplers, [None] * len(self._samplers))
        if self._plain:
            return scores
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter_(1, self._tokens.clamp(min=0)[:, None], 0.0)

    def watch(self, _: Tensor, __: Any, **___: Any) -> Tensor:
        """Hand out the step's tokens, end what has ended, and say which rows go on no more."""
        tokens, logprobs = read_back(self._tokens, self._logprobs)
        shared = [place for place in self._places if not place.over]
        for index, place in enumerate(self._places):
            if not place.over:
                self._take(place, tokens[index], logprobs.get(index), len(shared))
        self._on_step(shared)
        return torch.tensor([place.over for place in self._places], device=self._loaded.model.device)

    def _take(self, place: Place, token: int, logprob: float | None, rows: int) -> None:
        if not place.row.steps:
            place.row.prefill_s = time.monotonic() - self._began
        place.row.steps += 1
        place.row.row_steps += rows
        if token < 0:
            failure = EngineFailure(
                "not_a_number", "The model's scores were not numbers; try other settings or a picture of another size."
            )
            self._on_end(place, "error", failure)
        elif finish := place.row.push(token, self._loaded.eos_ids, logprob):
            self._on_end(place, finish, None)

    def _collate(self) -> dict[str, Tensor]:
        """Left-padded prompts, and the pictures' tensors one after the other."""
        items = [place.row.item for place in self._places]
        device, dtype = self._loaded.model.device, self._loaded.model.dtype
        width = max(item.prompt_tokens for item in items)
        inputs: dict[str, Tensor] = {}
        for name in items[0].sequence:
            fill = self._loaded.pad_id if name == "input_ids" else 0
            padded = [_pad_left(item.sequence[name], width, fill) for item in items]
            inputs[name] = torch.cat(padded).to(device)
        return inputs | (join_vision(items, device, dtype) if items[0].vision else {})


def _pad_left(value: Tensor, width: int, fill: int) -> Tensor:
    return torch.nn.functional.pad(value, (width - value.shape[1], 0), value=fill)
