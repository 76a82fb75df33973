"""One decode step: every active row of a pool gets one more token, in one forward of the model's own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.engine.slots import SlotPool

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


class Decoder:
    """Runs decode steps. Raises ValueError where a layer keeps its state in another way than keys and values."""

    def __init__(self, model: Any) -> None:
        self._model = model
        text = model.config.get_text_config()
        listed = getattr(text, "layer_types", None)
        kinds = set(listed or ["full_attention"])
        if not kinds <= _KNOWN_LAYERS:
            raise ValueError(", ".join(sorted(kinds - _KNOWN_LAYERS)))
        self._by_layer = bool(listed) and "sliding_attention" in kinds
        # A model that lists no layers but has a window looks back that far in all of them.
        self._sliding = int(getattr(text, "sliding_window", 0) or 0) if self._by_layer or not listed else 0
        self.forwards = 0

    @property
    def slides(self) -> bool:
        """Whether some layer looks back a limited distance, counted in columns of the cache."""
        return self._sliding > 0

    @torch.inference_mode()
    def step(self, pool: SlotPool, first: int = 0, count: int | None = None) -> Tensor:
        """Logits `[n, vocabulary]` of the next token of `count` rows of the pool from `first` on, or of all."""
        tokens, positions, mask = pool.open_step(first, count)
        masks: Tensor | dict[str, Tensor] = mask
        if self._by_layer:
            masks = {"full_attention": mask, "sliding_attention": pool.sliding(mask, self._sliding)}
        elif self._sliding:
            masks = pool.sliding(mask, self._sliding)
        output = self._model(
            input_ids=tokens,
            attention_mask=masks,
            position_ids=positions,
            past_key_values=pool.cache,
            use_cache=True,
        )
        self.forwards += 1
        logits: Tensor = output.logits[:, -1]
        return logits
