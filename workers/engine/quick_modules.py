"""Modules of a model that do the same sums in less time on a CPU: in place while an engine is open.

Two kinds of module are known. A convolution whose kernel is as large as its stride, given single patches, is a matrix
product, and a faster one. A large linear layer in float32 is faster with its weights laid out beforehand as oneDNN
wants them; that copy is made once a model and costs as much memory again. Sums are added in another order, so the
self-test decides.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workers.engine.features import Features
from workers.engine.varlen import UnavailableError

#: Weights smaller than this, in values, gain nothing by being laid out.
LARGE = 2**20
#: Of the memory that is free, the share that copies of weights may take.
_MEMORY_SHARE = 0.25

Forward = Callable[[Tensor], Tensor]
#: Laid-out weights by module, for as long as it lives.
_laid_out: weakref.WeakKeyDictionary[nn.Module, Tensor] = weakref.WeakKeyDictionary()
#: Engines that have a module's forward exchanged: it gets its own back from the last of them.
_users: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
#: What copies of weights may take in this process, in bytes; None: a share of what is free.
_limit_bytes: int | None = None


class QuickModules:
    """The exchanges that features ask for on one model; `apply` puts them in place, `undo` takes them back."""

    def __init__(self, model: Any, features: Features) -> None:
        self._found: list[tuple[nn.Module, Forward]] = []
        if features.patch_matmul:
            self._found += [(module, _as_product(module)) for module in find_patch_embeddings(model)]
        if features.packed_weights:
            self._found += [(module, _with_weights(module)) for module in find_large_linears(model)]
        self._applied = False

    def apply(self) -> None:
        """Exchange the forwards."""
        with _lock:
            for module, forward in self._found:
                _users[module] = _users.get(module, 0) + 1
                module.forward = forward
            self._applied = True

    def undo(self) -> None:
        """Give the modules their own forwards back, unless another engine has them exchanged. Safe twice."""
        with _lock:
            for module, _ in self._found if self._applied else ():
                _users[module] -= 1
                if not _users[module]:
                    vars(module).pop("forward", None)
            self._applied = False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The exchanges within a block."""
        self.apply()
        try:
            yield
        finally:
            self.undo()


def limit_copies(limit_bytes: int | None) -> None:
    """Bound what copies of weights may take in this process, before the first is made; None: a share of what is free.

    A process holds one model, whose budget this is part of.
    """
    global _limit_bytes  # noqa: PLW0603 - as the copies themselves
    _limit_bytes = limit_bytes


def check_available(model: Any, features: Features) -> None:
    """Raises UnavailableError where a model has nothing that the features could exchange."""
    if features.patch_matmul and not find_patch_embeddings(model):
        raise UnavailableError("The model has no such convolution, or is not on a CPU.")
    if features.packed_weights and not find_large_linears(model):
        raise UnavailableError(
            "No layer is large enough to gain, memory does not hold a copy of the weights, or the model is not in "
            "float32 on a CPU."
        )


def find_patch_embeddings(model: Any) -> list[nn.Module]:
    """Convolutions that cut what they are given into patches which do not overlap."""
    if model.device.type != "cpu":
        return []
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d)
        and tuple(module.kernel_size) == tuple(module.stride)
        and not any(module.padding if isinstance(module.padding, tuple) else (1,))
        and set(module.dilation) == {1}
        and module.groups == 1
    ]


def find_large_linears(model: Any) -> list[nn.Module]:
    """Linear layers that gain, if memory holds a copy of all their weights."""
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return []
    found: list[nn.Module] = [
        module
        for module in model.modules()
        if type(module) is nn.Linear and module.weight.dtype is torch.float32 and module.weight.numel() >= LARGE
    ]
    wanted = sum(module.weight.nbytes for module in found if module not in _laid_out)
    limit = _MEMORY_SHARE * _count_free_bytes() if _limit_bytes is None else _limit_bytes
    return found if wanted <= limit else []


def _as_product(module: nn.Module) -> Forward:
    own: Forward = type(module).forward.__get__(module)
    conv: Any = module
    kernel = tuple(conv.kernel_size)

    def forward(pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[2:]) != kernel:
            return own(pixels)
        product = nn.functional.linear(pixels.flatten(1), conv.weight.flatten(1), conv.bias)
        return product.view(*product.shape, *[1] * len(kernel))

    return forward


def _with_weights(module: nn.Module) -> Forward:
    linear: Any = module
    if module not in _laid_out:
        with torch.no_grad():
            _laid_out[module] = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
    weights, bias = _laid_out[module], linear.bias

    def forward(values: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(values, weights, bias, "none", [], "")
        return made

    return forward


def _count_free_bytes() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
