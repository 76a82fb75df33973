"""What a model costs by its `config.json` alone: parameters, bytes and operations a token, picture tokens a page.

Counts follow the published layers: attention projections of (2 heads + 2 key/value heads) x head size, gated MLPs of
three matrices, experts where there are any. They leave out norms and biases, less than one in a hundred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchinfer.errors import BadRequest

#: bfloat16.
WEIGHT_BYTES = 2
#: Families whose picture tokens are no function of the pixels take so many a picture where the config does not say.
_USUAL_IMAGE_TOKENS = 1024


@dataclass(frozen=True)
class ModelShape:
    """Parameters of the language model (all, and those that one token meets) and of the vision tower."""

    text_parameters: int
    active_parameters: int
    #: Those that a decode step of many rows reads: of experts all, of the two tables of words one.
    read_parameters: int
    vision_parameters: int
    kv_bytes_per_token: int
    #: Pixels of the side that become one token of the language model; None where each picture is so many tokens.
    token_side: int | None
    #: Patches of the vision tower for each such token.
    patches_per_token: int
    image_tokens: int | None = None
    #: Values that a token has between layers, and in the middle of the widest layer that it meets; the same of a patch
    #: in the vision tower; and words of the vocabulary. Zero where nobody asked.
    width: int = 0
    middle: int = 0
    vision_width: int = 0
    vision_middle: int = 0
    vocabulary: int = 0

    @property
    def weights_bytes(self) -> int:
        """Of all parameters in bfloat16."""
        return WEIGHT_BYTES * (self.text_parameters + self.vision_parameters)

    def count_step_bytes(self, rows: int) -> int:
        """Weights that a decode step of so many rows reads."""
        return WEIGHT_BYTES * (self.active_parameters if rows == 1 else self.read_parameters)

    def count_image_tokens(self, width: int, height: int) -> int:
        """Tokens of a page of so many pixels."""
        if self.token_side is None:
            return self.image_tokens or _USUAL_IMAGE_TOKENS
        return max(1, round(width / self.token_side)) * max(1, round(height / self.token_side))


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape of a Hugging Face configuration. Raises BadRequest where it has no language model that is known."""
    text = config.get("text_config") or config.get("llm_config") or config
    vision = config.get("vision_config") or {}
    try:
        every, active, read = _count_text(text)
        layers, heads = int(text["num_hidden_layers"]), _kv_heads(text)
        kv_bytes = 2 * layers * heads * _head_size(text) * WEIGHT_BYTES
        side, patches, tokens = _find_tokens(config, vision)
        counted = (every, active, read, _count_vision(vision), kv_bytes, side, patches, tokens)
        return ModelShape(*counted, *_find_widths(text), *_find_vision_widths(vision), int(text["vocab_size"]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
        raise BadRequest(
            "The model's config.json is none of a language model with layers of attention. Say what it reaches with "
            "--pages-per-second instead.",
            code="model_shape_unknown",
            param="model",
        ) from None


def _head_size(text: Mapping[str, Any]) -> int:
    return int(text.get("head_dim") or int(text["hidden_size"]) // int(text["num_attention_heads"]))


def _kv_heads(text: Mapping[str, Any]) -> int:
    return int(text.get("num_key_value_heads") or text["num_attention_heads"])


def _count_text(text: Mapping[str, Any]) -> tuple[int, int, int]:
    """All parameters of the language model, those that one token meets, and those that a step of many rows reads."""
    hidden, layers = int(text["hidden_size"]), int(text["num_hidden_layers"])
    size, heads = _head_size(text), int(text["num_attention_heads"])
    attention = hidden * size * (2 * heads + 2 * _kv_heads(text))
    experts = int(text.get("num_experts") or text.get("num_local_experts") or 0)
    if experts:
        one = 3 * hidden * int(text.get("moe_intermediate_size") or text["intermediate_size"])
        every, met = experts * one, int(text.get("num_experts_per_tok") or 1) * one
    else:
        every = met = 3 * hidden * int(text["intermediate_size"])
    words = int(text["vocab_size"]) * hidden
    output = 0 if text.get("tie_word_embeddings") else words
    whole = layers * (attention + every) + words
    return whole + output, layers * (attention + met) + words, whole


def _find_widths(text: Mapping[str, Any]) -> tuple[int, int]:
    """Values of a token between layers and within one: of experts, those that it meets."""
    if text.get("num_experts") or text.get("num_local_experts"):
        one = int(text.get("moe_intermediate_size") or text["intermediate_size"])
        return int(text["hidden_size"]), one * int(text.get("num_experts_per_tok") or 1)
    return int(text["hidden_size"]), int(text["intermediate_size"])


def _find_vision_widths(vision: Mapping[str, Any]) -> tuple[int, int]:
    hidden = int(vision.get("hidden_size") or vision.get("embed_dim") or 0)
    return hidden, int(vision.get("intermediate_size") or 4 * hidden)


def _count_vision(vision: Mapping[str, Any]) -> int:
    depth = int(vision.get("depth") or vision.get("num_hidden_layers") or 0)
    hidden, between = _find_vision_widths(vision)
    return depth * (4 * hidden * hidden + 2 * hidden * between)


def _find_tokens(config: Mapping[str, Any], vision: Mapping[str, Any]) -> tuple[int | None, int, int | None]:
    """(pixels a side of one token, patches a token, tokens a picture): the first or the last is None."""
    merge, patch = vision.get("spatial_merge_size"), vision.get("patch_size")
    if merge and patch:
        return int(patch) * int(merge), int(merge) ** 2, None
    fixed = config.get("mm_tokens_per_image") or config.get("image_seq_length")
    image, sides = vision.get("image_size"), patch
    if fixed:
        tokens = int(fixed)
    elif isinstance(image, int) and sides:
        tokens = (image // int(sides)) ** 2
    else:
        tokens = _USUAL_IMAGE_TOKENS
    whole = (int(image) // int(sides)) ** 2 if isinstance(image, int) and sides else tokens
    return None, max(1, math.ceil(whole / tokens)), tokens
