"""Real-sized models with random weights, made where they run: the shapes of Qwen3-VL 2B, 8B and 30B-A3B.

The numbers are those of the public `config.json` files of `Qwen/Qwen3-VL-2B-Instruct`, `-8B-Instruct` and
`-30B-A3B-Instruct`. Weights are drawn on the device itself; of the folder there are only the configuration, a tokenizer
and the settings of the picture processor. Answers never end by themselves, as in `bench.models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, Qwen3VLConfig, Qwen3VLMoeConfig

from bench import tokens
from bench.models import GAIN, SEED, Shape, write_processor
from bench.wording import QUESTIONS, RULES
from workers.engine.loader import LoadedModel
from workers.engine.processing import Processing

_PATCH, _MERGE = 16, 2


@dataclass(frozen=True)
class GpuShape:
    """A model, and the pages that it is shown: width and height in pixels, tokens of a transcription and of a form."""

    text: dict[str, Any]
    vision: dict[str, Any]
    tied: bool
    page: tuple[int, int] = (1024, 1408)
    transcription: int = 800
    extraction: int = 120
    #: Tokens that one request may have, prompt and answer.
    context: int = 4096


def _text(hidden: int, between: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return {
        "vocab_size": 151_936,
        "hidden_size": hidden,
        "intermediate_size": between,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": rope,
        **more,
    }


def _vision(hidden: int, between: int, depth: int, out: int, deepstack: list[int]) -> dict[str, Any]:
    return {
        "depth": depth,
        "hidden_size": hidden,
        "intermediate_size": between,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": out,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": deepstack,
    }


_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True}
_SMALL_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
SHAPES = {
    "2b": GpuShape(_text(2048, 6144, 28, 16, 8), _vision(1024, 4096, 24, 2048, [5, 11, 17]), tied=True),
    "8b": GpuShape(_text(4096, 12_288, 36, 32, 8), _vision(1152, 4304, 27, 4096, [8, 16, 24]), tied=False),
    "30b-a3b": GpuShape(
        _text(2048, 6144, 48, 32, 4, decoder_sparse_step=1, mlp_only_layers=[], **_EXPERTS),
        _vision(1152, 4304, 27, 2048, [8, 16, 24]),
        tied=False,
    ),
    # Only to show that everything runs; its figures say nothing.
    "tiny": GpuShape(
        _text(64, 128, 2, 4, 2) | {"vocab_size": 1024, "head_dim": 32, "rope_parameters": _SMALL_ROPE},
        _vision(32, 64, 2, 64, [0]) | {"num_heads": 2, "num_position_embeddings": 64},
        tied=True,
        page=(64, 96),
        transcription=12,
        extraction=4,
        context=256,
    ),
    "tiny-moe": GpuShape(
        _text(64, 128, 2, 4, 2, decoder_sparse_step=1, mlp_only_layers=[], **(_EXPERTS | {"moe_intermediate_size": 32}))
        | {"vocab_size": 1024, "head_dim": 32, "rope_parameters": _SMALL_ROPE},
        _vision(32, 64, 2, 64, [0]) | {"num_heads": 2, "num_position_embeddings": 64},
        tied=False,
        page=(64, 96),
        transcription=12,
        extraction=4,
        context=256,
    ),
}
#: Those that need a GPU.
REAL = ("2b", "8b", "30b-a3b")


def build_config(shape: GpuShape, ids: dict[str, int]) -> Any:
    """The configuration, with the token numbers of our own tokenizer."""
    ends = {"eos_token_id": ids[tokens.END], "bos_token_id": ids[tokens.END_OF_TEXT]}
    text = shape.text | ends | {"pad_token_id": ids[tokens.END_OF_TEXT], "tie_word_embeddings": shape.tied}
    kind = Qwen3VLMoeConfig if "num_experts" in shape.text else Qwen3VLConfig
    return kind(
        text_config=text,
        vision_config=shape.vision,
        image_token_id=ids[tokens.IMAGE],
        video_token_id=ids[tokens.VIDEO],
        vision_start_token_id=ids[tokens.VISION_START],
        vision_end_token_id=ids[tokens.VISION_END],
        tie_word_embeddings=shape.tied,
    )


def build_loaded(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """The model of a name, as the engine takes it. Raises KeyError for an unknown name."""
    shape = SHAPES[name]
    tokenizer = tokens.build_tokenizer(shape.text["vocab_size"], [*QUESTIONS, *RULES])
    ids = {special: tokenizer.convert_tokens_to_ids(special) for special in tokens.SPECIAL}
    config = build_config(shape, ids)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    write_processor(folder, _describe_pages(shape))
    return LoadedModel(
        model=draw_model(config, tokens.find_unwritten(tokenizer), device, dtype),
        processing=Processing(folder, config, context_tokens=shape.context),
        name=name,
        revision="random",
        eos_ids=frozenset(),
        pad_id=ids[tokens.END_OF_TEXT],
        context_tokens=shape.context,
    )


def _describe_pages(shape: GpuShape) -> Shape:
    """What the writer of processor settings wants to know: the largest page."""
    text, vision = shape.text, shape.vision
    return Shape(
        vocabulary=text["vocab_size"],
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_dim=text["head_dim"],
        rope=tuple(text["rope_parameters"]["mrope_section"]),
        vision_hidden=vision["hidden_size"],
        vision_layers=vision["depth"],
        vision_heads=vision["num_heads"],
        deepstack=tuple(vision["deepstack_visual_indexes"]),
        sides=shape.page,
        largest=shape.page[0] * shape.page[1],
    )


def draw_model(config: Any, unwritten: list[int], device: torch.device, dtype: torch.dtype) -> Any:
    """Random weights, made on the device. Tokens in `unwritten` always score 0, and another one scores more."""
    torch.manual_seed(SEED)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                # Experts lie side by side in one tensor of three dimensions, each `[outputs, inputs]`.
                inputs = parameter.shape[-1] if parameter.ndim == 3 else parameter[0].numel()
                parameter.normal_(0.0, GAIN * inputs**-0.5)
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            embedding.weight[unwritten] = 0.0
    settings = model.generation_config
    settings.do_sample, settings.eos_token_id = False, None
    settings.temperature = settings.top_p = settings.top_k = None
    return model
