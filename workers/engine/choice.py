"""Which engine `auto` takes, and why: pure code over facts, so that every case can be told beforehand.

vLLM is taken on CUDA where it is installed, knows the model, and answers the golden prompts as they should be answered;
in every other case ours is, and the reason says which condition was not met.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class VllmFacts:
    """What is known of vLLM here. `version` None: it was not there, or could not be asked; `why` says so."""

    version: str | None = None
    architectures: Collection[str] = ()
    why: str = "no Python of an environment with vLLM is named (option python, setting vllm_python)"


@dataclass(frozen=True)
class Agreement:
    """How many of the golden prompts an engine answered as they should be; `fault` is a sentence about the first that
    it did not."""

    agreed: int
    of: int
    fault: str = ""


@dataclass(frozen=True)
class Choice:
    """The engine taken, and a sentence that says why."""

    kind: Literal["vllm", "ours"]
    reason: str


def choose_engine(
    *, device: str, vllm: VllmFacts, architecture: str | None, agreement: Agreement | None = None, failed: str = ""
) -> Choice:
    """`device` is cpu or cuda:N, `architecture` the model's, from its configuration. `agreement` is None before the
    golden prompts were asked, and where there are none. `failed` is why vLLM could not be started with this model."""
    if not device.startswith("cuda"):
        return Choice("ours", f"Ours: vLLM is taken on CUDA alone, and this is {device}.")
    if vllm.version is None:
        return Choice("ours", f"Ours: {vllm.why}.")
    if architecture is None:
        return Choice("ours", "Ours: the model's config.json names no architecture to ask vLLM about.")
    if architecture not in vllm.architectures:
        return Choice("ours", f"Ours: vLLM {vllm.version} does not know {architecture}.")
    if failed:
        return Choice("ours", f"Ours: vLLM {vllm.version} knows {architecture} and could not serve it ({failed}).")
    if agreement is None or not agreement.of:
        return Choice("vllm", f"vLLM {vllm.version}: it knows {architecture}; no golden prompts were there to compare.")
    told = f"{agreement.agreed} of {agreement.of} golden prompts"
    if agreement.agreed < agreement.of:
        why = f" {agreement.fault}" if agreement.fault else ""
        return Choice("ours", f"Ours: vLLM {vllm.version} answered {told} as they should be.{why}")
    return Choice("vllm", f"vLLM {vllm.version}: it knows {architecture} and answered {told} as they should be.")
