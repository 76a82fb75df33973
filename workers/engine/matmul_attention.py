"""Attention of a decode step on a CPU as two batched matrix products straight from the slots.

With one query a row the general kernel spends its time on what it was made for, long queries. Here the heads that
share keys are the rows of one product for each row and key head, and the mask is added once, ready made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from workers.engine import varlen
from workers.engine.varlen import UnavailableError

NAME = "batchinfer_matmul"
#: What a model may ask of attention that is not done here.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "cache")


def check_model(model: Any) -> None:
    """Raises UnavailableError where it does not apply."""
    if model.device.type != "cpu" or model.dtype is not torch.float32:
        raise UnavailableError("It is for float32 on a CPU.")
    varlen.check_model(model)


@contextlib.contextmanager
def matmul_attention(model: Any) -> Iterator[None]:
    """Within, the text model's layers attend by matrix products."""
    _register()
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def make_additive(mask: Tensor) -> Tensor:
    """0 where a row may look, minus infinity elsewhere, from a mask that is True there."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for a layer: query `[n, heads, 1, dim]`, keys and values `[n, kv heads, window, dim]`."""
    rows, heads, width, size = query.shape
    count, window = key.shape[1], key.shape[2]
    if width != 1 or attention_mask is None or any(options.get(name) is not None for name in _UNKNOWN):
        return varlen.pass_on(module, query, key, value, attention_mask, scaling=scaling, **options)
    group = heads // count
    scaled = query.reshape(rows * count, group, size) * (size**-0.5 if scaling is None else scaling)
    scores = torch.bmm(scaled, key.flatten(0, 1).transpose(1, 2)).view(rows, count, group, window).add_(attention_mask)
    shares = torch.softmax(scores, dim=-1).view(rows * count, group, window)
    return torch.bmm(shares, value.flatten(0, 1)).view(rows, 1, heads, value.shape[-1]), None


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
