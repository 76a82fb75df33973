"""A few requests through the pieces of the continuous engine, without its thread, compared with plain `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.engine.chunks import PartialPrompt
from workers.engine.decode import build_decoder
from workers.engine.features import Features
from workers.engine.loader import LoadedModel
from workers.engine.pixel_bytes import join_vision
from workers.engine.prefill import Prefilled, Prefiller
from workers.engine.prefix import Prefix, PrefixStore
from workers.engine.prepared import Prepared
from workers.engine.quick_modules import QuickModules
from workers.engine.scheduler import LengthClass
from workers.engine.slots import SlotPool
from workers.engine.vision import VisionEncoder

_CACHE_BYTES = 2**30
#: Fewer than the specimens, so that rows join and leave while others are under way.
_SLOTS = 3
#: Pieces that a prompt is cut into, and what each has at least, in tokens.
_PIECES, _SMALLEST_PIECE = 3, 16
#: How far scores may lie from the reference's, as a share of their range: what another order of the same sums makes of
#: them. A wrong mask or position moves them by more, even where the best token happens to stay the same.
FLOAT32_SHARE = 0.0005
HALF_SHARE = 0.02


@dataclass(frozen=True)
class Answer:
    """A request's tokens and the scores `[tokens, vocabulary]` that they were chosen by."""

    tokens: list[int]
    scores: Tensor


#: Tokens and scores by request.
Made = dict[str, tuple[list[int], list[Tensor]]]


@torch.inference_mode()
def run_reference(loaded: LoadedModel, item: Prepared) -> Answer:
    """Plain `generate`, greedy, without an end token. Raises whatever it raises."""
    model = loaded.model
    inputs = {name: value.to(model.device) for name, value in item.sequence.items()}
    inputs |= join_vision([item], model.device, model.dtype) if item.vision else {}
    output = model.generate(
        **inputs,
        max_new_tokens=item.request.max_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=loaded.pad_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    count = item.request.max_tokens
    return Answer(output.sequences[0, -count:].tolist(), torch.cat(output.logits).float())


def agrees(reference: Answer, found: Answer, *, exact: bool) -> bool:
    """Whether an answer is the reference's: the same tokens by nearly the same scores.

    Unless `exact`, in half precision, tokens may differ from a place on where the scores of the two are nearly equal.
    """
    share = FLOAT32_SHARE if exact else HALF_SHARE
    for place, (wanted, token) in enumerate(zip(reference.tokens, found.tokens, strict=True)):
        scores = reference.scores[place]
        bound = share * (scores.max() - scores.min())
        if not bool((scores - found.scores[place]).abs().max() <= bound):
            return False
        if wanted != token:
            # From here on the two texts are different ones.
            return not exact and bool(scores[wanted] - scores[token] <= bound)
    return True


class Trial:
    """Runs requests with given features; caches live from one run to the next.

    `vision` is one with pictures that it encoded before, where these need not be encoded again.
    """

    def __init__(self, loaded: LoadedModel, features: Features, vision: VisionEncoder | None = None) -> None:
        model = loaded.model
        self.features, self._device = features, model.device
        self.vision = vision or VisionEncoder(model, cache_bytes=_CACHE_BYTES, batched=features.batched_encoder)
        self.prefixes = PrefixStore(_CACHE_BYTES if features.prefix_reuse else 0)
        self.prefiller = Prefiller(model, self.vision, pad_id=loaded.pad_id, use_encoder=features.encoder_cache)
        self.decoder = build_decoder(model, features)
        self._quick = QuickModules(model, features)
        #: The most prompts that shared a prefill.
        self.widest = 0
        #: The most pieces that a prompt went in.
        self.pieces = 0
        #: Whether a picture followed a reused prefix.
        self.met_picture = False
        #: Bytes of keys and values per token.
        self.token_bytes = 0

    def run(self, items: Sequence[Prepared]) -> list[Answer]:
        """The greedy answer of each request."""
        with self._quick.applied():
            return self._run(items)

    def _run(self, items: Sequence[Prepared]) -> list[Answer]:
        length = max(item.total_tokens for item in items)
        pool = self.decoder.new_pool(LengthClass(_SLOTS, length), device=self._device)
        made: Made = {item.id: ([], []) for item in items}
        waiting = list(items)
        while waiting or pool.owners:
            if group := self._next_group(waiting, pool.free):
                self._prefill(group, pool, made)
            if pool.owners:
                self._decode(pool, made)
        self.token_bytes = pool.cache.nbytes() // (pool.cache.slots * pool.cache.capacity)
        return [Answer(tokens, torch.stack(scores).float()) for tokens, scores in (made[item.id] for item in items)]

    def _next_group(self, waiting: list[Prepared], free: int) -> list[Prepared]:
        """The first that waits, and those like it."""
        most = min(free, len(waiting)) if self.features.grouped_prefill else min(free, len(waiting), 1)
        lead = self._key(waiting[0]) if waiting else ()
        group = [item for item in waiting if self._key(item) == lead][:most]
        for item in group:
            waiting.remove(item)
        self.widest = max(self.widest, len(group))
        return group

    def _key(self, item: Prepared) -> tuple[object, ...]:
        prefix = self._find(item)
        return item.group_key(prefix.key if prefix else None, slides=self.decoder.slides)

    def _find(self, item: Prepared) -> Prefix | None:
        return self.prefixes.find(self._keys(item)) if self.features.prefix_reuse else None

    def _keys(self, item: Prepared) -> list[bytes]:
        return item.prefix_keys(before_pictures=self.features.prefix_before_pictures)

    def _prefill(self, group: list[Prepared], pool: SlotPool, made: Made) -> None:
        prefix = self._find(group[0])
        filled = self._fill(group, prefix)
        self.prefixes.count(prefix, len(group))
        rest = group[0].prompt_ids[filled.prefix_tokens :]
        self.met_picture |= prefix is not None and any(token in group[0].image_token_ids for token in rest)
        for row, item in enumerate(group):
            if self.features.prefix_reuse:
                self.prefixes.learn(self._keys(item), filled.cache, row, filled.starts[row], filled.prefix_tokens)
            token = int(filled.logits[row].argmax())
            tokens, scores = made[item.id]
            tokens.append(token)
            scores.append(filled.logits[row])
            if len(tokens) < item.request.max_tokens:
                last = filled.last_positions[row]
                slot = pool.add(item, token=token, last_position=last, length=item.prompt_tokens)
                filled.copy_row(pool.cache, slot, row, item.prompt_tokens)

    def _fill(self, group: list[Prepared], prefix: Prefix | None) -> Prefilled:
        """In one forward; in pieces, where that is on, what stands alone."""
        item = group[0]
        if not self.features.chunked_prefill or len(group) > 1 or not self.prefiller.can_cut(item):
            return self.prefiller.run(group, prefix)
        partial, filled = PartialPrompt.begin(item, prefix), None
        while filled is None:
            filled = self.prefiller.run_piece(partial, max(_SMALLEST_PIECE, item.prompt_tokens // _PIECES))
        self.pieces = max(self.pieces, partial.pieces)
        return filled

    def _decode(self, pool: SlotPool, made: Made) -> None:
        logits = self.decoder.step(pool)
        picked: list[int] = logits.argmax(dim=-1).tolist()
        pool.close_step(picked)
        for slot in range(len(pool.owners) - 1, -1, -1):
            item: Any = pool.owners[slot]
            tokens, scores = made[item.id]
            tokens.append(picked[slot])
            scores.append(logits[slot])
            if len(tokens) >= item.request.max_tokens:
                pool.remove(slot)
