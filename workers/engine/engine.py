"""Continuous batching over any Hugging Face vision-language model: requests join and leave between two decode steps.

One thread owns the model. A turn of it: end what was cancelled, admit a group (one prefill), then one decode step for
each pool of slots. The model's own forward does the work; docs/engine.md draws it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from workers.engine.admission import Admission
from workers.engine.chunks import PartialPrompt
from workers.engine.constrain import GrammarCompiler
from workers.engine.decode import build_decoder
from workers.engine.features import Budgets, Features
from workers.engine.forwards import Fault, Forwards, Pick, Seat
from workers.engine.loader import LoadedModel
from workers.engine.pixel_cache import PixelCache
from workers.engine.pixel_check import tune_pixels
from workers.engine.prefill import Prefilled, Prefiller
from workers.engine.prefix import Prefix, PrefixStore
from workers.engine.preparing import PreparingEngine, count_logits
from workers.engine.protocol import Capacity, EngineFailure
from workers.engine.quick_modules import QuickModules
from workers.engine.rows import Row
from workers.engine.sampling import next_tokens, read_back
from workers.engine.scheduler import LengthClass, Places
from workers.engine.slots import SlotPool
from workers.engine.survival import explain, is_device_lost
from workers.engine.tickets import Ticket
from workers.engine.vision import VisionEncoder
from workers.engine.yielding import Running, Wanting

#: Seconds after which an idle thread looks around, though every change wakes it.
_IDLE_S = 1.0
_NOT_A_NUMBER = EngineFailure(
    "not_a_number", "The model's scores were not numbers; try other settings or a picture of another size."
)
_GRAMMAR_LIMIT = EngineFailure(
    "grammar_limit", "The grammar of response_format grew past its limits while decoding; make it simpler."
)


class _Partial(NamedTuple):
    """A long prompt under way: its row, the index of its pool, what went through the model, and what it began with."""

    row: Row
    place: int
    prompt: PartialPrompt
    prefix: Prefix | None


class TransformersEngine(PreparingEngine):
    """The continuous engine. `faults(stage, ids)` is called before each forward; tests raise from it."""

    name = "transformers"

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        classes: Sequence[LengthClass],
        features: Features = Features(),  # noqa: B008 - frozen
        budgets: Budgets = Budgets(),  # noqa: B008 - frozen
        preparers: int = 1,
        max_images: int = 16,
        faults: Fault | None = None,
    ) -> None:
        #: What pictures were made into, for prompts about the same ones; None where that is off.
        self.pixels = PixelCache(budgets.pixel_cache_bytes) if features.pixel_cache else None
        loaded = tune_pixels(loaded, features, self.pixels)
        model, slots = loaded.model, sum(spec.slots for spec in classes)
        self.features, self.budgets = features, budgets
        decoder = build_decoder(model, features)
        ordered = sorted(classes, key=lambda spec: spec.length)
        self._pools = [decoder.new_pool(spec, device=model.device) for spec in ordered]
        self.vision = VisionEncoder(model, cache_bytes=budgets.encoder_cache_bytes, batched=features.batched_encoder)
        use_encoder = features.encoder_cache and self.vision.supported
        self.prefixes = PrefixStore(budgets.prefix_cache_bytes if features.prefix_reuse else 0)
        prefiller = Prefiller(model, self.vision, pad_id=loaded.pad_id, use_encoder=use_encoder)
        self._forwards = Forwards(
            prefiller,
            decoder,
            slots=slots,
            free_memory=self._free_memory,
            device_type=model.device.type,
            piece_tokens=budgets.chunk_tokens,
            faults=faults,
        )
        self._admission = Admission(
            features, budgets, self.prefixes, slots=slots, slides=decoder.slides, can_cut=prefiller.can_cut
        )
        #: A long prompt of which some pieces are done, with the slot's pool that is set aside for it.
        self._partial: _Partial | None = None
        self._piece_last = False
        self._quick = QuickModules(model, features)
        self._quick.apply()
        super().__init__(
            loaded,
            slots=slots,
            preparers=preparers,
            max_images=max_images,
            context_tokens=self._pools[-1].spec.length,
            grammars=compile_grammars(loaded),
            ready_bytes=budgets.ready_bytes,
        )

    def close(self) -> None:
        """As the seam says; the model then has its own modules back."""
        super().close()
        self._quick.undo()

    def _accept(self, ticket: Ticket) -> None:
        if self._grammars is not None:
            self._grammars.check(ticket.request.response_format)
        super()._accept(ticket)

    def _is_fatal(self, error: Exception) -> bool:
        return is_device_lost(error)

    # The turn

    def _turn(self) -> None:
        self._end_unpreparable()
        self._end_all_interrupted()
        if self._yield_slots():
            self._end_all_interrupted()
        self._admit()
        active = [pool for pool in self._pools if pool.owners]
        for pool in active:
            self._step(pool)
        if not active and self._partial is None:
            with self._changed:
                if not any(ticket.plan.settled for ticket in self._waiting.values()):
                    self._wait_for_work(_IDLE_S)

    def _end_all_interrupted(self) -> None:
        for pool in self._pools:
            self._end_interrupted(pool)
        self._end_interrupted_partial()

    def _end_interrupted(self, pool: SlotPool) -> None:
        now = time.monotonic()
        for slot in range(len(pool.owners) - 1, -1, -1):
            row: Row = pool.owners[slot]
            finish = "cancelled" if self._closing else row.ticket.find_interruption(now)
            if finish or row.ticket.done():
                pool.remove(slot)
                self._finish(row.ticket, row.end(finish or "cancelled"))

    def _end_interrupted_partial(self) -> None:
        if self._partial is None:
            return
        row = self._partial.row
        finish = "cancelled" if self._closing else row.ticket.find_interruption(time.monotonic())
        if finish or row.ticket.done():
            self._partial = None
            self._finish(row.ticket, row.end(finish or "cancelled"))

    # Admission

    def _admit(self) -> None:
        """One group or one piece of a long prompt a turn, so that rows in flight never wait for more than that.

        While pieces are under way, every other turn is for whoever else waits.
        """
        active = sum(len(pool.owners) for pool in self._pools)
        if self._closing or (active and self._forwards.wants_alone):
            return
        alone = self._forwards.wants_alone
        self._piece_last = self._partial is not None and (alone or not self._piece_last)
        if self._piece_last or not self._admit_group(active):
            self._continue_partial(active)

    def _yield_slots(self) -> bool:
        """Night work makes room, before anybody is admitted. True where rows were marked to end."""
        if self._closing or self._forwards.wants_alone or not self._is_asked_to_yield():
            return False
        ready = [Wanting(ticket, ticket.plan.prepared.total_tokens) for ticket in self._ready()]
        running = [Running(row.ticket, row.started_at, pool.spec.length) for pool in self._pools for row in pool.owners]
        free = self._count_free(len(running))
        if self._partial is not None:
            ticket, length = self._partial.row.ticket, self._pools[self._partial.place].spec.length
            running.append(Running(ticket, math.inf, length))  # it has no token yet, and keeps long prompts waiting
            if not ticket.is_evictable:
                most = self.budgets.chunk_tokens
                ready = [one for one in ready if one.ticket.plan.prepared.prompt_tokens <= most]
        return bool(self._evict(ready, running, self._find_places(), free=free))

    def _find_places(self) -> Places:
        places = Places([(pool.spec.length, pool.free) for pool in self._pools])
        if self._partial is not None:
            places.take(self._partial.place)
        return places

    def _count_free(self, active: int) -> int:
        return min(self.slots, self._forwards.row_limit) - active - (self._partial is not None)

    def _admit_group(self, active: int) -> bool:
        """Whether there was a group to prefill."""
        free = self._count_free(active)
        ready = self._ready() if free > 0 else []
        if not ready or (active and self._admission.may_wait(ready, free)):
            return False
        if ready[0].granted:  # company would take the slots that were freed for others
            ready = [ticket for ticket in ready if ticket.granted]
        places = self._find_places()
        most = min(free, self._forwards.prefill_rows)
        group = self._admission.choose(ready, places, most=most, busy=active > 0, cutting=self._partial is not None)
        if group.is_long:
            self._begin_partial(group.seats[0], group.prefix)
            return False
        if group.seats:
            self._prefill(group.seats, group.prefix)
        return bool(group.seats)

    def _begin_partial(self, seat: Seat, prefix: Prefix | None) -> None:
        ticket, place = seat
        self._start(ticket)
        ticket.stage = "prefill"
        row = self._new_row(ticket)
        self._partial = _Partial(row, place, PartialPrompt.begin(row.item, prefix), prefix)

    def _continue_partial(self, active: int) -> None:
        """The next piece of a long prompt, if there is one; after the last it gets its slot."""
        if self._partial is None:
            return
        row, place, prompt, prefix = self._partial
        began = time.monotonic()
        self._moved()
        cache = self._pools[place].cache
        filled = self._forwards.prefill_piece(prompt, cache, request_id=row.id, active=active)
        row.prefill_s += time.monotonic() - began
        self._moved()
        if isinstance(filled, Exception):
            self._partial = None
            self._finish(row.ticket, row.end("error", explain(filled, row.item)))
        elif filled is not None:
            self._partial = None
            row.ticket.stage = "decoding"
            row.cached_tokens = filled.prefix_tokens
            self.prefixes.count(prefix, 1)
            self._seat([(row, place)], filled)

    def _prefill(self, group: list[Seat], prefix: Prefix | None) -> None:
        self._moved()
        began = time.monotonic()
        for ticket, _ in group:
            ticket.stage = "prefill"
        caches, active = [pool.cache for pool in self._pools], sum(len(pool.owners) for pool in self._pools)
        for seats, filled in self._forwards.prefill(group, prefix, caches, active=active):
            if isinstance(filled, Exception):
                ticket = seats[0][0]
                self._start(ticket)
                self._finish(ticket, self._new_row(ticket).end("error", explain(filled, ticket.plan.prepared)))
                continue
            rows = []
            for ticket, place in seats:
                self._start(ticket)
                row = self._new_row(ticket)
                row.cached_tokens = filled.prefix_tokens
                row.prefill_s = time.monotonic() - began
                rows.append((row, place))
            self.prefixes.count(prefix if filled.prefix_tokens else None, len(rows))
            self._seat(rows, filled)
            self._moved()
        for ticket, _ in group:
            if ticket.stage == "prefill":  # put off: it did not fit with the others
                ticket.stage = "waiting"

    def _seat(self, rows: Sequence[tuple[Row, int]], filled: Prefilled) -> None:
        """Sample each row's first token; what goes on gets a slot."""
        picked = self._sample(filled.logits, [row for row, _ in rows])
        for index, ((row, place), pick) in enumerate(zip(rows, picked, strict=True)):
            if self.features.prefix_reuse:
                keys, start = self._admission.prefix_keys(row.item), filled.starts[index]
                self.prefixes.learn(keys, filled.cache, index, start, filled.prefix_tokens)
            if self._advance(row, pick):
                continue
            pool, length = self._pools[place], row.item.prompt_tokens
            slot = pool.add(row, token=pick.token, last_position=filled.last_positions[index], length=length)
            filled.copy_row(pool.cache, slot, index, length)
            row.item.drop_pixels()

    # Decoding

    def _step(self, pool: SlotPool) -> None:
        rows: list[Row] = list(pool.owners)
        picked: list[Pick] = []
        for part, logits in self._forwards.decode(pool):
            if isinstance(logits, Exception):
                picked += [Pick(-1, None, explain(logits, row.item)) for row in part]
            else:
                picked += self._sample(logits, part)
        pool.close_step([max(pick.token, 0) for pick in picked])
        self._moved(rows=len(rows))
        for slot in range(len(rows) - 1, -1, -1):
            row = rows[slot]
            row.steps += 1
            row.row_steps += len(rows)
            if self._advance(row, picked[slot]):
                pool.remove(slot)

    def _advance(self, row: Row, pick: Pick) -> bool:
        """Hand a row its token; True where it has ended."""
        if pick.failure is not None:
            self._finish(row.ticket, row.end("error", pick.failure))
            return True
        finish = row.push(pick.token, self._loaded.eos_ids, pick.logprob)
        if finish is not None:
            self._finish(row.ticket, row.end(finish))
        return finish is not None

    def _sample(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[Pick]:
        """A token a row, read from the device at once."""
        masks = [row.grammar.allowed() if row.grammar else None for row in rows]
        tokens, logprobs = read_back(*next_tokens(logits, [row.sampler for row in rows], masks))
        picked = []
        for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            failure = _NOT_A_NUMBER if token < 0 else None
            if row.grammar is not None and masks[index] is None:
                failure = _GRAMMAR_LIMIT
            picked.append(Pick(token, logprobs.get(index), failure))
        return picked

    def _free_memory(self) -> bool:
        """Drop caches; True where that may have helped."""
        dropped = [self.vision.forget(), self.prefixes.forget(), self.pixels is not None and self.pixels.forget()]
        if self._loaded.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return any(dropped)

    def capacity(self) -> Capacity:
        """As many requests wait inside as there are slots, so that no slot lacks a row."""
        base = super().capacity()
        longest = self._pools[-1].spec.length
        return Capacity(base.requests, min(base.tokens, base.requests * longest), base.pixels)


def compile_grammars(loaded: LoadedModel) -> GrammarCompiler:
    """The compiler of a loaded model's grammars."""
    return GrammarCompiler(
        loaded.processing.tokenizer,
        vocabulary=count_logits(loaded),
        eos=loaded.eos_ids,
        device=loaded.model.device,
    )
