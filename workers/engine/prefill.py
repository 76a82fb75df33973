"""Prefill: a group of prompts in one forward, left-padded, each copied into its slot.

Positions come from the model's own `_prepare_position_ids_for_generation`; since the next position is the last column
plus the tokens generated (transformers, generation/utils.py), storing that column is all that decode needs, also for
multi-axis rotary positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from workers.engine.prefix import Prefix
from workers.engine.prepared import Prepared
from workers.engine.slots import SlotCache
from workers.engine.vision import VisionEncoder


@dataclass
class Prefilled:
    """The outcome of one group: logits of each row's next token, the cache they filled, and where each row lies.

    Row `i` of the cache holds its first `prefix` tokens at the front and the rest from `starts[i]` on.
    """

    logits: Tensor
    cache: DynamicCache
    prefix_tokens: int
    starts: list[int]
    #: Last position column of each prompt, `[axes]` each.
    last_positions: list[Tensor]

    def copy_row(self, target: SlotCache, slot: int, row: int, length: int) -> None:
        """Copy a row's `length` tokens into a slot."""
        if self.prefix_tokens:
            target.load(slot, self.cache, row, 0, self.prefix_tokens)
        rest = length - self.prefix_tokens
        target.load(slot, self.cache, row, self.starts[row], rest, offset=self.prefix_tokens)


class Prefiller:
    """Runs groups through the model. `use_encoder` says whether pictures go through the encoder cache."""

    def __init__(self, model: Any, vision: VisionEncoder, *, pad_id: int, use_encoder: bool) -> None:
        self._model, self._vision, self._pad_id = model, vision, pad_id
        self.use_encoder = use_encoder
        self.forwards = 0

    @torch.inference_mode()
    def run(self, group: Sequence[Prepared], prefix: Prefix | None = None) -> Prefilled:
        """One forward over the group; all of it shares `prefix`, if one is given."""
        skip = prefix.tokens if prefix else 0
        width = max(item.prompt_tokens for item in group) - skip
        sequence = {name: self._stack(group, name, skip, width) for name in group[0].sequence}
        positions = self._positions(group, skip, width)
        cache = prefix.expand(len(group)) if prefix else DynamicCache()
        if prefix:
            mask = sequence["attention_mask"]
            sequence["attention_mask"] = torch.cat([mask.new_ones(len(group), skip), mask], dim=1)
        inputs = self._model.prepare_inputs_for_generation(
            sequence.pop("input_ids"),
            past_key_values=cache,
            attention_mask=sequence.pop("attention_mask"),
            position_ids=positions,
            is_first_iteration=True,
            use_cache=True,
            logits_to_keep=1,
            **sequence,
            **self._vision_inputs(group, skip),
        )
        output = self._model(**inputs)
        self.forwards += 1
        starts = [skip + width - (item.prompt_tokens - skip) for item in group]
        # Some families shift positions while inputs are prepared, so what the forward got is what counts.
        fed = inputs.get("position_ids")
        fed = positions if fed is None else fed
        last = [fed[..., row, -1].reshape(-1) for row in range(len(group))]
        return Prefilled(output.logits[:, -1], cache, skip, starts, last)

    def _stack(self, group: Sequence[Prepared], name: str, skip: int, width: int) -> Tensor:
        fill = self._pad_id if name == "input_ids" else 0
        rows = [item.sequence[name][:, skip:] for item in group]
        padded = [torch.nn.functional.pad(row, (width - row.shape[1], 0), value=fill) for row in rows]
        return torch.cat(padded).to(self._model.device)

    def _positions(self, group: Sequence[Prepared], skip: int, width: int) -> Tensor:
        """`[rows, width]`, or `[axes, rows, width]` for multi-axis rotary positions; 0 on padding."""
        rows = []
        for item in group:
            inputs = {**item.sequence, **{n: v for n, v in item.vision.items() if n != "pixel_values"}}
            own = self._model._prepare_position_ids_for_generation(item.sequence["input_ids"], inputs)
            own = own[..., skip:]
            rows.append(torch.nn.functional.pad(own, (width - own.shape[-1], 0)))
        return torch.cat(rows, dim=-2).to(self._model.device)

    def _vision_inputs(self, group: Sequence[Prepared], skip: int) -> dict[str, Any]:
        item = group[0]
        if not item.vision or not any(token in item.image_token_ids for token in item.prompt_ids[skip:]):
            return {}
        if not self.use_encoder:
            device = self._model.device
            joined = {name: torch.cat([item.vision[name] for item in group]).to(device) for name in group[0].vision}
            return {n: v.to(self._model.dtype) if v.is_floating_point() else v for n, v in joined.items()}
        features = self._vision.features(group)
        # A forward that gets encodings must not get pixels; grids and sizes still tell it where they belong.
        rest = {
            name: torch.cat([item.vision[name] for item in group]) for name in group[0].vision if name != "pixel_values"
        }
        accepted = {name: value.to(self._model.device) for name, value in rest.items()}
        return {**accepted, "mm_encoder_outputs": {"image": self._vision.combine(features)}}
