"""Quantised weights: made while they are loaded, by torchao, or as a checkpoint brings them.

int8 keeps the weights of linear layers in one byte each and computes in the model's dtype; it runs on every device.
int4 and fp8 need kernels of an NVIDIA GPU. Embeddings and the output layer stay as they are. What a checkpoint was
quantised with is transformers' business: here its library and the device are asked for before anything is read.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from workers.engine.protocol import ModelError

_log = logging.getLogger(__name__)

KINDS = ("none", "int8", "int4", "fp8")
#: What each needs of a GPU, as its compute capability.
_CAPABILITY = {"int4": (8, 0), "fp8": (8, 9)}
#: Weights that share a scale in int4.
_GROUP = 128
#: Of a library's own words, at most so many characters go into a message.
_QUOTED = 200


def check_kind(quantisation: str) -> None:
    """Raises ValueError for what is no kind of quantisation."""
    if quantisation not in KINDS:
        raise ValueError(f"quantisation must be one of {', '.join(KINDS)}, not {quantisation}.")


def make_config(quantisation: str, config: Any, dtype: Any, device: str) -> Any:
    """What transformers is told to quantise with; None where nothing is to be done.

    Raises ModelError where the checkpoint is quantised already, the library is missing, or the device cannot, and
    ValueError for an unknown kind.
    """
    check_kind(quantisation)
    method = find_method(config)
    if method is not None:
        if quantisation != "none":
            raise ModelError(
                "already_quantised",
                f"The checkpoint is quantised already ({method}); leave quantisation out, or take the checkpoint in "
                "full precision.",
            )
        _check_checkpoint(config, method)
        return None
    if quantisation == "none":
        return None
    _check_device(quantisation, dtype, device)
    return _make_torchao(quantisation)


def find_method(config: Any) -> str | None:
    """What a checkpoint was quantised with, in transformers' words; None where it was not."""
    found = getattr(config, "quantization_config", None)
    found = found or getattr(config.get_text_config(), "quantization_config", None)
    if not found:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    return str(getattr(method, "value", method) or "unknown")


def list_versions(quantised: str) -> dict[str, str]:
    """The version of the library that quantised a model, where it was torchao."""
    if quantised == "none" or quantised not in (*KINDS, "torchao"):
        return {}
    try:
        return {"torchao": metadata.version("torchao")}
    except metadata.PackageNotFoundError:
        return {}


def _check_checkpoint(config: Any, method: str) -> None:
    """Ask transformers whether what the checkpoint needs is there. Raises ModelError."""
    from transformers.quantizers import AutoHfQuantizer

    own = getattr(config, "quantization_config", None) or config.get_text_config().quantization_config
    try:
        with _quiet():
            AutoHfQuantizer.from_config(own, pre_quantized=True).validate_environment(device_map=None)
    except ImportError as error:
        remedy = "install batchinfer with its extra `quantised`" if method == "torchao" else "install them"
        raise ModelError(
            "quantisation_not_installed",
            f"The checkpoint is quantised with {method}, whose packages are not installed; {remedy}, or take a "
            f"checkpoint that is not quantised. The library says: {_quote(error)}",
        ) from error
    except Exception as error:
        _log.warning("the checkpoint's quantisation cannot be used", exc_info=True)
        raise ModelError(
            "quantisation_unusable",
            f"The checkpoint is quantised with {method}, which cannot be used here; take another device or another "
            f"checkpoint. The library says: {_quote(error)}",
        ) from error


def _check_device(quantisation: str, dtype: Any, device: str) -> None:
    import torch

    needed = _CAPABILITY.get(quantisation)
    if needed is None:
        return
    if torch.device(device).type != "cuda":
        raise ModelError(
            "quantisation_not_on_device",
            f"{quantisation} needs an NVIDIA GPU, and the device is {device}; say int8, which runs everywhere, or "
            "leave quantisation out.",
        )
    found = torch.cuda.get_device_capability(device)
    if found < needed:
        raise ModelError(
            "quantisation_not_on_device",
            f"{quantisation} needs a GPU of compute capability {needed[0]}.{needed[1]}, and {device} has "
            f"{found[0]}.{found[1]}; say int8.",
        )
    if dtype is not torch.bfloat16:
        raise ModelError("quantisation_not_on_device", f"{quantisation} computes in bfloat16; say that dtype, or auto.")


def _make_torchao(quantisation: str) -> Any:
    try:
        with _quiet():
            from torchao import quantization as library
            from transformers import TorchAoConfig
    except ImportError as error:
        raise ModelError(
            "quantisation_not_installed",
            f"{quantisation} needs torchao, which is not installed; install batchinfer with its extra `quantised`, or "
            "leave quantisation out.",
        ) from error
    try:
        return TorchAoConfig(_pick(library, quantisation))
    except Exception as error:
        _log.warning("torchao cannot be used", exc_info=True)
        raise ModelError(
            "quantisation_unusable",
            f"This version of torchao does not offer {quantisation} as it is asked for; install the version that "
            f"batchinfer's extra `quantised` names. The library says: {_quote(error)}",
        ) from error


def _pick(library: Any, quantisation: str) -> Any:
    """Layers whose sizes do not suit a form are left by torchao as they are. Nothing is compiled here, so that its
    settings for compiling are left alone: to make them takes seconds."""
    if quantisation == "int8":
        return library.Int8WeightOnlyConfig(set_inductor_config=False)
    if quantisation == "int4":
        # This packing needs kernels of torch itself and no further library.
        return library.Int4WeightOnlyConfig(
            group_size=_GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        )
    return library.Float8DynamicActivationFloat8WeightConfig(granularity=library.PerRow(), set_inductor_config=False)


def _quote(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= _QUOTED else words[:_QUOTED] + "…"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that torchao logs about kernels for devices which are not here."""
    logger = logging.getLogger("torchao")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
