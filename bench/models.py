"""Model folders made on the spot: the architecture of Qwen3-VL with random weights, in two sizes.

    python -m bench.models tiny DIR

Lengths are prescribed by `max_tokens`, so no answer may end by itself: the rows of the (tied) embedding that belong to
special tokens are zero. Their scores are then exactly 0, and the best of the others, which are random, is above it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from bench import tokens
from bench.wording import QUESTIONS, RULES

#: Standard deviation of a random matrix times the root of its inputs: above 1, so that answers do not repeat at once.
GAIN = 1.1
_PATCH, _MERGE = 16, 2
SEED = 20
#: The file that says which shape a folder has.
_SHAPE = "shape.json"


@dataclass(frozen=True)
class Shape:
    """The sizes that differ between the two models, and the sides of the pictures that they are shown, in pixels."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope: tuple[int, int, int]
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    deepstack: tuple[int, ...]
    sides: tuple[int, ...]
    context: int = 1024
    #: Pixels of the largest picture that is not scaled down.
    largest: int = 256 * 256


SHAPES = {
    "tiny": Shape(1024, 192, 4, 6, 2, 32, (6, 5, 5), 96, 3, 3, (0, 1), (64, 96, 128)),
    # Hidden size, heads and vocabulary of the public Qwen3 0.6B, with fewer layers, and a smaller vision tower.
    "large": Shape(151_936, 1024, 12, 16, 8, 128, (24, 20, 20), 512, 6, 8, (1, 3, 5), (64, 96, 128)),
}


def build_model(size: str, folder: Path) -> Path:
    """The folder of a size, made where it is not there yet. Returns its path. Raises KeyError for an unknown size."""
    shape, out = SHAPES[size], folder / size
    wanted = json.loads(json.dumps(asdict(shape)))
    if (out / _SHAPE).is_file() and json.loads((out / _SHAPE).read_text()) == wanted:
        return out
    draft = out.with_name(out.name + ".draft")
    for old in (draft, out):
        shutil.rmtree(old, ignore_errors=True)
    draft.mkdir(parents=True)
    tokenizer = tokens.build_tokenizer(shape.vocabulary, [*QUESTIONS, *RULES])
    tokenizer.save_pretrained(draft)
    write_processor(draft, shape)
    _build_weights(shape, tokenizer).save_pretrained(draft)
    (draft / _SHAPE).write_text(json.dumps(wanted) + "\n")
    draft.rename(out)
    return out


def build_config(shape: Shape, ids: dict[str, int]) -> Any:
    """The configuration of a shape; `ids` are those of the special tokens."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(shape.rope), "mrope_interleaved": True}
    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": (2 if shape.hidden < 1024 else 3) * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context,
        "rope_parameters": rope,
        "tie_word_embeddings": True,
        "dtype": "float32",
        "eos_token_id": ids[tokens.END],
        "bos_token_id": ids[tokens.END_OF_TEXT],
        "pad_token_id": ids[tokens.END_OF_TEXT],
    }
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": (2 if shape.hidden < 1024 else 4) * shape.vision_hidden,
        "num_heads": shape.vision_heads,
        "in_channels": 3,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": shape.hidden,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": list(shape.deepstack),
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[tokens.IMAGE],
        video_token_id=ids[tokens.VIDEO],
        vision_start_token_id=ids[tokens.VISION_START],
        vision_end_token_id=ids[tokens.VISION_END],
        tie_word_embeddings=True,
    )


def _build_weights(shape: Shape, tokenizer: Any) -> Any:
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokens.SPECIAL}
    torch.manual_seed(SEED)
    model = Qwen3VLForConditionalGeneration(build_config(shape, ids)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, GAIN * parameter[0].numel() ** -0.5)
        model.get_input_embeddings().weight[tokens.find_unwritten(tokenizer)] = 0.0
    model.generation_config = GenerationConfig(
        eos_token_id=ids[tokens.END], pad_token_id=ids[tokens.END_OF_TEXT], do_sample=False
    )
    return model


def write_processor(out: Path, shape: Shape) -> None:
    """The picture processor's settings, and those of the video processor, which peers insist on."""
    shared = {
        "patch_size": _PATCH,
        "merge_size": _MERGE,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 64 * 64, "longest_edge": shape.largest},
        "processor_class": "Qwen3VLProcessor",
    }
    pictures = {**shared, "image_processor_type": "Qwen2VLImageProcessor"}
    videos = {**shared, "video_processor_type": "Qwen3VLVideoProcessor"}
    (out / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2) + "\n")
    (out / "video_preprocessor_config.json").write_text(json.dumps(videos, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(tokens.CHAT_TEMPLATE)


def main() -> None:
    """Make one folder and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m bench.models", description="Make a model folder for a bench.")
    parser.add_argument("size", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path, metavar="DIR")
    given = parser.parse_args()
    print(build_model(given.size, given.folder))


if __name__ == "__main__":
    main()
