"""Open an engine over a model folder. torch and transformers are imported only when a real model is loaded."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.engine.fake import FakeEngine
from workers.engine.folder import ModelFolder, check_folder
from workers.engine.protocol import Engine, ModelError

if TYPE_CHECKING:
    from workers.engine.processing import Processing

_log = logging.getLogger(__name__)

KINDS = ("auto", "static", "transformers", "fake")
#: What the words of `dtype` mean in torch.
_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
#: Where a model's configuration names no limit, in tokens.
_DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and what an engine must know of it."""

    model: Any
    processing: Processing
    name: str
    revision: str
    eos_ids: frozenset[int]
    pad_id: int
    context_tokens: int


def open_engine(
    kind: str,
    model: Path,
    *,
    device: str = "cpu",
    slots: int = 16,
    threads: int | None = None,
    dtype: str = "auto",
    **options: Any,
) -> Engine:
    """An engine of a kind, ready to take requests: auto, static, transformers or fake.

    auto and transformers are the continuous engine where the self-test finds that it is exact, else the static one.

    `threads` is what torch may use; by default half of the cores, as threads that wait for each other on busy
    cores are slower than one. `dtype` auto is float32 on a CPU and bfloat16 elsewhere. `options` go to the engine's
    class. Raises ModelError for a folder that cannot be served, ValueError for an unknown kind or dtype.
    """
    if kind not in KINDS:
        raise ValueError(f"engine must be one of {', '.join(KINDS)}, not {kind}.")
    if kind == "fake":
        return FakeEngine(model=model.name, slots=slots, **options)
    loaded = load_model(model, device=device, dtype=dtype, threads=threads)
    if kind == "static":
        from workers.engine.static import StaticBatchEngine

        return StaticBatchEngine(loaded, slots=slots, **options)
    from workers.engine.continuous import open_continuous

    return open_continuous(loaded, slots=slots, **options)


def load_model(path: Path, *, device: str = "cpu", dtype: str = "auto", threads: int | None = None) -> LoadedModel:
    """Check, load and place a model folder. Raises ModelError."""
    folder = check_folder(path)
    import torch

    if device == "cpu":
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // 2))
    config = _load_config(folder)
    context_tokens = _find_context(config)
    from workers.engine.processing import Processing
    from workers.engine.weights import load_weights

    processing = Processing(folder.path, config, context_tokens=context_tokens)
    model = load_weights(folder.path, config, _pick_dtype(dtype, device), device).eval()
    eos_ids = _find_eos(model, processing.tokenizer)
    _make_greedy(model)
    return LoadedModel(
        model=model,
        processing=processing,
        name=folder.name,
        revision=folder.revision,
        eos_ids=eos_ids,
        pad_id=_find_pad(model, processing.tokenizer, eos_ids),
        context_tokens=context_tokens,
    )


def _pick_dtype(dtype: str, device: str) -> Any:
    import torch

    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be auto or one of {', '.join(_DTYPES)}, not {dtype}.")
    return getattr(torch, _DTYPES[dtype])


def _load_config(folder: ModelFolder) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SUPPORTED

    kind = folder.config.get("model_type")
    if not isinstance(kind, str) or kind not in SUPPORTED:
        raise ModelError(
            "unsupported_architecture",
            f"Models of type {kind} are not vision-language models that this version of transformers knows; use "
            "another model, or update the worker.",
        )
    try:
        return AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        _log.warning("config.json cannot be used", exc_info=True)
        raise ModelError(
            "config_unreadable", f"config.json does not fit a model of type {kind}; copy it again."
        ) from error


def _make_greedy(model: Any) -> None:
    """Take the sampling settings out of the model's own: each request brings its own, and they are all it gets."""
    plain = model.generation_config
    plain.do_sample = False
    plain.num_beams = 1
    plain.max_length = plain.temperature = plain.top_p = plain.top_k = plain.min_p = None
    plain.repetition_penalty = 1.0


def _find_context(config: Any) -> int:
    """The most tokens that prompt and answer may have together."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else _DEFAULT_CONTEXT


def _find_eos(model: Any, tokenizer: Any) -> frozenset[int]:
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.get_text_config().eos_token_id
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)


def _find_pad(model: Any, tokenizer: Any, eos_ids: frozenset[int]) -> int:
    for found in (model.generation_config.pad_token_id, tokenizer.pad_token_id):
        if isinstance(found, int):
            return found
    return min(eos_ids, default=0)
