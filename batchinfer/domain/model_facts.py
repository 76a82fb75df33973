"""What the small files of a model say of it: its kind, context, image limits, chat template and licence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from batchinfer.domain.model_files import ModelFile, find_licence

_CONTEXTS = ("max_position_embeddings", "max_sequence_length", "n_positions", "seq_length")
_IMAGE_FIELDS = ("min_pixels", "max_pixels", "size", "patch_size", "merge_size", "temporal_patch_size", "crop_size")


def read_facts(
    files: Sequence[ModelFile],
    configs: Mapping[str, Mapping[str, Any]],
    texts: Mapping[str, str],
    licence: str | None = None,
) -> dict[str, Any]:
    """What is known of a model before it is loaded, as JSON: `files` are those that are fetched, `configs` the JSON
    objects and `texts` the other small files by name. What nothing says is None."""
    config = configs.get("config.json", {})
    inner = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else {}
    assert isinstance(inner, Mapping)  # noqa: S101 - for the type alone
    quantised = config.get("quantization_config")
    return {
        "architecture": _first(config.get("architectures")),
        "model_type": config.get("model_type"),
        "weights_bytes": sum(file.size_bytes for file in files if file.holds_weights),
        "dtype": config.get("dtype") or config.get("torch_dtype") or inner.get("torch_dtype"),
        "quantisation": quantised.get("quant_method") if isinstance(quantised, Mapping) else None,
        "context_tokens": _find_context(config, inner),
        "image": _find_image_limits(configs),
        "chat_template": _find_template(configs, texts),
        "licence": licence or find_licence(texts.get("README.md", "")),
    }


def _first(values: object) -> str | None:
    return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else None


def _find_context(config: Mapping[str, Any], inner: Mapping[str, Any]) -> int | None:
    """Most tokens of prompt and answer together."""
    for place in (inner, config):
        for name in _CONTEXTS:
            if isinstance(place.get(name), int):
                return int(place[name])
    return None


def _find_image_limits(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the processor does with a picture, in its own words; None of a model without one."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        found = configs.get(name, {})
        inner = found.get("image_processor")
        limits = inner if isinstance(inner, Mapping) else found
        shown = {field: limits[field] for field in _IMAGE_FIELDS if limits.get(field) is not None}
        if shown:
            return shown
    return None


def _find_template(configs: Mapping[str, Mapping[str, Any]], texts: Mapping[str, str]) -> dict[str, Any] | None:
    """Where the chat template is, and its SHA-256: two revisions with the same one ask alike."""
    if text := texts.get("chat_template.jinja"):
        return {"file": "chat_template.jinja", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = configs.get(name, {}).get("chat_template")
        if isinstance(template, str):
            return {"file": name, "sha256": hashlib.sha256(template.encode()).hexdigest()}
        if template:
            return {"file": name, "sha256": None}
    return None
