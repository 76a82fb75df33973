"""A device's memory as a bar: plain numbers for inline SVG, in percent of its width, and the same as words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flask_babel import gettext as _

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batchinfer.domain.launches import DeviceFit
    from batchinfer.services.device_use import DeviceUse
    from batchinfer.store.hosts import DeviceLoad

Kind = Literal["system", "held", "new", "free"]
#: Colours of replicas, by turns.
COLOURS = 6


@dataclass(frozen=True)
class Part:
    """What somebody has of a device. `solid` is the width of what was measured; the rest of `width` is planned."""

    kind: Kind
    name: str
    about: str
    mib: int
    measured_mib: int | None
    colour: int
    start: float
    width: float
    solid: float
    deployment_id: UUID | None = None


@dataclass(frozen=True)
class Bar:
    """A device. `total_mib` None: nobody knows what it has, and there is nothing to draw. `end` is where the device
    ends in percent, less than 100 where more is asked of it than it has. `load` is what its host measures; of a plan,
    None."""

    host: str
    device: str
    title: str
    draining: bool
    total_mib: int | None
    free_mib: int | None
    missing_mib: int
    end: float
    parts: tuple[Part, ...]
    load: DeviceLoad | None = None


@dataclass(frozen=True)
class _Piece:
    kind: Kind
    name: str
    about: str
    mib: int
    measured_mib: int | None = None
    deployment_id: UUID | None = None


def draw_use(use: DeviceUse) -> Bar:
    """What a device holds now."""
    pieces = [
        _Piece("held", share.worker, f"{share.model} · {share.state}", share.mib, share.measured_mib,
               share.deployment_id)
        for share in use.shares
    ]  # fmt: skip
    missing = max(0, use.held_mib + use.reserved_mib - (use.device.total_mib or 0)) if use.device.total_mib else 0
    parts, end = _lay_out(use.device.total_mib, use.reserved_mib, pieces, use.free_mib or 0)
    return Bar(
        use.host, use.device.name, use.device.title, use.draining, use.device.total_mib, use.free_mib, missing, end,
        parts, use.load,
    )  # fmt: skip


def draw_fit(fit: DeviceFit, model: str, deployments: dict[str, UUID]) -> Bar:
    """The same with a launch beside it that nobody made yet. `deployments` by worker."""
    pieces = [_Piece("held", one.worker, one.model, one.mib, None, deployments.get(one.worker)) for one in fit.held]
    pieces.append(_Piece("new", model, _("this launch"), fit.plan.total_mib))
    left = max(0, (fit.free_mib or 0) - fit.plan.total_mib)
    parts, end = _lay_out(fit.total_mib, fit.reserved_mib, pieces, left)
    return Bar(fit.host, fit.device, fit.title, False, fit.total_mib, left, fit.missing_mib, end, parts)


def _lay_out(
    total_mib: int | None, reserved_mib: int, pieces: Sequence[_Piece], free_mib: int
) -> tuple[tuple[Part, ...], float]:
    whole = [_Piece("system", _("System and other processes"), _("kept for them"), reserved_mib), *pieces]
    if total_mib is not None:
        whole.append(_Piece("free", _("Free"), "", free_mib))
    scale = max(total_mib or 0, sum(piece.mib for piece in whole), 1)
    parts: list[Part] = []
    at = colour = 0
    for piece in whole:
        if not piece.mib and piece.kind in ("system", "free"):
            continue
        width = 100 * piece.mib / scale
        share = 1.0 if piece.measured_mib is None or not piece.mib else min(1.0, piece.measured_mib / piece.mib)
        part = Part(
            piece.kind, piece.name, piece.about, piece.mib, piece.measured_mib, colour % COLOURS,
            round(100 * at / scale, 3), round(width, 3), round(width * share, 3), piece.deployment_id,
        )  # fmt: skip
        parts.append(part)
        at += piece.mib
        colour += piece.kind == "held"
    return tuple(parts), round(100 * (total_mib or 0) / scale, 3)
