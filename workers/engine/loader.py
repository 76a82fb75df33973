"""Open an engine over a model folder. torch and transformers are imported only when a real model is loaded."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.engine.fake import open_fake
from workers.engine.folder import ModelFolder, check_folder
from workers.engine.phases import Phases
from workers.engine.protocol import Engine, ModelError
from workers.engine.quantising import check_kind, find_method
from workers.engine.warming import Warming, describe

if TYPE_CHECKING:
    from workers.engine.processing import Processing

_log = logging.getLogger(__name__)

KINDS = ("auto", "static", "transformers", "fake", "remote", "vllm")
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
    #: How the weights are quantised: none, int8, int4, fp8, or the method of a checkpoint that was quantised before.
    quantisation: str = "none"


def open_engine(
    kind: str,
    model: Path,
    /,
    *,
    device: str = "cpu",
    slots: int = 16,
    threads: int | None = None,
    dtype: str = "auto",
    quantisation: str = "none",
    prewarm: bool = True,
    phases: Phases | None = None,
    **options: Any,
) -> Engine:
    """An engine of a kind, ready to take requests.

    transformers is the continuous engine where the self-test finds that it is exact, else the static one. auto is the
    same, except on CUDA where the option `vllm` (options of that engine) leads choice.py to vLLM; its option `agrees`
    asks the golden prompts. remote and vllm take the options of their own modules; a remote engine needs no folder, and
    `model` may be Path().

    `threads` is what torch may use; by default half of the cores, as threads that wait for each other on busy
    cores are slower than one. `dtype` auto is float32 on a CPU and bfloat16 elsewhere; a quantised checkpoint keeps its
    own. `quantisation` is none, int8, int4 or fp8 (quantising.py). `prewarm` False leaves the weights to be read as
    they are met. `phases` is told where the time goes. `options` go to the engine's class.

    Raises ModelError for a folder that cannot be served, or not so, and ValueError for an unknown kind, dtype or
    quantisation.
    """
    if kind not in KINDS:
        raise ValueError(f"engine must be one of {', '.join(KINDS)}, not {kind}.")
    if kind == "fake":
        return open_fake(model=model.name, slots=slots, phases=phases, **options)
    if kind in ("remote", "vllm"):
        return _open_foreign(kind, model, slots, dtype, options)
    if kind == "auto":
        options = {**options, "quantisation": quantisation, "prewarm": prewarm, "phases": phases}
        return _open_auto(model, device, slots, threads, dtype, options)
    options.pop("vllm", None)
    phases = phases or Phases()
    loaded = load_model(
        model, device=device, dtype=dtype, quantisation=quantisation, threads=threads, prewarm=prewarm, phases=phases
    )
    if kind == "static":
        from workers.engine.static import StaticBatchEngine

        return StaticBatchEngine(loaded, slots=slots, **options)
    from workers.engine.continuous import open_continuous

    return open_continuous(loaded, slots=slots, phases=phases, **options)


def _open_foreign(kind: str, model: Path, slots: int, dtype: str, options: dict[str, Any]) -> Engine:
    options = {"model": model.name, **options}
    if kind == "remote":
        from workers.engine.remote import open_remote

        return open_remote(slots=slots, **options)
    from workers.engine.vllm import open_vllm

    return open_vllm(model, slots=slots, **{"dtype": dtype, **options})


def _open_auto(
    model: Path, device: str, slots: int, threads: int | None, dtype: str, options: dict[str, Any]
) -> Engine:
    from workers.engine.auto import open_auto

    agrees, vllm = options.pop("agrees", None), options.pop("vllm", {})
    if not isinstance(vllm, dict):
        raise ModelError("engine_options", "The option vllm must be an object with options of the engine vllm.")

    def open_ours() -> Engine:
        return open_engine("transformers", model, device=device, slots=slots, threads=threads, dtype=dtype, **options)

    vllm = {"model": model.name, "dtype": dtype, **vllm}
    return open_auto(model, device=device, slots=slots, vllm=vllm, open_ours=open_ours, agrees=agrees)


def load_model(
    path: Path,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    quantisation: str = "none",
    threads: int | None = None,
    prewarm: bool = True,
    phases: Phases | None = None,
) -> LoadedModel:
    """Check, load and place a model folder. Raises ModelError, and ValueError for an unknown dtype or quantisation.

    The weights are read into the page cache from the beginning, while libraries and configuration are loaded; then
    transformers takes them from there, tensor after tensor, into a model that was built without any.
    """
    check_kind(quantisation)
    phases = phases or Phases()
    folder = check_folder(path)
    warming = Warming(folder.weights if prewarm else ())
    try:
        return _load(folder, warming, phases, device, dtype, quantisation, threads)
    finally:
        warming.stop()


def _load(
    folder: ModelFolder,
    warming: Warming,
    phases: Phases,
    device: str,
    dtype: str,
    quantisation: str,
    threads: int | None,
) -> LoadedModel:
    with phases.timed("start"):
        import torch

        if device == "cpu":
            torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // 2))
        config = _load_config(folder)
        context_tokens = _find_context(config)
        from workers.engine.processing import Processing
        from workers.engine.weights import load_weights

        processing = Processing(folder.path, config, context_tokens=context_tokens)
        method = find_method(config)
        chosen = _pick_dtype(dtype, device, config if method else None)
    began = time.monotonic()
    model = load_weights(folder.path, config, chosen, device, quantisation).eval()
    warmed = warming.wait()
    phases.cut(began, warmed.ended_at)
    _log.info("weights loaded: %s", describe(folder.name, warmed).strip())
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
        quantisation=method or quantisation,
    )


def _pick_dtype(dtype: str, device: str, quantised: Any = None) -> Any:
    """`quantised` is the configuration of a quantised checkpoint: what it computes in was chosen when it was made."""
    import torch

    if dtype == "auto":
        if quantised is not None and isinstance(quantised.dtype, torch.dtype):
            return quantised.dtype
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
