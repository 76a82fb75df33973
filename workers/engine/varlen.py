"""Attention of decode that reads only live keys and values: PyTorch's own FlashAttention-2 kernel, straight from slots.

A mask makes scaled-dot-product attention read every column up to the longest row's; this kernel is told each row's
length instead. Only the operator `aten::_flash_attention_forward` with its argument `seqused_k` is used: keys of row
`b` begin at `cum_seq_k[b]` and `seqused_k[b]` of them count (pytorch, flash_attn/block_info.h). Slots must lie in
memory as `[slots, length, heads, head_dim]` for it. What the kernel cannot do goes through `sdpa` with the mask, layer
by layer.

No GPU has run this yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: The name under which transformers knows the function.
NAME = "batchinfer_varlen"
_BASE = "sdpa"
#: The kernel's own bounds on the size of a head (pytorch, flash_attn/flash_api.cpp).
_LARGEST_HEAD, _HEAD_STEP = 256, 8
#: FlashAttention-2 needs compute capability 8.0, Ampere.
_CAPABILITY = (8, 0)
#: What a model may ask of attention that the kernel does not do.
_UNKNOWN_TO_KERNEL = ("softcap", "s_aux", "position_bias")

#: `run(query [n, heads, dim], keys [tokens, kv heads, dim], values, rows, most, scale, back)` gives `[n, heads, dim]`;
#: `most` is an upper bound on a row's tokens, `back` how many tokens before the newest count, -1 for all.
Run = Callable[[Tensor, Tensor, Tensor, "LiveRows", int, "float | None", int], Tensor]


class UnavailableError(Exception):
    """An optimisation cannot be switched on here, and why: a sentence for people."""


@dataclass(frozen=True)
class LiveRows:
    """How much of each row counts in one step: `used` tokens with the new one, int32 `[n]`; `edges` are 0 to n."""

    used: Tensor
    edges: Tensor
    #: Tokens of one slot.
    length: int


@dataclass
class VarlenKernel:
    """The kernel, and which heads and numbers it takes. `calls` and `passed_on` count layers' calls."""

    run: Run
    dtypes: frozenset[torch.dtype] = frozenset({torch.float16, torch.bfloat16})
    calls: int = 0
    passed_on: int = 0

    def takes(self, query: Tensor, keys: Tensor, slot_length: int, options: dict[str, Any]) -> bool:
        """Whether the kernel does what a layer asks for."""
        size = query.shape[-1]
        heads, step = keys.shape[1], keys.shape[1] * keys.shape[3]
        return (
            query.dtype in self.dtypes
            and keys.shape[3] == size
            and query.shape[2] == 1
            and size <= _LARGEST_HEAD
            and size % _HEAD_STEP == 0
            and not any(options.get(name) is not None for name in _UNKNOWN_TO_KERNEL)
            # Rows of a slot buffer, tokens before heads.
            and keys.stride() == (slot_length * step, size if heads > 1 else keys.stride(1), step, 1)
        )


@dataclass(frozen=True)
class _Step:
    kernel: VarlenKernel
    rows: LiveRows
    #: Whether some layers of the model look back a limited distance: then each must say how far.
    slides: bool


_step: ContextVar[_Step | None] = ContextVar("varlen_step", default=None)


def find_kernel(device: torch.device, dtype: torch.dtype) -> VarlenKernel:
    """The kernel for a model. Raises UnavailableError with the reason where there is none."""
    if device.type != "cuda":
        raise UnavailableError(f"It needs a CUDA device; the model is on {device}.")
    if dtype not in VarlenKernel.dtypes:
        raise UnavailableError(f"The kernel computes in half precision only; the model is in {dtype}.")
    if torch.cuda.get_device_capability(device) < _CAPABILITY:
        raise UnavailableError("The kernel needs an Ampere GPU or a newer one.")
    schema = getattr(getattr(torch.ops.aten, "_flash_attention_forward", None), "default", None)
    if schema is None or "seqused_k" not in {argument.name for argument in schema._schema.arguments}:
        raise UnavailableError(f"torch {torch.__version__} has no kernel that is told each row's length.")
    return VarlenKernel(run_flash)


def run_flash(
    query: Tensor, keys: Tensor, values: Tensor, rows: LiveRows, most: int, scale: float | None, back: int
) -> Tensor:
    """PyTorch's FlashAttention-2. One query a row, so that nothing is causal and grouped heads share their keys."""
    output: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        keys,
        values,
        rows.edges,
        rows.edges * rows.length,
        1,
        most,
        0.0,
        False,
        False,
        scale=scale,
        window_size_left=back,
        window_size_right=-1 if back < 0 else 0,
        seqused_k=rows.used,
    )[0]
    return output


def check_model(model: Any) -> None:
    """Raises UnavailableError where a model's attention cannot be exchanged."""
    try:
        from transformers import AttentionInterface, AttentionMaskInterface  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"This version of transformers lets nobody add attention ({error.name}).") from error
    used = getattr(model.config.get_text_config(), "_attn_implementation", None)
    if used != _BASE:
        raise UnavailableError(f"The model's own attention is {used}, not {_BASE}.")


@contextlib.contextmanager
def live_attention(model: Any, kernel: VarlenKernel, rows: LiveRows, *, slides: bool) -> Iterator[None]:
    """Within, the text model's layers read live keys only. Prefill and pictures keep the attention they had."""
    _register()
    config = model.config.get_text_config()
    before, mark = config._attn_implementation, _step.set(_Step(kernel, rows, slides))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _step.reset(mark)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for a layer: query `[n, heads, 1, dim]`, keys and values views of the slots' buffers."""
    step = _step.get()
    back = _find_back(step, options) if step is not None else None
    if step is None or back is None or not step.kernel.takes(query, key, step.rows.length, options):
        if step is not None:
            step.kernel.passed_on += 1
        return pass_on(module, query, key, value, attention_mask, scaling=scaling, **options)
    step.kernel.calls += 1
    rows = key.shape[0]
    keys, values = (_flatten(part, rows * step.rows.length) for part in (key, value))
    output = step.kernel.run(query[:, :, 0], keys, values, step.rows, key.shape[2], scaling, back)
    return output[:, None], None


def _find_back(step: _Step, options: dict[str, Any]) -> int | None:
    """How far a layer looks back, -1 for all; None where it does not say and its mask may."""
    if not step.slides:
        return -1
    if "sliding_window" not in options:
        return None
    width = options["sliding_window"]
    return -1 if width is None else int(width) - 1


def _flatten(part: Tensor, tokens: int) -> Tensor:
    """All tokens of the slots that `[n, heads, window, dim]` begins in, `[tokens, heads, dim]`, without a copy.

    The window is a prefix of each slot, so the tokens behind it are the rest of the same slot.
    """
    _, heads, _, size = part.shape
    return part.as_strided((tokens, heads, size), (part.stride(2), part.stride(1), part.stride(3)))


def pass_on(*arguments: Any, **options: Any) -> tuple[Tensor, None]:
    """What the model's own attention makes of it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    found: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS[_BASE](*arguments, **options)
    return found


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[_BASE])
