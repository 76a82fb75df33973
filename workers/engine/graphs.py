"""Decode steps recorded once and replayed: a CUDA graph for each number of rows and each window, rounded up.

A small model's step is hundreds of kernels, and launching them takes longer than running them; a graph is one launch.
It repeats the same work on the same addresses, so everything that differs from step to step lies in tensors of the
pool: tokens, positions, lengths, and how many rows are real. Rows that only fill up a graph write into a slot that
nobody owns. What cannot be recorded runs as before, and the reason is said once.

No GPU has run this yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.engine.survival import is_device_lost
from workers.engine.varlen import UnavailableError

_log = logging.getLogger(__name__)

#: The smallest window that is recorded, in tokens; each next one is twice as long.
_SHORTEST = 256
#: Graphs kept by one model: each holds its own logits and some driver memory.
_MOST = 96
#: Runs before a recording, so that libraries have chosen their kernels and workspaces.
_WARM_UPS = 2


@dataclass(frozen=True)
class Recorded:
    """A recorded step: `replay()` runs it again, `output` then holds what it gave."""

    replay: Callable[[], None]
    output: Tensor


#: Records what a function does to tensors. Raises whatever cannot be recorded raises.
Record = Callable[[Callable[[], Tensor]], Recorded]
#: The pool whose tensors were recorded, rows, window.
Key = tuple[object, int, int]


@dataclass
class StepGraphs:
    """The recorded steps of one decoder. `failed` says why some are not; `replays` counts."""

    record: Record
    recorded: dict[Key, Recorded] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)
    replays: int = 0

    def run(self, key: Key, step: Callable[[], Tensor]) -> Tensor | None:
        """The output of the step of this key, replayed; None where it cannot be recorded and is to be run plainly.

        The tensor is the graph's own: it holds until the next run of the same key. `step` may run several times.
        """
        if key in self.failed:
            return None
        graph = self.recorded.get(key)
        if graph is None:
            graph = self._try_recording(key, step)
            if graph is None:
                return None
        graph.replay()
        self.replays += 1
        return graph.output

    def _try_recording(self, key: Key, step: Callable[[], Tensor]) -> Recorded | None:
        if len(self.recorded) >= _MOST:
            self.failed[key] = f"there are {_MOST} graphs already"
            return None
        try:
            self.recorded[key] = self.record(step)
        except Exception as error:
            if is_device_lost(error):
                raise
            if not self.failed:
                _log.warning("a decode step cannot be recorded; such steps run plainly", exc_info=error)
            self.failed[key] = f"{type(error).__name__}: {error}"
            return None
        return self.recorded[key]


def find_recorder(device: torch.device) -> Record:
    """What records on a device. Raises UnavailableError with the reason where nothing does."""
    if device.type != "cuda":
        raise UnavailableError(f"It needs a CUDA device; the model is on {device}.")
    if not hasattr(torch.cuda, "CUDAGraph"):
        raise UnavailableError(f"torch {torch.__version__} has no CUDA graphs.")
    return CudaRecorder(device)


class CudaRecorder:
    """Records CUDA graphs. They share one memory pool, as they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], Tensor]) -> Recorded:
        """Run the step a few times, then record it."""
        with torch.cuda.device(self._device):
            aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    step()
            torch.cuda.current_stream().wait_stream(aside)
            graph: Any = torch.cuda.CUDAGraph()
            # Other threads may allocate while this one records: preparing threads put pictures on the device.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = step()
        return Recorded(graph.replay, output)


def round_rows(count: int, slots: int) -> int:
    """The number of rows that is recorded for `count`: a power of two, at most all slots."""
    return min(slots, 1 << max(0, count - 1).bit_length())


def round_window(tokens: int, length: int) -> int:
    """The window that is recorded where the longest row needs `tokens`: 256, 512, ... at most the slot's length."""
    window = _SHORTEST
    while window < tokens:
        window *= 2
    return min(length, window)
