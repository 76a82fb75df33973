"""What is known of a model's files without loading them: the shape, the weights by dtype, the limits. A few numbers,
kept with the model's row, of which memory plans are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from batchinfer.domain.model_shapes import ModelShape, read_shape
from batchinfer.errors import BatchinferError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Where a configuration names no limit, in tokens; the engine's own default.
DEFAULT_CONTEXT = 4096
#: Matrices of at least so many values are laid out a second time on a CPU, where that makes them faster.
LARGE_VALUES = 2**20
#: A side of a picture in pixels is below this; a larger limit counts pixels of the whole picture.
_LONGEST_SIDE = 16_384
_FLOATS = ("F64", "F32", "F16", "BF16")
_TABLES = ("embed", "wte", "position")


@dataclass(frozen=True)
class ModelFacts:
    """The numbers. `weights` are bytes in the files by dtype, as safetensors names it."""

    shape: ModelShape
    weights: dict[str, int]
    #: Values of the matrices that layers multiply by, which quantisation makes smaller; of these, the large ones.
    linear_values: int
    large_values: int
    context_tokens: int
    #: Of the largest picture that is not scaled down; None where the processor does not say.
    image_pixels: int | None = None
    #: The files are quantised already.
    is_quantised: bool = False


def make_facts(
    config: Mapping[str, Any],
    headers: Iterable[Mapping[str, Any]],
    processor: Mapping[str, Any],
    *,
    whole: bool = True,
) -> dict[str, Any]:
    """What a model's row keeps: of `config.json`, of each weight file's header, of the processor's settings.

    Without `memory` where the configuration is of no shape that is known, and where not `whole`.
    """
    weights: dict[str, int] = {}
    linear = large = 0
    tied = bool(config.get("tie_word_embeddings") or (config.get("text_config") or {}).get("tie_word_embeddings"))
    for header in headers:
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            weights[entry["dtype"]] = weights.get(entry["dtype"], 0) + end - begin
            values = _count_linear(name, entry["shape"], tied=tied) if entry["dtype"] in _FLOATS else 0
            linear, large = linear + values, large + values * (values >= LARGE_VALUES)
    found: dict[str, Any] = {
        "architecture": (config.get("architectures") or [None])[0],
        "model_type": config.get("model_type"),
        "weights_bytes": sum(weights.values()),
    }
    try:
        shape = read_shape(config) if whole else None
    except BatchinferError:
        shape = None
    if shape is None:
        return found
    text = config.get("text_config") or config.get("llm_config") or config
    context = text.get("max_position_embeddings")
    context = context if isinstance(context, int) and context > 0 else DEFAULT_CONTEXT
    pixels, quantised = _find_image_pixels(processor), bool(config.get("quantization_config"))
    facts = ModelFacts(shape, weights, linear, large, context, pixels, quantised)
    return {**found, "context_tokens": context, "image_pixels": pixels, "memory": asdict(facts)}


def read_facts(kept: Mapping[str, Any]) -> ModelFacts | None:
    """The facts out of a model's row; None where it has none, or those of another version."""
    memory = kept.get("memory")
    try:
        known = {field.name for field in fields(ModelShape)}
        shape = ModelShape(**{name: value for name, value in memory["shape"].items() if name in known})  # type: ignore[index]
        names = {field.name for field in fields(ModelFacts)} - {"shape"}
        return ModelFacts(shape, **{name: memory[name] for name in names})  # type: ignore[index]
    except (TypeError, KeyError, AttributeError):
        return None


def _count_linear(name: str, shape: list[int], *, tied: bool) -> int:
    """Values of a matrix that a layer multiplies by, else 0. A table of words is one where the output is tied to it."""
    if len(shape) != 2 or not name.endswith("weight"):
        return 0
    is_table = any(word in name for word in _TABLES)
    if is_table and not (tied and "embed_tokens" in name):
        return 0
    return shape[0] * shape[1]


def _find_image_pixels(processor: Mapping[str, Any]) -> int | None:
    size = processor.get("size")
    size = size if isinstance(size, dict) else {}
    for limit in (processor.get("max_pixels"), size.get("max_pixels"), size.get("longest_edge")):
        if isinstance(limit, int) and limit > 0:
            return limit if limit >= _LONGEST_SIDE else limit * limit
    sides = (size.get("height"), size.get("width"))
    if all(isinstance(side, int) and side > 0 for side in sides):
        return int(sides[0] * sides[1])  # type: ignore[operator]
    return None
