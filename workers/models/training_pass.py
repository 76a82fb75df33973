"""The forward pass of training: the sums of the model's own `forward`, for pages of one size.

The general `forward` attends to each picture apart and works positions out anew; with pages of one size that
is known beforehand, and the states which the helper heads ask are at hand. A test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name

from batchinfer.samples import PAGE_SIZE
from workers.models.architecture import HIDDEN, MERGE, PATCH
from workers.models.targets import CELLS, IGNORE, POINTER_COLUMNS, POINTER_ROWS, SLOT_CLASSES, SLOTS

if TYPE_CHECKING:
    from workers.models.batches import Batch

#: Empty slots are nine in ten, so each counts less.
_EMPTY_WEIGHT = 0.15
#: The pointer is asked after these text layers, counted from 0.
_POINTING_LAYERS = (1, 2)
_FIRST_VISUAL = 2


@dataclass(frozen=True)
class Losses:
    """The three losses of one batch, each a mean over its targets."""

    tokens: Tensor
    slots: Tensor
    pointer: Tensor

    def total(self, slot_weight: float, pointer_weight: float) -> Tensor:
        """What is minimised."""
        return self.tokens + slot_weight * self.slots + pointer_weight * self.pointer


class TrainingPass(nn.Module):
    """The model and its two helper heads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.slot_head = nn.Linear(HIDDEN, SLOTS * SLOT_CLASSES)
        self.pointer_heads = nn.ModuleList(nn.Linear(HIDDEN, POINTER_COLUMNS + POINTER_ROWS) for _ in _POINTING_LAYERS)
        weights = torch.ones(SLOT_CLASSES)
        weights[0] = _EMPTY_WEIGHT
        self.slot_weights: Tensor
        self.register_buffer("slot_weights", weights, persistent=False)

    def forward(self, batch: Batch) -> Losses:
        """All losses of a batch."""
        visual, deep = self.see(batch.pages)
        logits = self.slot_head(visual).float().view(-1, SLOT_CLASSES)
        slots = F.cross_entropy(logits, batch.slots.view(-1), weight=self.slot_weights)
        if batch.ids.shape[1] == 0:
            return Losses(torch.zeros(()), slots, torch.zeros(()))
        hidden, halfway = self.write(batch.ids, visual, deep)
        # Nothing is asked before the end of the page; later on, unasked positions carry IGNORE.
        asked = _FIRST_VISUAL + visual.shape[1]
        answers = self.model.lm_head(hidden[:, asked:]).float().flatten(0, 1)
        tokens = F.cross_entropy(answers, batch.labels[:, asked:].flatten(), ignore_index=IGNORE)
        pointer = torch.zeros(())
        places = batch.pointers[:, asked:].flatten(0, 1)
        for head, state in zip(self.pointer_heads, halfway, strict=True):
            where = head(state[:, asked:]).float().flatten(0, 1)
            columns, rows = where.split((POINTER_COLUMNS, POINTER_ROWS), dim=-1)
            pointer = pointer + F.cross_entropy(columns, places[:, 0], ignore_index=IGNORE)
            pointer = pointer + F.cross_entropy(rows, places[:, 1], ignore_index=IGNORE)
        return Losses(tokens, slots, pointer / (2 * len(halfway)))

    def see(self, pages: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Visual tokens, shape (batch, cells, hidden), and those of the deep layers."""
        vision = self.model.model.visual
        kernel = vision.patch_embed.proj
        # Three equal channels in two equal frames: their kernels add up.
        folded = kernel.weight.sum(dim=(1, 2)).view(HIDDEN, PATCH * PATCH)
        rows = _merge_order(torch.arange(PAGE_SIZE // PATCH).view(-1, 1).expand(-1, PAGE_SIZE // PATCH))
        columns = _merge_order(torch.arange(PAGE_SIZE // PATCH).view(1, -1).expand(PAGE_SIZE // PATCH, -1))
        state = F.linear(_patches(pages), folded, kernel.bias)
        state = state + vision.pos_embed(rows * (PAGE_SIZE // PATCH) + columns)
        turn = vision.rotary_pos_emb(state, torch.stack([rows, columns], dim=-1))
        deep = []
        for number, block in enumerate(vision.blocks):
            state = state + _look(block.attn, block.norm1(state), turn)
            state = state + block.mlp(block.norm2(state))
            if number in vision.deepstack_visual_indexes:
                merger = vision.deepstack_merger_list[vision.deepstack_visual_indexes.index(number)]
                deep.append(merger(state).view(len(pages), -1, HIDDEN))
        return vision.merger(state).view(len(pages), -1, HIDDEN), deep

    def write(self, ids: Tensor, visual: Tensor, deep: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Last hidden states, shape (batch, length, hidden), and those after the pointing layers."""
        text = self.model.model.language_model
        state = _place(text.embed_tokens(ids), visual, add=False)
        turn = text.rotary_emb(state, _positions(ids.shape[1])[:, None])
        halfway = []
        for number, layer in enumerate(text.layers):
            state = state + _recall(layer.self_attn, layer.input_layernorm(state), turn)
            state = state + layer.mlp(layer.post_attention_layernorm(state))
            if number < len(deep):
                state = _place(state, deep[number], add=True)
            if number in _POINTING_LAYERS:
                halfway.append(state)
        return text.norm(state), halfway


def _merge_order(grid: Tensor) -> Tensor:
    """A (rows, columns) grid of patches flattened so that the four of one cell follow one another."""
    rows, columns = grid.shape
    blocks = grid.reshape(rows // MERGE, MERGE, columns // MERGE, MERGE)
    return blocks.permute(0, 2, 1, 3).reshape(-1)


def _patches(pages: Tensor) -> Tensor:
    """Patches in merge order, scaled to -1..1, shape (batch, patches, pixels)."""
    count, cells = len(pages), PAGE_SIZE // PATCH // MERGE
    split = pages.view(count, cells, MERGE, PATCH, cells, MERGE, PATCH).permute(0, 1, 4, 2, 5, 3, 6)
    return split.reshape(count, -1, PATCH * PATCH).float().div(127.5).sub(1)


def _positions(length: int) -> Tensor:
    """Time, row and column of each token, shape (3, length), for a prompt that opens with one page."""
    cells = torch.arange(CELLS * CELLS)
    seen = _FIRST_VISUAL + torch.stack([torch.zeros_like(cells), cells // CELLS, cells % CELLS])
    before = torch.arange(_FIRST_VISUAL).expand(3, -1)
    after = _FIRST_VISUAL + CELLS + torch.arange(length - _FIRST_VISUAL - len(cells))
    return torch.cat([before, seen, after.expand(3, -1)], dim=1)


def _place(state: Tensor, visual: Tensor, *, add: bool) -> Tensor:
    """The states with the visual tokens put in, or added, where the page stands in the prompt."""
    end = _FIRST_VISUAL + visual.shape[1]
    middle = state[:, _FIRST_VISUAL:end] + visual if add else visual.to(state.dtype)
    return torch.cat([state[:, :_FIRST_VISUAL], middle, state[:, end:]], dim=1)


def _turned(states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions applied to (batch, heads, length, width)."""
    half = states.shape[-1] // 2
    rotated = torch.cat([-states[..., half:], states[..., :half]], dim=-1)
    return states * turn[0].to(states.dtype) + rotated * turn[1].to(states.dtype)


def _look(attention: Any, state: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Vision attention: every patch of a page sees every other."""
    count, length, _ = state.shape
    heads = attention.qkv(state).view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = _attend(_turned(heads[0], turn), _turned(heads[1], turn), heads[2], causal=False)
    output: Tensor = attention.proj(mixed.transpose(1, 2).reshape(count, length, -1))
    return output


def _recall(attention: Any, state: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Text attention: causal, so padding on the right needs no mask."""
    count, length, _ = state.shape
    shape = (count, length, -1, attention.head_dim)
    query = attention.q_norm(attention.q_proj(state).view(shape)).transpose(1, 2)
    key = attention.k_norm(attention.k_proj(state).view(shape)).transpose(1, 2)
    value = attention.v_proj(state).view(shape).transpose(1, 2)
    query, key = _turned(query, turn).to(value.dtype), _turned(key, turn).to(value.dtype)
    mixed = _attend(query, key, value, causal=True)
    output: Tensor = attention.o_proj(mixed.transpose(1, 2).reshape(count, length, -1))
    return output


def _attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Plain attention: with its backward pass 1.6 to 2.5 times as fast as the fused kernel on two CPU cores."""
    count, heads, length, width = query.shape
    query, key, value = (part.reshape(count * heads, length, width) for part in (query, key, value))
    mask = torch.zeros(length, length, dtype=query.dtype)
    if causal:
        mask = mask.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf"))
    scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=width**-0.5)
    return torch.bmm(scores.softmax(-1).to(value.dtype), value).view(count, heads, length, width)
