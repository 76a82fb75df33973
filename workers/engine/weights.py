"""Weights go shard by shard to where the model runs, without a whole copy in the host's memory.

transformers' own loader does that once it is told a device: it maps the files, reads one tensor after the other and
puts it where it belongs, renaming and merging on the device. But from 5.19 to 5.23 it insists on the package accelerate
as soon as a device is named, though for a single one it never calls it. So for the one call it is told that accelerate
is there. Where this does not work the weights are loaded on the host and moved, and the log says so.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workers.engine.protocol import ModelError
from workers.engine.quantising import make_config
from workers.engine.survival import is_out_of_memory

_log = logging.getLogger(__name__)

#: Where transformers asks whether accelerate is installed before it takes a device.
_ASKING_MODULE, _QUESTION = "transformers.integrations.accelerate", "is_accelerate_available"


def load_weights(path: Path, config: Any, dtype: Any, device: str, quantisation: str = "none") -> Any:
    """The model of a folder, on its device. Raises ModelError for weights that do not fit the configuration or memory,
    and for a quantisation that cannot be had.

    On the CPU, weights of the wanted dtype stay mapped from their files; others are converted, one copy in all. On
    another device the host holds some tensors at a time. What is to be quantised is, tensor after tensor.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    quantised = make_config(quantisation, config, dtype, device)
    more = {} if quantised is None else {"quantization_config": quantised}
    try:
        model, report = _read(path, config, dtype, device, **more)
    except Exception as error:
        _log.warning("the weights cannot be loaded", exc_info=True)
        if is_out_of_memory(error):
            raise ModelError(
                "weights_too_large",
                f"The weights do not fit into the memory of {device}; take a smaller model, a dtype of half the size, "
                "quantised weights, or a device with more memory that nothing else uses.",
            ) from error
        raise ModelError(
            "weights_unusable", "The weights do not fit config.json; copy the whole folder as it was published."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            "weights_incomplete",
            f"The weights lack {len(missing)} parts that the model needs, {missing[0]} among them; copy them again.",
        )
    return model


def _read(path: Path, config: Any, dtype: Any, device: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForImageTextToText

    def read(**placed: Any) -> tuple[Any, dict[str, Any]]:
        found: tuple[Any, dict[str, Any]] = AutoModelForImageTextToText.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **more,
            **placed,
        )
        return found

    if device == "cpu":
        return read()
    try:
        with _accelerate_not_asked_for():
            return read(device_map={"": _name_device(device)})
    except (AttributeError, ImportError, TypeError) as error:
        _log.warning("weights go through the host's memory: this transformers places none directly (%r)", error)
    model, report = read()
    return model.to(device), report


def _name_device(device: str) -> Any:
    """The device with its number, as transformers puts it where it is given one word."""
    import torch

    named = torch.device(device)
    number: int | None = named.index
    if named.type == "cuda" and number is None:
        return torch.device("cuda", torch.cuda.current_device())
    return named


@contextlib.contextmanager
def _accelerate_not_asked_for() -> Iterator[None]:
    """Lets a device be named without accelerate. Raises AttributeError or ImportError where nothing asks for it."""
    module = importlib.import_module(_ASKING_MODULE)
    original = getattr(module, _QUESTION)
    setattr(module, _QUESTION, lambda *_, **__: True)
    try:
        yield
    finally:
        setattr(module, _QUESTION, original)
