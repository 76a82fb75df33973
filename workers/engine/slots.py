"""KV in slots: each active row owns one, rows stay compact, and decode reads views.

Per layer there are two buffers `[slots, heads, length, head_dim]`; a kernel that reads live tokens only wants tokens
before heads in memory, which changes strides and nothing else. Active rows are always `0 .. n-1`: when one ends, the
last moves into its place. A decode step therefore reads `buffer[:n, :, :window]`, a view, and copies nothing.
There is one pool per length class, so that a short request does not reserve what a long one needs.
"""
# ruff: noqa: ARG002 - the signatures are those of transformers

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from workers.engine.scheduler import LengthClass
from workers.engine.varlen import LiveRows

#: Buffers that grow do so by a multiple of this, in tokens.
_GROWTH = 128


class SlotCache(Cache):  # type: ignore[misc]  # transformers has no types
    """What a model's own attention sees as `past_key_values` during decode: one new token a row, a view back."""

    def __init__(self, slots: int, length: int, *, tokens_first: bool = False, grows: bool = False) -> None:
        # Cache.__init__ wants layer objects; this class keeps its own buffers and answers the same questions.
        self.layers: list[Any] = []
        self.offloading = False
        self.slots = slots
        self.length = length
        self._tokens_first = tokens_first
        #: Tokens that the buffers have room for in each slot, at most `length`. On a CPU they grow, as rows that lie
        #: close together are read faster; elsewhere addresses must not change.
        self.capacity = min(_GROWTH, length) if grows else length
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        #: Set before each forward: the first row, the rows, where each writes, and how far back the longest reads.
        self.first = 0
        self.rows: Tensor = torch.empty(0, dtype=torch.long)
        self.write_at: Tensor = torch.empty(0, dtype=torch.long)
        self.window = 0

    def load(self, slot: int, source: DynamicCache, row: int, start: int, count: int, *, offset: int = 0) -> None:
        """Copy tokens `start .. start+count` of one row of a prefill into a slot, from its token `offset` on."""
        self.allocate(source)
        self.reserve(offset + count)
        for index, layer in enumerate(source.layers):
            part, place = slice(start, start + count), slice(offset, offset + count)
            self.keys[index][slot, :, place] = layer.keys[row, :, part]
            self.values[index][slot, :, place] = layer.values[row, :, part]

    def allocate(self, like: DynamicCache) -> None:
        """Make the buffers, of the shapes that a prefill's layers have. Raises where memory does not hold them."""
        for layer in like.layers[len(self.keys) :]:
            keys, values = self._buffer(layer.keys), self._buffer(layer.values)
            self.keys.append(keys)
            self.values.append(values)

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens in each slot. Raises where memory does not hold them; may be called again."""
        if tokens <= self.capacity and all(buffer.shape[2] == self.capacity for buffer in (*self.keys, *self.values)):
            return
        if tokens > self.capacity:
            wanted = max(tokens, self.capacity * 5 // 4)
            self.capacity = min(self.length, -(-wanted // _GROWTH) * _GROWTH)
        # Ordinary tensors, which may be written to outside of inference mode too.
        with torch.inference_mode(False), torch.no_grad():
            for buffers in (self.keys, self.values):
                for index, buffer in enumerate(buffers):
                    if buffer.shape[2] < self.capacity:
                        buffers[index] = self._buffer(buffer)
                        buffers[index][:, :, : buffer.shape[2]] = buffer

    def _buffer(self, like: Tensor) -> Tensor:
        heads, size = like.shape[1], like.shape[3]
        if self._tokens_first:
            shape = (self.slots, self.capacity, heads, size)
            return torch.zeros(shape, dtype=like.dtype, device=like.device).transpose(1, 2)
        return torch.zeros((self.slots, heads, self.capacity, size), dtype=like.dtype, device=like.device)

    def move(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` tokens of one slot into another."""
        for buffers in (self.keys, self.values):
            for buffer in buffers:
                buffer[target, :, :count] = buffer[source, :, :count]

    def nbytes(self) -> int:
        """Bytes that the buffers hold."""
        return sum(buffer.nbytes for buffer in (*self.keys, *self.values))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write this step's keys and values; give back what the rows may attend to."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        active = slice(self.first, self.first + key_states.shape[0])
        keys[self.rows, :, self.write_at] = key_states[:, :, 0]
        values[self.rows, :, self.write_at] = value_states[:, :, 0]
        return keys[active, :, : self.window], values[active, :, : self.window]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before this step, as mask building sees them; our own masks say what each row really has."""
        return self.window - 1

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Same as `get_seq_length`."""
        return self.window - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys of a step."""
        return self.window, 0

    def has_previous_state(self, *args: Any, **kwargs: Any) -> bool:
        """True: a decode step always follows a prefill."""
        return True

    @property
    def is_compileable(self) -> bool:
        """False, so that transformers does not build its static masks."""
        return False

    @property
    def is_sliding(self) -> list[bool]:
        """No layer drops old tokens; sliding windows are in the masks."""
        return [False] * len(self.keys)


class SlotPool:
    """One length class: its cache, the compact list of what owns rows `0 .. n-1`, and what each row feeds next.

    `spare` adds a slot that nobody owns, where rows that only fill up a recorded step write.
    """

    def __init__(
        self,
        spec: LengthClass,
        *,
        device: torch.device,
        bucket: int = 64,
        tokens_first: bool = False,
        spare: bool = False,
        grows: bool = False,
    ) -> None:
        self.spec = spec
        self.cache = SlotCache(spec.slots + spare, spec.length, tokens_first=tokens_first, grows=grows)
        self.owners: list[Any] = []
        self._bucket = bucket
        #: Per slot: tokens stored, the next token to feed, and its position on each axis (`[axes, slots]`).
        self._lengths = torch.zeros(spec.slots, dtype=torch.long, device=device)
        self._tokens = torch.zeros(spec.slots, dtype=torch.long, device=device)
        self._positions = torch.zeros(1, spec.slots, dtype=torch.long, device=device)
        self._rows = torch.arange(spec.slots, device=device)
        self._columns = torch.arange(spec.length, device=device)
        self._edges = torch.arange(spec.slots + 1, dtype=torch.int32, device=device)
        #: How many rows are real, for recorded steps.
        self._count = torch.zeros((), dtype=torch.long, device=device)
        #: The same as `_lengths`, for the host: reading the device would make every step wait.
        self._host_lengths: list[int] = []

    @property
    def free(self) -> int:
        """Slots that nobody owns."""
        return self.spec.slots - len(self.owners)

    def add(self, owner: Any, *, token: int, last_position: Tensor, length: int) -> int:
        """Give the next slot to `owner`, whose keys and values the caller loads. Returns the slot.

        `last_position` `[axes]` is that of the prompt's last token; `token` is the first that was generated.
        """
        slot = len(self.owners)
        if self._positions.shape[0] != last_position.shape[0]:
            self._positions = self._positions[:1].repeat(last_position.shape[0], 1)
        self._lengths[slot] = length
        self._tokens[slot] = token
        self._positions[:, slot] = last_position + 1
        self._host_lengths.append(length)
        self.owners.append(owner)
        return slot

    def remove(self, slot: int) -> None:
        """Take a slot back; the last row moves into it."""
        last = len(self.owners) - 1
        if slot != last:
            self.cache.move(last, slot, self._host_lengths[last])
            for state in (self._lengths, self._tokens):
                state[slot] = state[last]
            self._positions[:, slot] = self._positions[:, last]
            self._host_lengths[slot] = self._host_lengths[last]
            self.owners[slot] = self.owners[last]
        self.owners.pop()
        self._host_lengths.pop()

    def open_step(self, first: int = 0, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Point the cache at this step of `count` rows from `first` on, of all rows where nothing is said.

        Until `close_step` the same rows may be stepped again: each writes behind what it holds.
        Returns tokens `[n, 1]`, positions `[n, 1]` or `[axes, n, 1]`, and the mask `[n, 1, 1, window]`, True where a
        row may look.
        """
        active = slice(first, first + (len(self.owners) if count is None else count))
        window = min(self.spec.length, -(-self.find_longest(first, count) // self._bucket) * self._bucket)
        lengths = self._lengths[active]
        cache = self.cache
        cache.reserve(window)
        cache.first, cache.rows, cache.write_at, cache.window = first, self._rows[active], lengths.clone(), window
        mask = (self._columns[None, :window] <= lengths[:, None])[:, None, None]
        positions = self._positions[:, active, None]
        return self._tokens[active, None], positions if len(positions) > 1 else positions[0], mask

    def find_longest(self, first: int = 0, count: int | None = None) -> int:
        """Tokens of the longest of these rows with the one that the next step adds."""
        return max(self._host_lengths[first : first + (len(self.owners) if count is None else count)]) + 1

    def count_rows(self) -> None:
        """Tell the device how many rows are real, before a recorded step is replayed."""
        self._count.fill_(len(self.owners))

    def open_padded_step(self, rows: int, window: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `open_step` for the first `rows` slots, which may be more than there are real rows, by `_count`.

        Only tensors say which are real, so that the step can be recorded. Those that are not feed token 0 to one
        column and write into the spare slot. Raises ValueError in a pool without one.
        """
        cache = self.cache
        if cache.slots == self.spec.slots:
            raise ValueError("a padded step needs a spare slot")
        padding = self._rows[:rows] >= self._count
        lengths = self._lengths[:rows].masked_fill(padding, 0)
        cache.first, cache.rows = 0, self._rows[:rows].masked_fill(padding, self.spec.slots)
        cache.write_at, cache.window = lengths, window
        mask = (self._columns[None, :window] <= lengths[:, None])[:, None, None]
        positions = self._positions[:, :rows].masked_fill(padding, 0)[..., None]
        tokens = self._tokens[:rows].masked_fill(padding, 0)[:, None]
        return tokens, positions if len(positions) > 1 else positions[0], mask

    def find_live_rows(self) -> LiveRows:
        """How much of each row counts in the step that was opened last."""
        used = (self.cache.write_at + 1).to(torch.int32)
        return LiveRows(used, self._edges[: len(used) + 1], self.spec.length)

    def sliding(self, mask: Tensor, width: int) -> Tensor:
        """The same mask for layers that look back `width` tokens only."""
        recent = self._columns[None, : mask.shape[-1]] > self.cache.write_at[:, None] - width
        return mask & recent[:, None, None]

    def close_step(self, tokens: Sequence[int]) -> None:
        """Every active row has stored one more token and feeds its one of `tokens` next."""
        count = len(self.owners)
        self._lengths[:count] += 1
        self._positions[:, :count] += 1
        self._tokens[:count] = torch.tensor(tokens, device=self._tokens.device)
        self._host_lengths = [length + 1 for length in self._host_lengths]
