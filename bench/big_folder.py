"""A model folder of any size, in several shards, whose weights are noise: for what depends on bytes alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

from bench import tokens
from bench.models import Shape, build_config, write_processor
from bench.wording import QUESTIONS, RULES

GIB = 2**30
#: Shards of at most this size, and at least so many of them.
SHARD_BYTES, SHARDS = GIB, 4
#: Values of noise that are drawn once; tensors begin at different places of them.
_NOISE = 2**24
_FACTS = "folder.json"
#: From this size on layers are as wide as those of a model of two billion parameters.
_WIDE_BYTES = GIB // 4


def build_folder(folder: Path, gib: float) -> Path:
    """A folder of about `gib` GiB of bfloat16, made where it is not there yet. Returns its path."""
    out, facts = folder / f"big-{gib:g}", {"gib": gib, "form": 1}
    if (out / _FACTS).is_file() and json.loads((out / _FACTS).read_text()) == facts:
        return out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    wanted = round(gib * GIB)
    shape = _find_shape(wanted)
    tokenizer = tokens.build_tokenizer(shape.vocabulary, [*QUESTIONS, *RULES])
    tokenizer.save_pretrained(out)
    write_processor(out, shape)
    model = _outline(shape, tokenizer)
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    _write_shards(out, _list_weights(model), max(1, min(SHARD_BYTES, wanted // SHARDS)))
    (out / _FACTS).write_text(json.dumps(facts) + "\n")
    return out


def _find_shape(wanted: int) -> Shape:
    """As many layers as come to `wanted` bytes."""
    if wanted < _WIDE_BYTES:
        fixed: tuple[Any, ...] = (1024, 256, 4, 2, 64, (12, 10, 10), 96, 3, 3, (0, 1))
    else:
        fixed = (32_000, 2048, 16, 8, 128, (24, 20, 20), 512, 6, 8, (1, 3, 5))
    vocabulary, hidden, heads, kv_heads, head_dim, rope, vision_hidden, vision_layers, vision_heads, deepstack = fixed

    def shape(layers: int) -> Shape:
        return Shape(
            vocabulary, hidden, layers, heads, kv_heads, head_dim, rope, vision_hidden, vision_layers, vision_heads,
            deepstack, (64,),
        )  # fmt: skip

    three, four = (_count_bytes(shape(layers)) for layers in (3, 4))
    return shape(max(3, 3 + round((wanted - three) / (four - three))))


def _count_bytes(shape: Shape) -> int:
    model = _outline(shape, None)
    return sum(tensor.numel() * 2 for tensor in _list_weights(model).values())


def _outline(shape: Shape, tokenizer: Any) -> Any:
    """The model without any weights."""
    names = {name: number for number, name in enumerate(tokens.SPECIAL)}
    ids = names if tokenizer is None else {name: tokenizer.convert_tokens_to_ids(name) for name in tokens.SPECIAL}
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(build_config(shape, ids))
    model.generation_config = GenerationConfig(
        eos_token_id=ids[tokens.END], pad_token_id=ids[tokens.END_OF_TEXT], do_sample=False
    )
    return model


def _list_weights(model: Any) -> dict[str, Tensor]:
    """What a checkpoint holds: tied weights once."""
    return {name: tensor for name, tensor in model.named_parameters() if name != "lm_head.weight"}


def _write_shards(out: Path, weights: dict[str, Tensor], shard_bytes: int) -> None:
    groups = list(_group(weights, shard_bytes))
    noise = torch.empty(_NOISE, dtype=torch.bfloat16).normal_(0.0, 0.02)
    where, total = {}, 0
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {name: _fill(noise, place * 4099, weights[name]) for place, name in enumerate(names)}
        save_file(tensors, out / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def _group(weights: dict[str, Tensor], shard_bytes: int) -> Iterator[list[str]]:
    names, size = list[str](), 0
    for name, tensor in weights.items():
        if names and size + tensor.numel() * 2 > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.numel() * 2
    yield names


def _fill(noise: Tensor, start: int, like: Tensor) -> Tensor:
    count = like.numel()
    rolled = noise.roll(-(start % _NOISE))
    return rolled.repeat(-(-count // _NOISE))[:count].reshape(like.shape).contiguous()
