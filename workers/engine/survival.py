"""What an engine makes of an error in a forward: was it memory, and what does the user hear."""

from __future__ import annotations

import torch

from workers.engine.prepared import Prepared
from workers.engine.protocol import EngineFailure


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller forward may pass."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # What torch's CPU allocator raises has no class of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def is_device_lost(error: Exception) -> bool:
    """Whether every later forward on this device will fail as well, as after an illegal access on a GPU."""
    lost = getattr(torch, "AcceleratorError", None)
    return lost is not None and isinstance(error, lost) and not is_out_of_memory(error)


def explain(error: Exception, item: Prepared) -> EngineFailure:
    """The end of a request that failed alone, with its size and what to do."""
    size = f"{item.prompt_tokens} prompt tokens, {item.pixels} pixels and up to {item.request.max_tokens} new tokens"
    if is_out_of_memory(error):
        return EngineFailure(
            "out_of_memory",
            f"The request does not fit into the device's memory, even alone: it has {size}; send a smaller picture, "
            "a shorter prompt or a lower max_tokens.",
        )
    return EngineFailure(
        "generation_failed",
        f"The model failed on this request alone ({size}); try another picture or prompt.",
    )
