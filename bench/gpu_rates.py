"""What the device can do at most, measured in the same run, and what a step must read or compute at least."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

_REPEATS = 7
_LARGEST_COPY = 2**30
#: Side of the square matrices, by kind of device.
_SIDES = {"cuda": 8192, "cpu": 384}


def measure(run: Callable[[], Any], device: torch.device, repeats: int = _REPEATS) -> float:
    """Seconds of one run, the median of several after one that is not measured."""
    run()
    seconds = []
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def wait(device: torch.device) -> None:
    """Until everything launched has been done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_copy(device: torch.device) -> float:
    """Bytes a second through memory while a tensor is copied: those read and those written."""
    size = _LARGEST_COPY if device.type == "cuda" else 2**24
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device)


def measure_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large square product."""
    side = _SIDES.get(device.type, 384)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / measure(lambda: left @ right, device)


class Needs:
    """What one model needs at least. Counts come from its own parameters."""

    def __init__(self, model: Any) -> None:
        self._text, vision = model.config.get_text_config(), model.config.vision_config
        self._vision_config = vision
        head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        sizes = {name: (parameter.numel(), parameter.nbytes) for name, parameter in model.named_parameters()}
        seen = {name for name in sizes if ".visual." in f".{name}"}
        experts = {name for name in sizes if ".experts." in name}
        tables = {name for name, parameter in model.named_parameters() if parameter is table or parameter is head}
        self.vision_parameters = sum(sizes[name][0] for name in seen)
        self._expert_count = getattr(self._text, "num_experts", 0) or 0
        self._chosen = getattr(self._text, "num_experts_per_tok", 0) or 0
        self._expert_parameters = sum(sizes[name][0] for name in experts)
        self._expert_bytes = sum(sizes[name][1] for name in experts)
        layers = set(sizes) - seen - experts - tables
        self._layer_parameters = sum(sizes[name][0] for name in layers)
        # The table of input embeddings is read in single rows, the output's as a whole; they may be the same.
        self._dense_bytes = sum(sizes[name][1] for name in layers) + head.nbytes
        self.token_bytes = (
            2
            * self._text.num_hidden_layers
            * self._text.num_key_value_heads
            * self._text.head_dim
            * head.element_size()
        )

    def active_experts(self, rows: int) -> float:
        """The share of experts that `rows` tokens meet where each meets others at random; 0 without experts."""
        if not self._expert_count:
            return 0.0
        return 1 - (1 - self._chosen / self._expert_count) ** rows

    def decode_bytes(self, rows: int, context: float) -> dict[str, float]:
        """Bytes that one step reads at least: weights once, and the keys and values of every row."""
        weights = self._dense_bytes + self._expert_bytes * self.active_experts(rows)
        return {"weights": weights, "keys_and_values": rows * context * self.token_bytes}

    def prefill_flops(self, rows: int, length: int) -> float:
        """Operations of a prefill without its pictures: two a parameter and token, and causal attention."""
        chosen = self._expert_parameters * self._chosen / self._expert_count if self._expert_count else 0
        text = self._text
        products = 2 * (self._layer_parameters + chosen) * rows * length
        # Queries by keys and weights by values, each 2 * dim, over half of the square.
        attention = 2 * text.num_hidden_layers * text.num_attention_heads * text.head_dim * rows * length**2
        return products + attention

    def vision_flops(self, pictures: int, patches: int) -> float:
        """Operations of encoding pictures of so many patches; mergers run on fewer tokens and count as if on all."""
        vision = self._vision_config
        products = 2 * self.vision_parameters * patches * pictures
        return products + 4 * vision.depth * vision.hidden_size * patches**2 * pictures
