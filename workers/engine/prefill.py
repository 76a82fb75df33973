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

from workers.engine.chunks import PartialPrompt, cut_features, find_end
from workers.engine.pixel_bytes import PADDING, PIXELS, join_vision
from workers.engine.prefix import Prefix
from workers.engine.prepared import Prepared
from workers.engine.slots import SlotCache
from workers.engine.vision import Features, VisionEncoder


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
    def run(
        self, group: Sequence[Prepared], prefix: Prefix | None = None, features: list[Features] | None = None
    ) -> Prefilled:
        """One forward over the group; all of it shares `prefix`, if one is given. `features` are its encodings."""
        skip = prefix.tokens if prefix else 0
        width = max(item.prompt_tokens for item in group) - skip
        sequence = {name: self._stack(group, name, skip, width) for name in group[0].sequence}
        positions = self._positions(group, skip, width)
        cache = prefix.expand(len(group)) if prefix else DynamicCache()
        vision = self._vision_inputs(group, skip, features)
        logits, fed = self._forward(sequence, positions, cache, skip, vision)
        starts = [skip + width - (item.prompt_tokens - skip) for item in group]
        last = [fed[..., row, -1].reshape(-1) for row in range(len(group))]
        return Prefilled(logits, cache, skip, starts, last)

    @torch.inference_mode()
    def encode(self, group: Sequence[Prepared], skip: int) -> list[Features] | None:
        """Encodings for several forwards at once; None where there are none to make beforehand."""
        return self._vision.features(group) if self.use_encoder and _shows_pictures(group[0], skip) else None

    def can_cut(self, item: Prepared) -> bool:
        """Whether a prompt may go in pieces: pictures have to be encoded beforehand."""
        return self.use_encoder or not item.vision

    @torch.inference_mode()
    def run_piece(self, partial: PartialPrompt, tokens: int) -> Prefilled | None:
        """The next piece of a long prompt, of about so many tokens; the outcome with the last one, None before.

        After an exception the piece may be tried again, once `rewind` was called.
        """
        item, first = partial.item, partial.done
        end = find_end(item.prompt_ids, item.image_token_ids, first, tokens)
        if partial.positions is None:
            partial.positions = self._positions([item], 0, item.prompt_tokens)
        sequence = {name: value[:, first:end].to(self._model.device) for name, value in item.sequence.items()}
        vision = self._piece_vision(partial, first, end)
        logits, fed = self._forward(sequence, partial.positions[..., first:end], partial.cache, first, vision)
        partial.done, partial.pieces = end, partial.pieces + 1
        if not partial.complete:
            return None
        skip = partial.prefix_tokens
        return Prefilled(logits, partial.cache, skip, [skip], [fed[..., 0, -1].reshape(-1)])

    def _piece_vision(self, partial: PartialPrompt, first: int, end: int) -> dict[str, Any]:
        item = partial.item
        before, here = (
            sum(token in item.image_token_ids for token in item.prompt_ids[part])
            for part in (slice(0, first), slice(first, end))
        )
        if not here or not item.vision:
            return {}
        if partial.features is None:
            partial.features = self._vision.features([item])[0]
        return self._vision_inputs([item], first, [cut_features(partial.features, before, before + here)])

    def _forward(
        self, sequence: dict[str, Tensor], positions: Tensor, cache: DynamicCache, seen: int, vision: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Logits `[rows, vocabulary]` of the last column, and the positions that the model was given.

        `seen` columns are in the cache already, and all of them count.
        """
        mask = sequence["attention_mask"]
        if seen:
            sequence["attention_mask"] = torch.cat([mask.new_ones(len(mask), seen), mask], dim=1)
        inputs = self._model.prepare_inputs_for_generation(
            sequence.pop("input_ids"),
            past_key_values=cache,
            attention_mask=sequence.pop("attention_mask"),
            position_ids=positions,
            is_first_iteration=True,
            use_cache=True,
            logits_to_keep=1,
            **sequence,
            **vision,
        )
        output = self._model(**inputs)
        self.forwards += 1
        # Some families shift positions while inputs are prepared, so what the forward got is what counts.
        fed = inputs.get("position_ids")
        return output.logits[:, -1], positions if fed is None else fed

    def _stack(self, group: Sequence[Prepared], name: str, skip: int, width: int) -> Tensor:
        fill = self._pad_id if name == "input_ids" else 0
        rows = [item.sequence[name][:, skip:] for item in group]
        padded = [torch.nn.functional.pad(row, (width - row.shape[1], 0), value=fill) for row in rows]
        return torch.cat(padded).to(self._model.device)

    def _positions(self, group: Sequence[Prepared], skip: int, width: int) -> Tensor:
        """`[rows, width]`, or `[axes, rows, width]` for multi-axis rotary positions; 0 on padding."""
        rows = []
        for item in group:
            inputs = {**item.sequence, **{n: v for n, v in item.vision.items() if n not in (PIXELS, PADDING)}}
            own = self._model._prepare_position_ids_for_generation(item.sequence["input_ids"], inputs)
            own = own[..., skip:]
            rows.append(torch.nn.functional.pad(own, (width - own.shape[-1], 0)))
        return torch.cat(rows, dim=-2).to(self._model.device)

    def _vision_inputs(
        self, group: Sequence[Prepared], skip: int, features: list[Features] | None = None
    ) -> dict[str, Any]:
        if not _shows_pictures(group[0], skip):
            return {}
        if not self.use_encoder:
            return join_vision(group, self._model.device, self._model.dtype)
        encoded = self._vision.features(group) if features is None else features
        # A forward that gets encodings must not get pixels; grids and sizes still tell it where they belong.
        rest = join_vision(group, self._model.device, self._model.dtype, pixels=False)
        return {**rest, "mm_encoder_outputs": {"image": self._vision.combine(encoded)}}


def _shows_pictures(item: Prepared, skip: int) -> bool:
    """Whether pictures come behind the first `skip` tokens."""
    return bool(item.vision) and any(token in item.image_token_ids for token in item.prompt_ids[skip:])
