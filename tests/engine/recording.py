"""Stand-ins for a GPU: a recorder with the rules of CUDA graphs, and the varlen kernel's sums in plain torch.

A tape keeps every operation that a step ran, with the tensors and the Python values of that moment, and repeats them
on the same memory, as a CUDA graph does. So whatever a step decides in Python is decided once, and reading a number
from the device is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from workers.engine.graphs import Recorded
from workers.engine.varlen import LiveRows, VarlenKernel

#: Operations that read the device, which a CUDA graph cannot hold.
READS = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2"}


class Tape(TorchDispatchMode):
    """Keeps operations while it is active; `replay` repeats them."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError(f"operation {func} not permitted when stream is capturing")
        made = func(*args, **kwargs)
        given = {part.untyped_storage().data_ptr() for part in find_tensors((args, kwargs))}
        # A view, or what was changed in place, is there already when the operation it belongs to has run again.
        fresh = [part for part in find_tensors(made) if part.untyped_storage().data_ptr() not in given]
        if fresh or func._schema.is_mutable:
            self.operations.append((func, args, kwargs, find_tensors(made) if fresh else []))
        return made

    def replay(self) -> None:
        """Run everything again, into the same tensors."""
        for func, args, kwargs, outputs in self.operations:
            again = find_tensors(func(*args, **kwargs))
            for old, new in zip(outputs, again, strict=len(outputs) > 0):
                if old is not new:
                    old.copy_(new)


def find_tensors(value: Any) -> list[Tensor]:
    """All tensors of nested arguments."""
    return [part for part in tree_flatten(value)[0] if isinstance(part, Tensor)]


class TapeRecorder:
    """Takes the place of the CUDA recorder. `tapes` are those made."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def __call__(self, step: Callable[[], Tensor]) -> Recorded:
        tape = Tape()
        with tape:
            output = step()
        # Recording runs nothing on a GPU: what a tape computed on the way must not be taken for a replay's outcome.
        output.fill_(math.nan)
        self.tapes.append(tape)
        return Recorded(tape.replay, output)


def plain_varlen(
    query: Tensor, keys: Tensor, values: Tensor, rows: LiveRows, most: int, scale: float | None, back: int
) -> Tensor:
    """The kernel's sums, row by row, without a mask. Tokens that do not count are not touched."""
    outputs = []
    for row, used in enumerate(rows.used):
        start = row * rows.length
        assert int(used) <= most
        counted = slice(start + (max(0, int(used) - 1 - back) if back >= 0 else 0), start + int(used))
        shared = query.shape[1] // keys.shape[1]
        key, value = (part[counted].repeat_interleave(shared, dim=1) for part in (keys, values))
        scores = torch.einsum("hd,thd->ht", query[row], key) * (scale or query.shape[-1] ** -0.5)
        outputs.append(torch.einsum("ht,thd->hd", scores.softmax(-1), value))
    return torch.stack(outputs)


def masked_varlen(
    query: Tensor, keys: Tensor, values: Tensor, rows: LiveRows, most: int, scale: float | None, back: int
) -> Tensor:
    """The same without a read of the device, so that it can be recorded."""
    count, heads, size = len(rows.used), keys.shape[1], keys.shape[2]
    key, value = (part.view(count, rows.length, heads, size)[:, :most].transpose(1, 2) for part in (keys, values))
    columns, newest = torch.arange(most, device=query.device), rows.used[:, None] - 1
    mask = columns <= newest
    if back >= 0:
        mask &= columns >= newest - back
    attended = torch.nn.functional.scaled_dot_product_attention(
        query[:, :, None], key, value, mask[:, None, None], scale=scale, enable_gqa=True
    )
    return attended[:, :, 0]


def new_kernel(run: Any = plain_varlen) -> VarlenKernel:
    """A kernel for the CPU, which also takes float32."""
    return VarlenKernel(run, dtypes=frozenset({torch.float32, torch.bfloat16}))
