"""Whether a launch fits, on which device, and what would make it fit: pure, tested with numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import check_plain, read_int, read_object, read_text, read_word, refuse, refuse_unknown
from batchinfer.domain.memory import (
    LOADED_BYTES,
    QUANTISED_BITS,
    MemoryPlan,
    count_free,
    find_dtype,
    plan_memory,
    reserve_mib,
)
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchinfer.domain.memory_facts import ModelFacts

#: Of a launch that names none.
DEFAULT_SLOTS = 8
MOST_SLOTS, MOST_MIB, MOST_CONTEXT = 4096, 2**24, 2**24
DTYPES = ("auto", *LOADED_BYTES)
QUANTISATIONS = ("none", *QUANTISED_BITS)
#: Quantisations that torch does on a CPU too.
_ON_CPU = ("int8",)
#: Shorter contexts are no advice, in tokens.
_SHORTEST_ADVISED = 1024


@dataclass(frozen=True)
class LaunchSpec:
    """What is asked for. `device`: auto, cpu, cuda or cuda:N; `context_tokens` None is the model's own, bounded."""

    device: str = "auto"
    slots: int = DEFAULT_SLOTS
    dtype: str = "auto"
    quantisation: str = "none"
    memory_mib: int | None = None
    context_tokens: int | None = None

    def matches(self, name: str, kind: str) -> bool:
        """Whether a device is one of those asked for."""
        return self.device in ("auto", name, kind)


def read_sizes(device: str, columns: Mapping[str, Any]) -> LaunchSpec:
    """A deployment's columns as a launch names them."""
    return LaunchSpec(
        device,
        columns["slots"] or DEFAULT_SLOTS,
        columns["dtype"],
        columns["quantisation"],
        columns["memory_mib"],
        find_context(columns["options"]),
    )


def find_context(options: Mapping[str, Any]) -> int | None:
    """The context that an engine's options ask for."""
    given = options.get("context_tokens")
    return given if isinstance(given, int) else None


@dataclass(frozen=True)
class Holding:
    """What a device keeps for a replica."""

    worker: str
    model: str
    mib: int
    #: Not to be stopped for another.
    pinned: bool = False


@dataclass(frozen=True)
class Advice:
    """Something to do, and what it comes to: the launch then needs `needs_mib`, of `free_mib`."""

    #: stop, slots, context, dtype, quantise or budget.
    action: str
    text: str
    needs_mib: int
    free_mib: int
    #: Whom to stop.
    workers: tuple[str, ...] = ()
    #: What to ask for instead; None where others are to be stopped.
    spec: LaunchSpec | None = None


@dataclass(frozen=True)
class DeviceFit:
    """A device beside a plan. `fits` None: nobody knows what the device has."""

    host: str
    device: str
    kind: str
    title: str
    total_mib: int | None
    reserved_mib: int
    held: tuple[Holding, ...]
    free_mib: int | None
    plan: MemoryPlan
    fits: bool | None
    missing_mib: int
    advice: tuple[Advice, ...]
    text: str


def parse_launch(body: object) -> LaunchSpec:
    """The body of a question for a plan. Raises BadRequest."""
    check_plain(body)
    given = {name: value for name, value in read_object(body, "body").items() if value is not None}
    refuse_unknown(given, frozenset(LaunchSpec.__dataclass_fields__))
    spec = LaunchSpec(
        read_text(given.get("device", "auto"), "device", max_chars=32),
        read_int(given.get("slots", DEFAULT_SLOTS), "slots", 1, MOST_SLOTS),
        read_word(given.get("dtype", "auto"), "dtype", DTYPES),
        read_word(given.get("quantisation", "none"), "quantisation", QUANTISATIONS),
        read_int(given["memory_mib"], "memory_mib", 1, MOST_MIB) if "memory_mib" in given else None,
        read_int(given["context_tokens"], "context_tokens", 1, MOST_CONTEXT) if "context_tokens" in given else None,
    )
    kind, colon, number = spec.device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not number.isdecimal())):
        refuse("device", "must be auto, cpu, cuda or cuda:N.")
    return spec


def make_plan(facts: ModelFacts, spec: LaunchSpec, kind: str, measured_mib: int | None = None) -> MemoryPlan:
    """The plan of a launch on a kind of device. Raises BadRequest (code memory_budget_too_small)."""
    return plan_memory(
        facts,
        slots=spec.slots,
        context_tokens=spec.context_tokens,
        dtype=spec.dtype,
        quantisation=spec.quantisation,
        device_kind=kind,
        budget_mib=spec.memory_mib,
        measured_mib=measured_mib,
    )


def fit_device(
    model: str,
    device: Any,
    host: str,
    held: Sequence[Holding],
    plan: MemoryPlan,
    replan: Callable[[LaunchSpec], MemoryPlan],
    spec: LaunchSpec,
) -> DeviceFit:
    """How a plan stands on a device (name, kind, total_mib, title); `replan` makes the plan of another spec."""
    parts = (host, device.name, device.kind, device.title, device.total_mib)
    ordered = tuple(sorted(held, key=lambda one: (-one.mib, one.worker)))
    needed = plan.total_mib
    if device.total_mib is None:
        text = f"{model} needs {needed:,} MiB on {device.name} of {host}; what that device has is not known."
        return DeviceFit(*parts, 0, ordered, None, plan, None, 0, (), text)
    reserved = reserve_mib(device.kind, device.total_mib)
    free = count_free(device.kind, device.total_mib, [one.mib for one in held])
    missing = max(0, needed - free)
    advice = tuple(_advise(ordered, plan, free, replan, spec)) if missing else ()
    text = _explain(model, device, host, ordered, needed, free, reserved, advice)
    return DeviceFit(*parts, reserved, ordered, free, plan, not missing, missing, advice, text)


def _explain(
    model: str,
    device: Any,
    host: str,
    held: Sequence[Holding],
    needed: int,
    free: int,
    reserved: int,
    advice: Sequence[Advice],
) -> str:
    where = f"{device.name} of {host}"
    if needed <= free:
        return f"{model} fits on {where}: it needs {needed:,} MiB, {free:,} MiB are free of {device.total_mib:,}."
    names = ", ".join(f"{one.worker} ({one.model}, {one.mib:,} MiB)" for one in held) or "nobody"
    text = (
        f"{model} does not fit on {where}: it needs {needed:,} MiB, {free:,} MiB are free of {device.total_mib:,} "
        f"({reserved:,} are kept for the system; held by {names}). {needed - free:,} MiB are missing."
    )
    rest = " ".join(one.text for one in advice)
    return f"{text} {rest}" if rest else f"{text} Nothing that could be stopped or made smaller here is enough."


def _advise(
    held: Sequence[Holding],
    plan: MemoryPlan,
    free: int,
    replan: Callable[[LaunchSpec], MemoryPlan],
    spec: LaunchSpec,
) -> list[Advice]:
    """What is enough by itself, each with its sum."""
    needed = plan.total_mib
    found = [_advise_stop(held, needed, free)]
    found.append(_first(_fewer_slots(spec), "slots", "Or take {0.slots} slots", free, replan))
    found.append(_first(_shorter(spec, plan.context_tokens), "context", "Or a context of {0.context_tokens:,} tokens",
                        free, replan))  # fmt: skip
    found.append(_first(_smaller_dtypes(spec, plan.device_kind), "dtype", "Or load it in {0.dtype}", free, replan))
    found.append(_first(_quantised(spec, plan.device_kind), "quantise", "Or quantise it to {0.quantisation}", free,
                        replan))  # fmt: skip
    found.append(_first([replace(spec, memory_mib=free)] if free else [], "budget",
                        "Or give it a budget of {0.memory_mib:,} MiB ({1.slots} slots of up to {1.context_tokens:,} "
                        "tokens, smaller caches)", free, replan))  # fmt: skip
    return [advice for advice in found if advice is not None]


def _advise_stop(held: Sequence[Holding], needed: int, free: int) -> Advice | None:
    """The one that is just large enough, else the fewest, the largest first."""
    loose = [one for one in held if not one.pinned]
    enough = [one for one in loose if free + one.mib >= needed]
    chosen = [min(enough, key=lambda one: one.mib)] if enough else []
    if not chosen:
        freed = free
        for one in loose:
            chosen.append(one)
            freed += one.mib
            if freed >= needed:
                break
        else:
            return None
    after = free + sum(one.mib for one in chosen)
    names = " and ".join(f"{one.worker} ({one.model}, {one.mib:,} MiB)" for one in chosen)
    workers = tuple(one.worker for one in chosen)
    return Advice("stop", f"Stop {names}: then {after:,} MiB are free.", needed, after, workers)


def _first(
    specs: Sequence[LaunchSpec], action: str, words: str, free: int, replan: Callable[[LaunchSpec], MemoryPlan]
) -> Advice | None:
    """The first of some launches, each smaller than the one before, that fits."""
    for spec in specs:
        try:
            plan = replan(spec)
        except BadRequest:
            continue
        if plan.total_mib <= free:
            text = f"{words.format(spec, plan)}: it then needs {plan.total_mib:,} MiB."
            return Advice(action, text, plan.total_mib, free, spec=spec)
    return None


def _fewer_slots(spec: LaunchSpec) -> list[LaunchSpec]:
    return [replace(spec, slots=count, memory_mib=None) for count in range(spec.slots - 1, 0, -1)]


def _shorter(spec: LaunchSpec, context: int) -> list[LaunchSpec]:
    specs, tokens = [], context // 2
    while tokens >= _SHORTEST_ADVISED:
        specs.append(replace(spec, context_tokens=tokens, memory_mib=None))
        tokens //= 2
    return specs


def _smaller_dtypes(spec: LaunchSpec, kind: str) -> list[LaunchSpec]:
    is_large = LOADED_BYTES[find_dtype(spec.dtype, kind)] > LOADED_BYTES["bfloat16"]
    return [replace(spec, dtype="bfloat16", memory_mib=None)] if is_large else []


def _quantised(spec: LaunchSpec, kind: str) -> list[LaunchSpec]:
    words = (word for word in QUANTISED_BITS if kind != "cpu" or word in _ON_CPU)
    return [replace(spec, quantisation=word, memory_mib=None) for word in words] if spec.quantisation == "none" else []
