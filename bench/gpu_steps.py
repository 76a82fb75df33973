"""Single parts of the engine on a device: decode steps, prefill, vision; each beside what the device can do at most."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.gpu_rates import Needs, measure
from workers.engine.decode import Decoder, build_decoder
from workers.engine.features import ALL_OFF
from workers.engine.loader import LoadedModel
from workers.engine.prefill import Prefilled, Prefiller
from workers.engine.prepared import Prepared
from workers.engine.protocol import Sampling
from workers.engine.sampling import RowSampler, next_tokens, read_back
from workers.engine.scheduler import LengthClass
from workers.engine.survival import is_device_lost, is_out_of_memory
from workers.engine.varlen import UnavailableError
from workers.engine.vision import VisionEncoder

Line = dict[str, Any]
#: Of the memory that is free once the model is there, what slots may take when as many rows as fit are run.
_SHARE = 0.8
_MOST_ROWS = 1024
_ROWS = (1, 16, 64)
#: Of one measured prefill, by kind of device.
_PREFILL_TOKENS = {"cuda": 8192, "cpu": 128}
_GOAL_BYTES, _GOAL_MATMUL = 0.6, 0.4
VARIANTS = {
    "sdpa with a mask": ALL_OFF,
    "varlen kernel": dataclasses.replace(ALL_OFF, varlen_kernel=True),
    "graphs": dataclasses.replace(ALL_OFF, cuda_graphs=True),
    "varlen kernel and graphs": dataclasses.replace(ALL_OFF, varlen_kernel=True, cuda_graphs=True),
}


@dataclass(frozen=True)
class Floor:
    """The model, what it needs, and what the device did in this run: bytes and operations a second."""

    loaded: LoadedModel
    needs: Needs
    copy_rate: float
    matmul_rate: float

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.loaded.model.device
        return device


@torch.inference_mode()
def measure_decode(floor: Floor, page: Prepared, steps: int, rows: Sequence[int] = _ROWS) -> Iterator[Line]:
    """Decode steps of rows that all hold the page: the model, the choice of tokens, and their way to the host."""
    vision = VisionEncoder(floor.loaded.model, cache_bytes=0)
    prefiller = Prefiller(floor.loaded.model, vision, pad_id=floor.loaded.pad_id, use_encoder=vision.supported)
    filled = prefiller.run([page])
    length = page.prompt_tokens + steps + 2
    most = find_most_rows(floor, length)
    for name, features in VARIANTS.items():
        try:
            decoder = build_decoder(floor.loaded.model, features)
        except UnavailableError as error:
            yield {"what": "decode", "variant": name, "unavailable": str(error)}
            continue
        for count in sorted({*(number for number in rows if number <= most), most}):
            yield _measure_rows(floor, decoder, filled, page, name, count, steps)


def _measure_rows(
    floor: Floor, decoder: Decoder, filled: Prefilled, page: Prepared, variant: str, rows: int, steps: int
) -> Line:
    """One number of rows; where memory does not hold them, fewer."""
    line: Line = {"what": "decode", "variant": variant}
    wanted, failed = rows, 0
    while True:
        try:
            found = _run(floor, decoder, filled, page, rows, steps)
            return line | ({"wanted_rows": wanted} if failed else {}) | found
        except Exception as error:
            failed += 1
            if is_device_lost(error):
                raise
            if not is_out_of_memory(error) or rows == 1:
                return line | {"rows": rows, "failed": f"{type(error).__name__}: {error}"[:300]}
        finally:
            if decoder.graphs is not None:
                # They hold the pool that they were recorded on.
                decoder.graphs.recorded.clear()
                decoder.graphs.failed.clear()
        rows = rows * 3 // 4
        if floor.device.type == "cuda":
            torch.cuda.empty_cache()


def _run(floor: Floor, decoder: Decoder, filled: Prefilled, page: Prepared, rows: int, steps: int) -> Line:
    length = page.prompt_tokens
    pool = decoder.new_pool(LengthClass(rows, length + steps + 2), device=floor.device)
    for row in range(rows):
        slot = pool.add(row, token=20 + row % 100, last_position=filled.last_positions[0], length=length)
        filled.copy_row(pool.cache, slot, 0, length)
    samplers = [RowSampler(Sampling(), None, None)] * rows

    def step() -> None:
        tokens, _ = read_back(*next_tokens(decoder.step(pool), samplers, [None] * rows))
        pool.close_step(tokens)

    seconds = measure(step, floor.device, repeats=steps)
    context = length + 1 + steps / 2
    needed = floor.needs.decode_bytes(rows, context)
    least_s = sum(needed.values()) / floor.copy_rate
    line: Line = {
        "rows": rows,
        "context_tokens": round(context),
        "tokens_per_s": rows / seconds,
        "step_ms": 1000 * seconds,
        "least_bytes": needed,
        "share_of_copy_rate": least_s / seconds,
        "goal": _GOAL_BYTES,
    }
    if active := floor.needs.active_experts(rows):
        line["active_experts"] = active
    if decoder.graphs is not None:
        line["graphs"] = {
            "replays": decoder.graphs.replays,
            "not_recorded": sorted(set(decoder.graphs.failed.values())),
        }
    if decoder.kernel is not None:
        line["layers_by_mask"] = decoder.kernel.passed_on
    return line


def find_most_rows(floor: Floor, length: int) -> int:
    """Rows of `length` tokens that memory holds beside the model."""
    if floor.device.type != "cuda":
        return 4
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(floor.device)
    vocabulary = floor.loaded.model.config.get_text_config().vocab_size
    # A row's logits are there a few times: the model's, the graph's, and what is chosen from.
    row_bytes = length * floor.needs.token_bytes + 4 * vocabulary * floor.loaded.model.dtype.itemsize
    return max(1, min(_MOST_ROWS, int(free * _SHARE / row_bytes)))


@torch.inference_mode()
def measure_prefill(floor: Floor, page: Prepared) -> Line:
    """One group of pages whose pictures are encoded already."""
    model, rows = floor.loaded.model, max(1, _PREFILL_TOKENS.get(floor.device.type, 128) // page.prompt_tokens)
    vision = VisionEncoder(model, cache_bytes=2**34)
    prefiller = Prefiller(model, vision, pad_id=floor.loaded.pad_id, use_encoder=vision.supported)
    group = [page] * rows
    seconds = measure(lambda: prefiller.run(group), floor.device)
    return {
        "what": "prefill",
        "rows": rows,
        "prompt_tokens": page.prompt_tokens,
        "tokens_per_s": rows * page.prompt_tokens / seconds,
        "share_of_matmul_rate": floor.needs.prefill_flops(rows, page.prompt_tokens) / seconds / floor.matmul_rate,
        "goal": _GOAL_MATMUL,
        "pictures": "encoded before" if vision.supported else "encoded each time, not counted as work",
    }


@torch.inference_mode()
def measure_vision(floor: Floor, pages: Sequence[Prepared]) -> Line:
    """Pages encoded together, from their pixels on the host."""
    vision = VisionEncoder(floor.loaded.model, cache_bytes=0)
    if not vision.supported:
        return {"what": "vision", "unavailable": "The model takes no encodings made beforehand."}
    seconds = measure(lambda: vision.features(pages), floor.device)
    merge = floor.loaded.model.config.vision_config.spatial_merge_size
    patches = pages[0].image_tokens * merge**2
    return {
        "what": "vision",
        "pages": len(pages),
        "patches_per_page": patches,
        "pages_per_s": len(pages) / seconds,
        "share_of_matmul_rate": floor.needs.vision_flops(len(pages), patches) / seconds / floor.matmul_rate,
        "goal": _GOAL_MATMUL,
    }
