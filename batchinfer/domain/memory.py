"""How much memory a replica takes, before it is launched: arithmetic over a model's facts.

Sizes are in MiB (2^20 bytes). What a replica holds once it is ready is told apart from what its work adds: the first
can be measured, and then replaces the guess.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchinfer.domain.memory_facts import ModelFacts

MIB = 2**20
#: Bytes of a value by the dtypes of safetensors; those that loading converts, and what to.
STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
LOADED_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

#: Bits of a value of a layer's matrix that was quantised at load, with its scales.
QUANTISED_BITS = {"int8": 8.25, "fp8": 8.25, "int4": 4.5}

#: A process before any weights, in MiB: Python, Celery, torch and the model's code (measured on Linux, x86-64, torch
#: 2.13 for CPUs); and what CUDA keeps of a GPU for itself.
CPU_BASE_MIB, CUDA_BASE_MIB = 450, 600
#: For each word of the vocabulary: the tokenizer, the grammars' tables, and scores that the self-test left behind.
VOCABULARY_BYTES = 2000
#: Tokens of each slot for which there is room once a short prompt was answered; on a GPU buffers never grow.
FIRST_TOKENS = 128

#: Where nobody says how long requests get: no longer than this is planned for, in tokens.
PLANNED_CONTEXT = 32_768
#: Up to this every slot holds a whole context; beyond, `SHORT_SHARE` of the slots hold an eighth.
AMPLE_CONTEXT = 8192
SHORT_SHARE, SHORTER, SHORTEST = 0.75, 8, 256
#: The least that is worth a slot, in tokens, where the model has as much.
LEAST_CONTEXT = 4096


@dataclass(frozen=True)
class Allowance:
    """What an engine may use besides weights and slots. Defaults are those of the engine's budgets."""

    prefill_tokens: int = 8192
    encoder_cache_mib: int = 256
    prefix_cache_mib: int = 256
    pixel_cache_mib: int = 256
    ready_mib: int = 512
    #: On a CPU: large matrices a second time, laid out so that they are faster.
    copies: bool = True


#: From plenty to the least with which an engine works: tried in this order where a budget is small.
ALLOWANCES = (
    Allowance(),
    Allowance(2048, 64, 64, 64, 128),
    Allowance(1024, 16, 16, 16, 32, copies=False),
)


@dataclass(frozen=True)
class MemoryPlan:
    """What a replica may take on its device, by part, in MiB; and the sizes that the sums are of.

    `loaded_mib` is how much of it a replica holds once it is ready. `measured`: that figure is no guess.
    """

    weights_mib: int
    activations_mib: int
    kv_mib: int
    workspace_mib: int
    loaded_mib: int
    device_kind: str
    dtype: str
    quantisation: str
    slots: int
    context_tokens: int
    allowance: Allowance = Allowance()
    #: Of the weights: matrices a second time.
    copies_mib: int = 0
    measured: bool = False

    @property
    def total_mib(self) -> int:
        """All parts: what its device keeps for it."""
        return self.weights_mib + self.activations_mib + self.kv_mib + self.workspace_mib

    def with_measured(self, loaded_mib: int) -> MemoryPlan:
        """The same with what an earlier load of the kind really held when it was ready."""
        workspace = max(0, self.workspace_mib + loaded_mib - self.loaded_mib)
        return replace(self, workspace_mib=workspace, loaded_mib=loaded_mib, measured=True)

    def as_json(self) -> dict[str, Any]:
        """As a replica's row keeps it."""
        return {**asdict(self), "total_mib": self.total_mib}


def plan_memory(
    facts: ModelFacts,
    *,
    slots: int,
    context_tokens: int | None = None,
    dtype: str = "auto",
    quantisation: str = "none",
    device_kind: str = "cpu",
    budget_mib: int | None = None,
    measured_mib: int | None = None,
) -> MemoryPlan:
    """What a replica takes; `context_tokens` None is the model's own, up to PLANNED_CONTEXT.

    With `budget_mib`, the roomiest plan of at most so many: caches shrink first, then slots and contexts. Raises
    BadRequest (code memory_budget_too_small) where not even one slot fits, and says how much would do. `measured_mib`
    is what an earlier load held when it was ready; it knows of copies on a CPU, so a plan without them is a guess.
    """
    context = min(facts.context_tokens, context_tokens or PLANNED_CONTEXT)
    sums = _Sums(facts, find_dtype(dtype, device_kind), quantisation, device_kind, measured_mib)
    if budget_mib is None:
        return sums.plan(slots, context, ALLOWANCES[0])
    for allowance in ALLOWANCES:
        plan = sums.plan(slots, context, allowance)
        if plan.total_mib <= budget_mib:
            return plan
    tight = ALLOWANCES[-1]
    for count in range(slots - 1, 0, -1):
        plan = sums.plan(count, context, tight)
        if plan.total_mib <= budget_mib:
            return plan
    least = min(context, context_tokens or LEAST_CONTEXT)
    plan = sums.plan(1, least, tight)
    if plan.total_mib > budget_mib:
        raise BadRequest(
            f"A budget of {budget_mib:,} MiB is too small: one slot of {least:,} tokens takes {plan.total_mib:,} MiB, "
            f"{plan.weights_mib:,} of them weights in {plan.dtype}. Give it {plan.total_mib:,} MiB or more, or take a "
            "smaller dtype or quantisation.",
            code="memory_budget_too_small",
            param="memory_mib",
        )
    return plan


def find_dtype(dtype: str, device_kind: str) -> str:
    """What auto means: float32 on a CPU, bfloat16 elsewhere, as the engine takes it."""
    return dtype if dtype != "auto" else "float32" if device_kind == "cpu" else "bfloat16"


def plan_lengths(slots: int, context_tokens: int) -> list[tuple[int, int]]:
    """(slots, tokens) by length class, as the engine makes them where memory holds no more."""
    short = max(SHORTEST, context_tokens // SHORTER)
    shorts = int(slots * SHORT_SHARE)
    if context_tokens <= AMPLE_CONTEXT or not shorts or short >= context_tokens:
        return [(slots, context_tokens)]
    return [(shorts, short), (slots - shorts, context_tokens)]


def count_kv_bytes(facts: ModelFacts, dtype: str) -> int:
    """Keys and values of one token in every layer."""
    return facts.shape.kv_bytes_per_token // 2 * LOADED_BYTES[dtype]


def hold_mib(planned_mib: int, loaded_mib: int | None, measured_mib: int | None) -> int:
    """What a device keeps for a replica: its plan, of which the measured part replaces what was guessed of it."""
    if measured_mib is None or loaded_mib is None:
        return planned_mib
    return max(measured_mib, planned_mib - loaded_mib + measured_mib)


def reserve_mib(device_kind: str, total_mib: int) -> int:
    """What plans leave of a device: for the system and our own small processes on a CPU, for the driver on a GPU."""
    return min(total_mib, max(1024, total_mib // 10) if device_kind == "cpu" else max(256, total_mib // 50))


def count_free(device_kind: str, total_mib: int, held_mib: Iterable[int]) -> int:
    """What is left of a device beside what is held of it; never below 0."""
    return max(0, total_mib - reserve_mib(device_kind, total_mib) - sum(held_mib))


def fits(device_kind: str, total_mib: int, held_mib: Iterable[int], wanted_mib: int) -> bool:
    """Whether a replica may be launched beside what is held."""
    return wanted_mib <= count_free(device_kind, total_mib, held_mib)


@dataclass(frozen=True)
class _Sums:
    facts: ModelFacts
    dtype: str
    quantisation: str
    device_kind: str
    measured_mib: int | None

    def plan(self, slots: int, context: int, allowance: Allowance) -> MemoryPlan:
        lengths = plan_lengths(slots, context)
        token = count_kv_bytes(self.facts, self.dtype)
        kv = token * sum(count * length for count, length in lengths)
        first = lengths[0][0] * (min(FIRST_TOKENS, context) if self.device_kind == "cpu" else lengths[0][1]) * token
        copies, workspace = self._count_copies(allowance), self._count_workspace()
        weights = self._count_weights() + copies
        caches = _mib(self._count_caches(slots, allowance))
        plan = MemoryPlan(
            weights_mib=_mib(weights),
            activations_mib=_mib(self._count_activations(slots, context, allowance)),
            kv_mib=_mib(kv),
            workspace_mib=_mib(workspace) + caches,
            loaded_mib=_mib(weights) + _mib(workspace) + _mib(first),
            device_kind=self.device_kind,
            dtype=self.dtype,
            quantisation=self.quantisation,
            slots=slots,
            context_tokens=context,
            allowance=allowance,
            copies_mib=_mib(copies),
        )
        known = self.measured_mib is not None and allowance.copies == ALLOWANCES[0].copies
        return plan.with_measured(self.measured_mib) if known and self.measured_mib is not None else plan

    def _count_weights(self) -> float:
        """In the files' bytes where nothing converts them. Quantised files stay as they are, but for their floats."""
        size = LOADED_BYTES[self.dtype]
        total = 0.0
        for stored, count in self.facts.weights.items():
            total += count / STORED_BYTES[stored] * size if stored in STORED_BYTES else count
        if bits := QUANTISED_BITS.get(self.quantisation):
            total -= self.facts.linear_values * (size - bits / 8)
        return max(0.0, total)

    def _count_copies(self, allowance: Allowance) -> int:
        """Of large matrices, laid out for a CPU."""
        applies = self.device_kind == "cpu" and self.dtype == "float32" and self.quantisation == "none"
        return self.facts.large_values * LOADED_BYTES[self.dtype] if applies and allowance.copies else 0

    def _count_workspace(self) -> float:
        if self.device_kind != "cpu":
            return CUDA_BASE_MIB * MIB
        return CPU_BASE_MIB * MIB + VOCABULARY_BYTES * self.facts.shape.vocabulary

    def _count_caches(self, slots: int, allowance: Allowance) -> float:
        """What is kept of pictures is on the device as encodings, on the CPU as pixels."""
        caches = allowance.encoder_cache_mib + allowance.prefix_cache_mib
        if self.device_kind != "cpu":
            return caches * MIB
        ready = allowance.ready_mib * MIB
        if self.facts.image_pixels is not None:  # twice as many are prepared as there are slots, in floats at the most
            ready = min(ready, 2 * slots * self.facts.image_pixels * 6 * 4)
        return (caches + allowance.pixel_cache_mib) * MIB + ready

    def _count_activations(self, slots: int, context: int, allowance: Allowance) -> float:
        """Of the largest prefill: its layers, its keys and values until they are in their slots, and the scores."""
        shape, size = self.facts.shape, LOADED_BYTES[self.dtype]
        tokens = min(allowance.prefill_tokens, slots * context)
        layers = tokens * size * (6 * shape.width + 3 * shape.middle)
        scores = slots * shape.vocabulary * 4 * 3
        text = layers + tokens * count_kv_bytes(self.facts, self.dtype) + scores
        return max(text, self._count_vision(slots, tokens))

    def _count_vision(self, slots: int, tokens: int) -> float:
        """One picture a slot of the largest size, as far as a prefill takes them; one at least."""
        shape, size = self.facts.shape, LOADED_BYTES[self.dtype]
        side = (shape.token_side or 28) / math.sqrt(shape.patches_per_token)
        patches: float = tokens * shape.patches_per_token
        if self.facts.image_pixels is not None:
            one = self.facts.image_pixels / side**2
            patches = max(one, min(patches, slots * one))
        pixels = 6 * side**2 * (1 + size)
        return patches * (pixels + size * (6 * shape.vision_width + 2 * shape.vision_middle))


def _mib(count: float) -> int:
    return math.ceil(count / MIB)
