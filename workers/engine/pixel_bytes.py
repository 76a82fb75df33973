"""Pixels as bytes until they are on the device: scaled, and for some families cut into patches, only there.

A family's processor resizes in bytes, then scales to float32, which is four times as much, and some cut that into
patches and repeat each for two moments, eight times as much. Here it stops before that. What is left out is done on the
device with the same operations in the same precision, so the outcome is the processor's bit for bit;
`byte_forms.find_byte_form` checks that before anybody relies on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PIXELS, GRID = "pixel_values", "image_grid_thw"
#: True where a processor padded behind scaling; only there where it did.
PADDING = "pixel_padding"


@dataclass(frozen=True)
class Scale:
    """From bytes to a processor's float32: divided, less the mean, by the deviation. None is left out."""

    divisor: float | None
    #: Not divided in float32 but multiplied in float64, as the processors themselves do it.
    factor: float | None
    #: By channel.
    mean: Tensor | None
    deviation: Tensor | None

    def apply(self, values: Tensor, channels: Sequence[int], axis: int) -> Tensor:
        """Scale bytes whose places along `axis`, counted from the end, belong to these channels."""
        if self.divisor is not None:
            scaled = values.to(torch.float32).div_(self.divisor)
        elif self.factor is not None:
            scaled = values.to(torch.float64).mul_(self.factor).to(torch.float32)
        else:
            scaled = values.to(torch.float32)
        if self.mean is not None and self.deviation is not None:
            shape = (len(channels), *[1] * (-axis - 1))
            scaled = scaled.sub_(self.mean[list(channels)].view(shape)).div_(self.deviation[list(channels)].view(shape))
        return scaled


@dataclass(frozen=True)
class Cut:
    """How a family cuts a picture `[channels, height, width]` into patches; `order` is of the axes it is seen as.

    The axes: channel, block row, row in the block, row in the patch, block column, column in the block, column in the
    patch; then the moments, all alike.
    """

    order: tuple[int, ...]
    patch: int
    merge: int
    moments: int
    #: The shape of one patch.
    shape: tuple[int, ...]

    def apply(self, picture: Tensor) -> Tensor:
        """Patches `[patches, *shape]`."""
        channels, height, width = picture.shape
        rows, columns = height // self.patch // self.merge, width // self.patch // self.merge
        seen = picture.view(channels, rows, self.merge, self.patch, columns, self.merge, self.patch, 1)
        seen = seen.expand(*seen.shape[:-1], self.moments).permute(self.order)
        return seen.reshape(-1, *self.shape)


@dataclass(frozen=True)
class ByteForm:
    """What is left to do on the device with a family's bytes. Its tensors lie there."""

    scale: Scale
    #: Where the channels lie, counted from the end, and the channel of each place there.
    axis: int = -3
    channels: tuple[int, ...] = (0, 1, 2)
    #: The processor's own padding is told from black: it comes as -1.
    marks: bool = False
    #: Pictures come whole, one after the other, and are cut here.
    cut: Cut | None = None

    def pack(self, vision: dict[str, Tensor]) -> bool:
        """Make bytes of what a processor gave that was stopped; False where it is no such thing."""
        values = vision.get(PIXELS)
        if values is None or values.dtype is torch.uint8:
            return values is not None
        if not self.marks or values.dtype is not torch.int16:
            return False
        padding = values < 0
        vision[PIXELS] = values.clamp(min=0).to(torch.uint8)
        if bool(padding.any()):
            vision[PADDING] = padding
        return True

    def finish(self, pixels: Tensor, *, grid: Sequence[Sequence[int]], padding: Tensor | None) -> Tensor:
        """The processor's float32 from bytes on the device; `grid` is each picture's (moments, rows, columns)."""
        if self.cut is None:
            scaled = self.scale.apply(pixels, self.channels, self.axis)
            return scaled if padding is None else scaled.masked_fill_(padding, 0.0)
        edge, count, patches = self.cut.patch, len(self.channels), []
        sizes = [(rows * edge, columns * edge) for _, rows, columns in grid]
        parts = torch.split(pixels.view(-1), [count * height * width for height, width in sizes])
        for part, (height, width) in zip(parts, sizes, strict=True):
            whole = self.scale.apply(part.view(count, height, width), self.channels, -3)
            patches.append(self.cut.apply(whole))
        return torch.cat(patches) if len(patches) > 1 else patches[0]


def join_vision(
    items: Sequence[Any], device: torch.device, dtype: torch.dtype, *, pixels: bool = True
) -> dict[str, Tensor]:
    """The pictures' tensors of prepared requests, one after the other, on the device, as the model takes them.

    Without `pixels`, only what says where they belong, such as grids and sizes.
    """
    form: ByteForm | None = items[0].form
    names = [name for name in items[0].vision if pixels or name not in (PIXELS, PADDING)]
    joined = {name: torch.cat([item.vision[name] for item in items]) for name in names}
    # Read before it goes to the device, which would have to be waited for.
    grid = joined[GRID].tolist() if form is not None and form.cut is not None else ()
    placed = {name: value.to(device) for name, value in joined.items()}
    padding = placed.pop(PADDING, None)
    if form is not None and pixels:
        placed[PIXELS] = form.finish(placed[PIXELS], grid=grid, padding=padding)
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in placed.items()}


def count_patches(vision: Mapping[str, Tensor], form: ByteForm | None) -> int:
    """How many rows of pixels a model gets of a request's pictures."""
    if form is not None and form.cut is not None:
        return int(vision[GRID].prod(dim=1).sum())
    return int(vision[PIXELS].shape[0])
