"""How hard memory is to come by here: stalls as the kernel measures them (PSI, psi(7)), and pages read from swap."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.observe.control_group import ROOT, find_pressure_file
from batchinfer.observe.kernel_texts import parse_counts, parse_pressure

if TYPE_CHECKING:
    from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Strain:
    """A look. Shares are % of the last ten seconds; None: this kernel does not measure it."""

    #: Somebody waited for memory.
    some: float | None = None
    #: Nobody could go on for want of it.
    full: float | None = None
    #: MiB read back from swap since the machine was started.
    swapped_in_mib: float | None = None


def read_strain(root: Path = ROOT) -> Strain:
    """The control group of this process where it is measured, else the machine; swap is always the machine's."""
    shares = _read_shares(find_pressure_file(root))
    return Strain(shares.get("some"), shares.get("full"), _read_swapped_in_mib(root))


def _read_shares(file: Path | None) -> dict[str, float]:
    with suppress(OSError):
        return parse_pressure(file.read_text(errors="replace")) if file else {}
    return {}


def _read_swapped_in_mib(root: Path) -> float | None:
    with suppress(OSError):
        pages = parse_counts((root / "proc/vmstat").read_text(errors="replace")).get("pswpin")
        return None if pages is None else pages * _PAGE / 2**20
    return None
