"""What a family's processor made of pictures, kept for the next prompt about the same page."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

#: Pictures by SHA-256, in the order shown.
Pictures = tuple[str, ...]
#: What an entry takes beside its arrays, in bytes.
_OVERHEAD_BYTES = 1024


@dataclass(frozen=True)
class _Entry:
    settings: str
    data: Mapping[str, Any]
    nbytes: int


class PixelCache:
    """Bounded in bytes, least recently used out first. Methods may be called from any thread.

    An entry stands for all pictures of one call, in order, since some families make one picture's pixels depend on the
    others (padded to the largest, say), and for the processor's settings. It is copied on its way in and out, so that
    nobody who gets it can alter it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._entries: OrderedDict[Pictures, _Entry] = OrderedDict()
        self._limit = limit_bytes
        self._lock = threading.Lock()
        #: Calls answered from here, and calls that were not.
        self.hits = self.misses = 0
        #: Bytes that the entries take.
        self.held_bytes = 0

    def knows(self, pictures: Pictures) -> bool:
        """Whether pictures are probably here, so that their files need not be decoded."""
        with self._lock:
            return pictures in self._entries

    def find(self, pictures: Pictures, settings: str) -> dict[str, Any] | None:
        """A copy of what was kept for these pictures under the same settings, if anything."""
        with self._lock:
            entry = self._entries.get(pictures)
            if entry is None or entry.settings != settings:
                self.misses += 1
                return None
            self._entries.move_to_end(pictures)
            self.hits += 1
        return _copy(entry.data)

    def keep(self, pictures: Pictures, settings: str, data: Mapping[str, Any]) -> None:
        """Keep a copy, unless it alone is larger than the bound."""
        entry = _Entry(settings, _copy(data), count_bytes(data) + _OVERHEAD_BYTES)
        if entry.nbytes > self._limit:
            return
        with self._lock:
            if replaced := self._entries.pop(pictures, None):
                self.held_bytes -= replaced.nbytes
            self._entries[pictures] = entry
            self.held_bytes += entry.nbytes
            while self.held_bytes > self._limit:
                _, dropped = self._entries.popitem(last=False)
                self.held_bytes -= dropped.nbytes

    def forget(self) -> bool:
        """Drop everything, to free memory. True where there was something."""
        with self._lock:
            held, self.held_bytes = self.held_bytes, 0
            self._entries.clear()
        return held > 0


def count_bytes(value: Any) -> int:
    """Bytes of the arrays and tensors in a nest of lists and mappings."""
    if isinstance(value, Tensor | np.ndarray):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(count_bytes(one) for one in value.values())
    if isinstance(value, list | tuple):
        return sum(count_bytes(one) for one in value)
    return 0


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for name, value in data.items()}
