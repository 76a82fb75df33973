"""How long a night of pages takes, before anything is bought: from what was measured, or else from arithmetic.

A device reads pages no faster than its two limits let it. Prefill and vision multiply matrices: two operations for each
parameter and token. Decoding reads memory: the weights once a step, shared by all rows of it, and each row's keys and
values. `docs/scaling.md` explains each line with an example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchinfer.domain.model_shapes import ModelShape


class Basis(StrEnum):
    """Where a number comes from."""

    #: Asked for.
    GIVEN = "given"
    #: From answers that were stored here.
    MEASURED = "measured"
    #: From the shape of the model and what the maker says of the device.
    COMPUTED = "computed"
    #: A guess that is written down here and can be replaced by an option.
    ASSUMED = "assumed"


@dataclass(frozen=True)
class DeviceKind:
    """What its maker says: dense bfloat16 operations (TFLOP/s), memory rate (GB/s) and size (GiB)."""

    name: str
    tflops: float
    gbps: float
    memory_gib: float


#: From NVIDIA's data sheets, without sparsity.
DEVICES = {
    kind.name: kind
    for kind in (
        DeviceKind("l4", 121, 300, 24),
        DeviceKind("a10", 125, 600, 24),
        DeviceKind("rtx4090", 165, 1008, 24),
        DeviceKind("l40s", 362, 864, 48),
        DeviceKind("a100", 312, 2039, 80),
        DeviceKind("h100", 989, 3350, 80),
        DeviceKind("h200", 989, 4800, 141),
    )
}
#: Shares of those limits that an engine is taken to reach; what no GPU has confirmed here yet.
MATMUL_SHARE, MEMORY_SHARE = 0.4, 0.6
#: Of a device's memory that weights, keys and values may have together.
MEMORY_USED = 0.85
MOST_ROWS = 256
#: A page as it is rendered: A4 at 144 DPI.
PAGE_PIXELS = (1190, 1684)
#: Seconds of one core to render a page, check it and store it; bytes of its JPEG (quality 95) and of its thumbnail.
RENDER_S, PAGE_BYTES, THUMBNAIL_BYTES = 0.15, 700_000, 12_000
#: Bytes that a page leaves in Postgres: job, result, attempt and references, with their indexes.
ROW_BYTES = 6_000
#: Pages that lie rendered and wait, at most.
AHEAD_PAGES = 2_000
PROMPT_TOKENS = 150


@dataclass(frozen=True)
class Number:
    """A number of the plan, its unit, and where it comes from."""

    name: str
    value: float
    unit: str
    basis: Basis
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """What answers with pictures used here, as means: seconds of a device a page, tokens in and out."""

    pages: int
    device_s: float
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True)
class Night:
    """What is asked: so many pages by so many devices in so many hours."""

    pages: int
    devices: int
    hours: float
    output_tokens: int | None = None
    device: DeviceKind | None = None
    #: Of one device, where somebody knows it.
    pages_per_second: float | None = None


@dataclass(frozen=True)
class Plan:
    """The answer. `hours_needed` is None where nothing says how fast a device reads."""

    numbers: list[Number] = field(default_factory=list)
    hours_needed: float | None = None
    devices_needed: int | None = None
    fits: bool | None = None


def plan_night(night: Night, shape: ModelShape | None, measured: Measured | None) -> Plan:
    """Put together what is known. A measured rate goes before a computed one, a given one before both."""
    numbers = [
        Number("pages a second needed", night.pages / (3600 * night.hours), "pages/s", Basis.COMPUTED),
        _find_output(night, measured),
    ]
    rate = _find_rate(night, shape, measured, numbers)
    if rate is None:
        return Plan([*numbers, *_size_host(night, None)])
    numbers.append(rate)
    together = rate.value * night.devices
    hours = night.pages / together / 3600
    numbers += [
        Number("all devices together", together, "pages/s", rate.basis),
        Number("the night takes", hours, "h", rate.basis),
        *_size_host(night, together),
    ]
    needed = math.ceil(night.pages / (rate.value * 3600 * night.hours))
    return Plan(numbers, hours, needed, hours <= night.hours)


def _find_output(night: Night, measured: Measured | None) -> Number:
    name, unit = "tokens of an answer", "tokens"
    if night.output_tokens is not None:
        return Number(name, night.output_tokens, unit, Basis.GIVEN)
    if measured is not None:
        return Number(name, measured.output_tokens, unit, Basis.MEASURED, f"{measured.pages:,} answers here")
    return Number(name, 400.0, unit, Basis.ASSUMED, "say --output-tokens")


def _find_rate(
    night: Night, shape: ModelShape | None, measured: Measured | None, numbers: list[Number]
) -> Number | None:
    name, unit = "one device", "pages/s"
    output = next(number.value for number in numbers if number.name == "tokens of an answer")
    if night.pages_per_second is not None:
        return Number(name, night.pages_per_second, unit, Basis.GIVEN)
    if measured is not None and measured.device_s > 0:
        # Answers of another length take a device longer or shorter in proportion, prompts taken as short.
        stretch = output / measured.output_tokens if measured.output_tokens > 0 else 1.0
        note = f"{measured.device_s:.3g} s of a device a page, over {measured.pages:,} pages"
        return Number(name, 1 / (measured.device_s * stretch), unit, Basis.MEASURED, note)
    if shape is None or night.device is None:
        return None
    return _compute_rate(night.device, shape, output, numbers)


def _compute_rate(device: DeviceKind, shape: ModelShape, output: float, numbers: list[Number]) -> Number | None:
    """What the arithmetic allows; None where the weights alone do not fit the device."""
    image = shape.count_image_tokens(*PAGE_PIXELS)
    prompt = image + PROMPT_TOKENS
    matmul = 2 * shape.active_parameters * prompt + 2 * shape.vision_parameters * image * shape.patches_per_token
    kv_row = shape.kv_bytes_per_token * (prompt + output)
    spare = device.memory_gib * 2**30 * MEMORY_USED - shape.weights_bytes
    rows = min(MOST_ROWS, int(spare // kv_row)) if spare > 0 else 0
    numbers += [
        Number("tokens of a page", prompt, "tokens", Basis.COMPUTED, f"{image:,} of its picture"),
        Number("flops a page", matmul + 2 * shape.active_parameters * output, "FLOP", Basis.COMPUTED),
        Number("weights", shape.weights_bytes / 2**30, "GiB", Basis.COMPUTED, "bfloat16"),
        Number("rows at once", rows, "rows", Basis.COMPUTED, f"{kv_row / 2**20:,.0f} MiB of keys and values each"),
    ]
    if rows < 1:
        return None
    read = output * (shape.count_step_bytes(rows) / rows + shape.kv_bytes_per_token * (prompt + output / 2))
    numbers.append(Number("bytes a page", read, "B", Basis.COMPUTED, "decoding, at that many rows"))
    seconds = matmul / (device.tflops * 1e12 * MATMUL_SHARE) + read / (device.gbps * 1e9 * MEMORY_SHARE)
    note = f"{device.name}: {MATMUL_SHARE:.0%} of its operations and {MEMORY_SHARE:.0%} of its memory rate are assumed"
    return Number("one device", 1 / seconds, "pages/s", Basis.COMPUTED, note)


def _size_host(night: Night, rate: float | None) -> list[Number]:
    """Cores and disk for so many pages."""
    kept = night.pages * (THUMBNAIL_BYTES + ROW_BYTES) / 2**30
    found = [
        Number("disk for a night's results", kept, "GiB", Basis.ASSUMED, "thumbnails and rows; pages go as they end"),
        Number(
            "disk for pages that wait", AHEAD_PAGES * PAGE_BYTES / 2**30, "GiB", Basis.ASSUMED, "render_ahead_pages"
        ),
    ]
    if rate is not None:
        note = f"{RENDER_S:g} s of a core a page; the bench of documents measures it on a host"
        found.insert(0, Number("cores to render", rate * RENDER_S, "cores", Basis.ASSUMED, note))
    return found
