"""Continuous batching over any Hugging Face vision-language model: requests join and leave between two decode steps.

One thread owns the model. A turn of it: end what was cancelled, admit a group (one prefill), then one decode step for
each pool of slots. The model's own forward does the work; docs/engine.md draws it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from workers.engine.constrain import GrammarCompiler
from workers.engine.decode import Decoder
from workers.engine.features import Budgets, Features
from workers.engine.forwards import Fault, Forwards, Pick, Seat
from workers.engine.loader import LoadedModel
from workers.engine.prefill import Prefilled, Prefiller
from workers.engine.prefix import Prefix, PrefixStore
from workers.engine.prepared import Prepared
from workers.engine.preparing import PreparingEngine, count_logits
from workers.engine.protocol import Capacity, EngineFailure
from workers.engine.rows import Row
from workers.engine.sampling import next_tokens
from workers.engine.scheduler import LengthClass, Places, PrefillBudget
from workers.engine.slots import SlotPool
from workers.engine.survival import explain
from workers.engine.tickets import Ticket
from workers.engine.vision import VisionEncoder

#: Seconds after which an idle thread looks around, though every change wakes it.
_IDLE_S = 1.0
_NOT_A_NUMBER = EngineFailure(
    "not_a_number", "The model's scores were not numbers; try other settings or a picture of another size."
)
_GRAMMAR_LIMIT = EngineFailure(
    "grammar_limit", "The grammar of response_format grew past its limits while decoding; make it simpler."
)


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
        model, slots = loaded.model, sum(spec.slots for spec in classes)
        self.features, self.budgets = features, budgets
        self._pools = [SlotPool(spec, device=model.device) for spec in sorted(classes, key=lambda spec: spec.length)]
        self.vision = VisionEncoder(model, cache_bytes=budgets.encoder_cache_bytes, batched=features.batched_encoder)
        use_encoder = features.encoder_cache and self.vision.supported
        self.prefixes = PrefixStore(budgets.prefix_cache_bytes if features.prefix_reuse else 0)
        decoder = Decoder(model)
        prefiller = Prefiller(model, self.vision, pad_id=loaded.pad_id, use_encoder=use_encoder)
        self._forwards = Forwards(prefiller, decoder, slots=slots, free_memory=self._free_memory, faults=faults)
        self._put_off, self._slides = 0, decoder.slides
        super().__init__(
            loaded,
            slots=slots,
            preparers=preparers,
            max_images=max_images,
            context_tokens=self._pools[-1].spec.length,
            grammars=compile_grammars(loaded),
        )

    def _accept(self, ticket: Ticket) -> None:
        if self._grammars is not None:
            self._grammars.check(ticket.request.response_format)
        super()._accept(ticket)

    # The turn

    def _turn(self) -> None:
        self._end_unpreparable()
        for pool in self._pools:
            self._end_interrupted(pool)
        self._admit()
        active = [pool for pool in self._pools if pool.owners]
        for pool in active:
            self._step(pool)
        if not active:
            with self._changed:
                if not any(ticket.plan.settled for ticket in self._waiting.values()):
                    self._wait_for_work(_IDLE_S)

    def _end_interrupted(self, pool: SlotPool) -> None:
        now = time.monotonic()
        for slot in range(len(pool.owners) - 1, -1, -1):
            row: Row = pool.owners[slot]
            finish = "cancelled" if self._closing else row.ticket.find_interruption(now)
            if finish or row.ticket.done():
                pool.remove(slot)
                self._finish(row.ticket, row.end(finish or "cancelled"))

    # Admission

    def _admit(self) -> None:
        """At most one group a turn, so that rows in flight never wait for more than one prefill."""
        active = sum(len(pool.owners) for pool in self._pools)
        free = min(self.slots, self._forwards.row_limit) - active
        if free <= 0 or self._closing or (active and self._forwards.wants_alone):
            return
        ready = self._ready()
        if not ready or (active and self._may_wait(ready, free)):
            return
        self._put_off = 0
        group, prefix = self._choose_group(ready, free)
        if group:
            self._prefill(group, prefix)

    def _may_wait(self, ready: Sequence[Ticket], free: int) -> bool:
        """Whether a prefill for so few rows is put off, for company. Nobody interactive waits."""
        worth = max(1, int(self.slots * self.budgets.gather_share))
        if ready[0].request.job_class == "interactive" or min(free, len(ready)) >= worth:
            return False
        self._put_off += 1
        return self._put_off <= self.budgets.gather_steps

    def _choose_group(self, ready: Sequence[Ticket], free_rows: int) -> tuple[list[Seat], Prefix | None]:
        """The most urgent request that has a slot, and others that can share its forward."""
        most = min(free_rows, self._forwards.prefill_rows) if self.features.grouped_prefill else 1
        budget = PrefillBudget(self.budgets.prefill_tokens, self.budgets.prefill_pixels, most)
        places = Places([(pool.spec.length, pool.free) for pool in self._pools])
        group: list[Seat] = []
        lead: tuple[object, ...] = ()
        prefix: Prefix | None = None
        for ticket in ready:
            item = ticket.plan.prepared
            place = places.find(item.total_tokens)
            if place is None:
                places.hold(item.total_tokens)
                continue
            found = self.prefixes.find(self._prefix_keys(item)) if self.features.prefix_reuse else None
            key = item.group_key(found.key if found else None, slides=self._slides)
            if group and key != lead:
                continue
            if not budget.try_add(item):
                break
            if not group:
                lead, prefix = key, found
            places.take(place)
            group.append((ticket, place))
            if len(group) == most:
                break
        return group, prefix

    def _prefill(self, group: list[Seat], prefix: Prefix | None) -> None:
        self._moved()
        began = time.monotonic()
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

    def _seat(self, rows: Sequence[tuple[Row, int]], filled: Prefilled) -> None:
        """Sample each row's first token; what goes on gets a slot."""
        picked = self._sample(filled.logits, [row for row, _ in rows])
        for index, ((row, place), pick) in enumerate(zip(rows, picked, strict=True)):
            if self.features.prefix_reuse:
                keys, start = self._prefix_keys(row.item), filled.starts[index]
                self.prefixes.learn(keys, filled.cache, index, start, filled.prefix_tokens)
            if self._advance(row, pick):
                continue
            pool, length = self._pools[place], row.item.prompt_tokens
            slot = pool.add(row, token=pick.token, last_position=filled.last_positions[index], length=length)
            filled.copy_row(pool.cache, slot, index, length)

    def _prefix_keys(self, item: Prepared) -> list[bytes]:
        return item.prefix_keys(before_pictures=self.features.prefix_before_pictures)

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
        tokens, logprobs = next_tokens(logits, [row.sampler for row in rows], masks)
        picked = []
        for index, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            failure = _NOT_A_NUMBER if token < 0 else None
            if row.grammar is not None and masks[index] is None:
                failure = _GRAMMAR_LIMIT
            picked.append(Pick(token, logprobs.get(index), failure))
        return picked

    def _free_memory(self) -> bool:
        """Drop caches; True where that may have helped."""
        dropped = [self.vision.forget(), self.prefixes.forget()]
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
