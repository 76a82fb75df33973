"""Forwards that survive: what fails is split until the culprit stands alone, and memory decides how much goes together.

A decode step that failed may be run again: its rows write behind what they hold, and nothing moved on. A prefill owns
nothing yet. So no request that is not the cause has to begin again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from workers.engine.chunks import PartialPrompt
from workers.engine.decode import Decoder
from workers.engine.prefill import Prefilled, Prefiller
from workers.engine.prefix import Prefix
from workers.engine.protocol import EngineFailure
from workers.engine.rows import Row
from workers.engine.scheduler import split_by_length, split_evenly
from workers.engine.slots import SlotCache, SlotPool
from workers.engine.survival import is_device_lost, is_out_of_memory
from workers.engine.tickets import Ticket

_log = logging.getLogger(__name__)

Fault = Callable[[str, Sequence[str]], None]
#: A ticket and the index of the pool that it goes to.
Seat = tuple[Ticket, int]
#: Steps without trouble after which a decode may take one row more again.
_CALM_STEPS = 64
#: What a prefill costs beside its tokens, in tokens, by kind of device: where it is more, padding costs less.
_FORWARD_TOKENS = {"cpu": 64}
_FORWARD_TOKENS_ELSEWHERE = 256
#: Pieces of a long prompt get no smaller than this where memory is short, in tokens.
_SMALLEST_PIECE = 64


class Pick(NamedTuple):
    """A row's next token, its log-probability where asked for, or why there is none."""

    token: int
    logprob: float | None
    failure: EngineFailure | None


class Forwards:
    """Runs groups and steps. `free_memory` drops caches and says whether there were any."""

    def __init__(
        self,
        prefiller: Prefiller,
        decoder: Decoder,
        *,
        slots: int,
        free_memory: Callable[[], bool],
        device_type: str = "cpu",
        piece_tokens: int = 2048,
        faults: Fault | None = None,
    ) -> None:
        self._prefiller, self._decoder = prefiller, decoder
        self._forward_tokens = _FORWARD_TOKENS.get(device_type, _FORWARD_TOKENS_ELSEWHERE)
        #: Tokens of a piece of a long prompt; they fall where memory ran out, and rise again with each prompt.
        self._piece_tokens = self._most_piece_tokens = piece_tokens
        self._slots, self._free_memory, self._faults = slots, free_memory, faults
        #: Rows in one step, and in one prefill: they fall where memory ran out and rise again slowly.
        self.row_limit = self.prefill_rows = slots
        #: A prompt did not fit beside what is in flight: nothing is admitted until that has ended.
        self.wants_alone = False
        self._calm = 0

    def prefill(
        self, group: Sequence[Seat], prefix: Prefix | None, caches: Sequence[SlotCache], *, active: int
    ) -> Iterator[tuple[Sequence[Seat], Prefilled | Exception]]:
        """The group in forwards of similar lengths, or in parts; a request that failed alone comes with its exception.

        What does not fit into memory beside the `active` rows in flight does not come and stays in the queue.
        """
        todo, freed, self.wants_alone = [group], False, False
        while todo:
            part = todo.pop()
            try:
                filled = self._prefill_once(part, prefix, caches)
            except Exception as error:
                memory = _judge(error, "prefill", len(part))
                if memory and not freed and self._free_memory():
                    freed, prefix = True, None
                    todo.append(part)
                elif len(part) > 1:
                    half = len(part) // 2
                    self.prefill_rows = half if memory else self.prefill_rows
                    todo += [part[half:], part[:half]]
                elif memory and active:
                    self.wants_alone, self.prefill_rows = True, 1
                else:
                    yield part, error
                continue
            self.prefill_rows = min(self._slots, self.prefill_rows + 1)
            active += len(part)
            yield from filled

    def prefill_piece(
        self, partial: PartialPrompt, cache: SlotCache, *, request_id: str, active: int
    ) -> Prefilled | Exception | None:
        """The next piece of a long prompt: its outcome with the last one, its exception, or None where it goes on.

        Where memory does not hold it beside the `active` rows, it `wants_alone` and may be called again then.
        """
        freed, self.wants_alone = False, False
        while True:
            try:
                if not partial.complete:
                    self._inject("prefill", [request_id])
                    partial.outcome = self._prefiller.run_piece(partial, self._piece_tokens)
                cache.allocate(partial.cache)
                outcome: Prefilled | None = partial.outcome
                if outcome is not None:
                    self._piece_tokens = min(self._most_piece_tokens, 2 * self._piece_tokens)
                return outcome
            except Exception as error:
                memory = _judge(error, "prefill of a piece", 1)
                partial.rewind()
                if memory and not freed and self._free_memory():
                    freed = True
                elif memory and self._piece_tokens > _SMALLEST_PIECE:
                    self._piece_tokens = max(_SMALLEST_PIECE, self._piece_tokens // 2)
                elif memory and active:
                    self.wants_alone = True
                    return None
                else:
                    return error

    def decode(self, pool: SlotPool) -> Iterator[tuple[list[Row], Tensor | Exception]]:
        """One step of every row of a pool, in order: all in one forward where memory allows."""
        todo, freed, calm = split_evenly(len(pool.owners), self.row_limit)[::-1], False, True
        while todo:
            first, count = todo.pop()
            rows: list[Row] = pool.owners[first : first + count]
            try:
                self._inject("decode", [row.id for row in rows])
                logits = self._decoder.step(pool, first, count)
            except Exception as error:
                memory, calm = _judge(error, "decode step", count), False
                if memory and not freed and self._free_memory():
                    freed = True
                    todo.append((first, count))
                elif count > 1:
                    half = count // 2
                    self.row_limit = half if memory else self.row_limit
                    todo += [(first + half, count - half), (first, half)]
                else:
                    yield rows, error
                continue
            yield rows, logits
        self._rise(calm)

    def _rise(self, calm: bool) -> None:
        self._calm = self._calm + 1 if calm else 0
        if self._calm >= _CALM_STEPS and self.row_limit < self._slots:
            self._calm, self.row_limit = 0, self.row_limit + 1

    def _prefill_once(
        self, part: Sequence[Seat], prefix: Prefix | None, caches: Sequence[SlotCache]
    ) -> list[tuple[Sequence[Seat], Prefilled]]:
        self._inject("prefill", [ticket.id for ticket, _ in part])
        items = [ticket.plan.prepared for ticket, _ in part]
        groups = split_by_length([item.prompt_tokens for item in items], self._forward_tokens)
        # Pictures are encoded together all the same.
        features = self._prefiller.encode(items, prefix.tokens if prefix else 0) if len(groups) > 1 else None
        made: list[tuple[Sequence[Seat], Prefilled]] = []
        for group in groups:
            encoded = [features[index] for index in group] if features else None
            filled = self._prefiller.run([items[index] for index in group], prefix, encoded)
            made.append(([part[index] for index in group], filled))
        for _, place in part:
            caches[place].allocate(made[0][1].cache)
        return made

    def _inject(self, stage: str, ids: Sequence[str]) -> None:
        if self._faults is not None:
            self._faults(stage, ids)


def _judge(error: Exception, stage: str, rows: int) -> bool:
    """Whether it was memory. Raises what no smaller forward would pass either."""
    _log.warning("a %s of %d rows failed", stage, rows, exc_info=error)
    if is_device_lost(error):
        raise error
    return is_out_of_memory(error)
