"""A launch's plan for people: its parts, and a bar for each device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.cli.output import say
from batchinfer.client.progress import make_plain

if TYPE_CHECKING:
    from batchinfer.client.nouns import DeviceFit, LaunchPlan

#: Characters of a bar, and what stands for: kept for the system, held by others, this launch, free, over.
WIDTH = 60
KEPT, HELD, WANTED, FREE, OVER = "#=+.!"


def show_launch(found: LaunchPlan) -> None:
    """Print the parts, the bars and what is to be done."""
    plan = found.plan
    basis = "with what an earlier load took" if plan.measured else "by arithmetic; no load of the kind was measured yet"
    say(f"{_plain(found.model)} {_plain(found.revision)}: {plan.total_mib:,} MiB, {basis}")
    parts = (("weights", plan.weights_mib), ("activations", plan.activations_mib), ("keys and values", plan.kv_mib),
             ("workspace", plan.workspace_mib), ("held once ready", plan.loaded_mib))  # fmt: skip
    for name, mib in parts:
        say(f"  {name:<16}{mib:>10,} MiB")
    quantised = "" if plan.quantisation == "none" else f", {plan.quantisation}"
    say(f"  {plan.slots} slots of up to {plan.context_tokens:,} tokens, {plan.dtype}{quantised}")
    for device in found.devices:
        say(f"{_plain(device.device)} of {_plain(device.host)}  {_plain(device.title)}".rstrip())
        if device.total_mib is not None:
            say(f"  [{draw_bar(device)}] {device.total_mib:,} MiB")
    if found.devices:
        say(f"  {KEPT} system  {HELD} held  {WANTED} this launch  {FREE} free  {OVER} missing")
    for line in found.text.splitlines():
        say(_plain(line, 4000))


def draw_bar(device: DeviceFit) -> str:
    """A device as WIDTH characters: every part that is there has one at least. What is missing goes over the end."""
    total = device.total_mib or 1
    held = sum(one.mib for one in device.held)
    wanted = min(device.plan.total_mib, device.free_mib or 0)
    bar = ""
    for mark, mib in ((KEPT, device.reserved_mib), (HELD, held), (WANTED, wanted)):
        bar += mark * (max(1, round(WIDTH * mib / total)) if mib else 0)
    bar = bar[:WIDTH].ljust(WIDTH, FREE)
    return bar + OVER * min(WIDTH, max(1, round(WIDTH * device.missing_mib / total)) if device.missing_mib else 0)


def _plain(text: str, most: int = 200) -> str:
    return make_plain(text, most)
