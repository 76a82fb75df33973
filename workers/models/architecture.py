"""The shape of `docreader`: the architecture of Qwen3-VL with 6.0 million parameters."""

from __future__ import annotations

from typing import Any

from transformers import Qwen3VLConfig

from workers.models import alphabet

HIDDEN = 192
PATCH = 16
MERGE = 2
#: Pixels each way that one visual token sees.
CELL = PATCH * MERGE


def new_config() -> Any:
    """Configuration of an untrained `docreader`."""
    return Qwen3VLConfig(
        text_config={
            "vocab_size": alphabet.VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": 3 * HIDDEN,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 48,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8, 8, 8],
                "mrope_interleaved": True,
            },
            "pad_token_id": alphabet.PAD,
            "bos_token_id": alphabet.BEGIN,
            "eos_token_id": alphabet.END,
        },
        vision_config={
            "depth": 4,
            "hidden_size": HIDDEN,
            "intermediate_size": 3 * HIDDEN,
            "num_heads": 4,
            "in_channels": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [1, 2],
        },
        image_token_id=alphabet.IMAGE,
        video_token_id=alphabet.VIDEO,
        vision_start_token_id=alphabet.VISION_START,
        vision_end_token_id=alphabet.VISION_END,
        tie_word_embeddings=True,
    )
