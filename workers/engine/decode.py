"""One decode step: every active row of a pool gets one more token, in one forward of the model's own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.engine import matmul_attention, varlen
from workers.engine.features import Features
from workers.engine.graphs import StepGraphs, find_recorder, round_rows, round_window
from workers.engine.scheduler import LengthClass
from workers.engine.slots import SlotPool
from workers.engine.varlen import UnavailableError, VarlenKernel

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


class Decoder:
    """Runs decode steps, with a `kernel` that reads live tokens only and with recorded steps (`graphs`) where given.

    `products` says that attention goes by matrix products, without a kernel.

    Raises ValueError where a layer keeps its state in another way than keys and values.
    """

    def __init__(
        self,
        model: Any,
        *,
        kernel: VarlenKernel | None = None,
        graphs: StepGraphs | None = None,
        products: bool = False,
    ) -> None:
        self._model = model
        text = model.config.get_text_config()
        listed = getattr(text, "layer_types", None)
        kinds = set(listed or ["full_attention"])
        if not kinds <= _KNOWN_LAYERS:
            raise ValueError(", ".join(sorted(kinds - _KNOWN_LAYERS)))
        self._by_layer = bool(listed) and "sliding_attention" in kinds
        # A model that lists no layers but has a window looks back that far in all of them.
        self._sliding = int(getattr(text, "sliding_window", 0) or 0) if self._by_layer or not listed else 0
        self.kernel, self.graphs, self._products = kernel, graphs, products
        self.forwards = 0

    @property
    def slides(self) -> bool:
        """Whether some layer looks back a limited distance, counted in columns of the cache."""
        return self._sliding > 0

    def new_pool(self, spec: LengthClass, *, device: torch.device) -> SlotPool:
        """A pool of the layout that this decoder's steps want."""
        # A CPU reads the window's every key, wanted or not; elsewhere few widths matter more, to allocators and graphs.
        bucket = 16 if device.type == "cpu" else 64
        fixed = self.kernel is not None or self.graphs is not None
        return SlotPool(
            spec,
            device=device,
            bucket=bucket,
            tokens_first=self.kernel is not None,
            spare=self.graphs is not None,
            grows=device.type == "cpu" and not fixed,
        )

    @torch.inference_mode()
    def step(self, pool: SlotPool, first: int = 0, count: int | None = None) -> Tensor:
        """Logits `[n, vocabulary]` of the next token of `count` rows of the pool from `first` on, or of all."""
        logits = None
        if self.graphs is not None and first == 0 and count in (None, len(pool.owners)):
            logits = self._replay(pool, self.graphs)
        if logits is None:
            logits = self._forward(pool, *pool.open_step(first, count))
        self.forwards += 1
        return logits

    def _replay(self, pool: SlotPool, graphs: StepGraphs) -> Tensor | None:
        """The step of all rows, recorded before or now; None where it cannot be."""
        rows = round_rows(len(pool.owners), pool.spec.slots)
        # The kernel reads what is live, however wide the window: one recording a number of rows is enough.
        window = pool.spec.length if self.kernel else round_window(pool.find_longest(), pool.spec.length)
        pool.count_rows()

        def step() -> Tensor:
            return self._forward(pool, *pool.open_padded_step(rows, window))

        logits = graphs.run((pool, rows, window), step)
        # The next replay writes over the graph's own output.
        return None if logits is None else logits[: len(pool.owners)].clone()

    def _forward(self, pool: SlotPool, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        if self._products:
            with matmul_attention.matmul_attention(self._model):
                return self._call(pool, tokens, positions, mask)
        if self.kernel is None:
            return self._call(pool, tokens, positions, mask)
        with varlen.live_attention(self._model, self.kernel, pool.find_live_rows(), slides=self.slides):
            return self._call(pool, tokens, positions, mask)

    def _call(self, pool: SlotPool, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        masks: Tensor | dict[str, Tensor] = mask
        if self._by_layer:
            masks = {"full_attention": mask, "sliding_attention": pool.sliding(mask, self._sliding)}
        elif self._sliding:
            masks = pool.sliding(mask, self._sliding)
        if self._products:
            additive = matmul_attention.make_additive
            masks = {kind: additive(one) for kind, one in masks.items()} if isinstance(masks, dict) else additive(masks)
        output = self._model(
            input_ids=tokens,
            attention_mask=masks,
            position_ids=positions,
            past_key_values=pool.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def build_decoder(model: Any, features: Features) -> Decoder:
    """The decoder that has the features wanted.

    Raises UnavailableError where this machine, model or version lacks one of them, ValueError as `Decoder` does.
    """
    kernel = graphs = None
    if features.varlen_kernel:
        varlen.check_model(model)
        kernel = varlen.find_kernel(model.device, model.dtype)
    if features.cuda_graphs:
        graphs = StepGraphs(find_recorder(model.device))
    products = features.matmul_attention and kernel is None and graphs is None and _takes_products(model)
    return Decoder(model, kernel=kernel, graphs=graphs, products=products)


def _takes_products(model: Any) -> bool:
    try:
        matmul_attention.check_model(model)
    except UnavailableError:
        return False
    return True
