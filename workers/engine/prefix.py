"""Prefix reuse: the keys and values of a shared beginning are copied, not computed again.

A prefix is keyed by a hash chain over blocks of tokens in which a picture's placeholders are replaced by its content
hash and grid, so that two pictures never pass for one another. Prefixes end at a block, never inside a picture. Models
whose prompt attends both ways (prefix-LM) differ; the self-test finds them, and reuse stays off there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from workers.engine.prepared import BLOCK_TOKENS

#: Block keys that are remembered as seen once, and as waited for.
_SEEN = 65_536


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the first `tokens` tokens, per layer `[1, heads, tokens, head_dim]`."""

    key: bytes
    tokens: int
    layers: tuple[tuple[Tensor, Tensor], ...]

    def expand(self, rows: int) -> DynamicCache:
        """A cache for `rows` prompts that all begin so."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
        return cache

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


class PrefixStore:
    """Prefixes by key, bounded in bytes, least recently used out first.

    Kept where a key is seen a second time, or where others wait for it (`await_key`).
    """

    def __init__(self, limit_bytes: int) -> None:
        self._kept: OrderedDict[bytes, Prefix] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._awaited: OrderedDict[bytes, None] = OrderedDict()
        self._limit, self._held = limit_bytes, 0
        self.hits = self.tokens_saved = 0

    def find(self, keys: list[bytes]) -> Prefix | None:
        """The longest kept prefix of a prompt, whose block keys these are."""
        for key in reversed(keys):
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        return None

    def count(self, prefix: Prefix | None, rows: int) -> None:
        """Note that so many rows began with a kept prefix."""
        if prefix is not None:
            self.hits += rows
            self.tokens_saved += prefix.tokens * rows

    def try_await(self, key: bytes) -> bool:
        """Ask that the next prefill which begins so is kept. False where that was asked before: it came to nothing."""
        if key in self._awaited:
            return False
        self._awaited[key] = self._seen[key] = None
        _bound(self._awaited)
        return True

    def learn(self, keys: list[bytes], cache: DynamicCache, row: int, start: int, front: int = 0) -> None:
        """Look at a fresh prefill and keep a row's longest beginning that came before.

        The row has its first `front` tokens, which were reused, at the beginning and the rest from column `start` on.
        """
        worth = 0
        for index, key in enumerate(keys):
            if key and key in self._seen:
                self._seen.move_to_end(key)
                worth = index + 1
            elif key:
                self._seen[key] = None
        _bound(self._seen)
        tokens = worth * BLOCK_TOKENS
        if tokens > front and keys[worth - 1] not in self._kept:
            parts = (slice(0, front), slice(start, start + tokens - front))
            self._keep(cut(cache, row, parts, keys[worth - 1]))

    def forget(self) -> bool:
        """Drop everything that is kept, to free memory. True where there was something."""
        held, self._held = self._held, 0
        self._kept.clear()
        self._awaited.clear()
        return held > 0

    def _keep(self, prefix: Prefix) -> None:
        if prefix.nbytes > self._limit:
            return
        self._kept[prefix.key] = prefix
        self._held += prefix.nbytes
        while self._held > self._limit:
            key, dropped = self._kept.popitem(last=False)
            self._awaited.pop(key, None)
            self._held -= dropped.nbytes


def _bound(keys: OrderedDict[bytes, None]) -> None:
    while len(keys) > _SEEN:
        keys.popitem(last=False)


def cut(cache: DynamicCache, row: int, parts: Sequence[slice], key: bytes) -> Prefix:
    """A prefix from a fresh prefill: these columns of a row, copied."""
    layers = tuple((_copy(layer.keys, row, parts), _copy(layer.values, row, parts)) for layer in cache.layers)
    return Prefix(key, layers[0][0].shape[2], layers)


def _copy(states: Tensor, row: int, parts: Sequence[slice]) -> Tensor:
    return torch.cat([states[row : row + 1, :, part] for part in parts], dim=2)
