"""Find out how a family's picture processor can be stopped at bytes, by trying it on made-up pictures."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from transformers.image_processing_backends import PilBackend

from workers.engine.pixel_bytes import GRID, PADDING, PIXELS, ByteForm, Cut, Scale

_log = logging.getLogger(__name__)

#: Width and height of made-up pictures: a flat one, and a tall one together with one of another size.
_PROBES = (((150, 40),), ((60, 190), (96, 64)))
#: The orders in which families cut pictures, see `Cut`: block by block or row by row, the channel first or last.
_ORDERS = ((1, 4, 2, 5, 0, 7, 3, 6), (1, 4, 2, 5, 3, 6, 0, 7), (1, 2, 4, 5, 0, 7, 3, 6))
_STOPPED = {"do_rescale": False, "do_normalize": False}
#: `normalize` is called, but only marks; see `_mark`.
_MARKED = {"do_rescale": False, "do_normalize": True}
#: A processor's call: pictures and options to its outputs.
Run = Callable[..., Mapping[str, Any]]


class NoByteFormError(Exception):
    """A processor cannot be stopped at bytes, and why, in a sentence for the verdict."""


def find_byte_form(processor: Any, device: torch.device) -> ByteForm:
    """The first way of stopping a picture processor that gives, finished on the device, its own pixels bit for bit.

    Raises NoByteFormError.
    """
    if not isinstance(processor, PilBackend):
        raise NoByteFormError("The family's picture processor is not one of transformers' own on Pillow.")
    try:
        scale = _find_scale(processor, device)
        probes = [[_draw_noise(height, width) for width, height in sizes] for sizes in _PROBES]
        tried = [(pictures, dict(processor(images=pictures, return_tensors="pt"))) for pictures in probes]
        for form in _list_forms(processor, scale, tried[0][1], device):
            if all(_matches(processor, form, pictures, wanted, device) for pictures, wanted in tried):
                return form
    except NoByteFormError:
        raise
    except Exception as error:
        _log.info("a picture processor cannot be stopped at bytes", exc_info=True)
        raise NoByteFormError(f"The family's picture processor fails on it ({type(error).__name__}).") from error
    raise NoByteFormError("Scaled on the device, the pixels are not those of the family's picture processor.")


def stop_at_bytes(processor: Any, form: ByteForm) -> Run:
    """The processor's call, stopped as a form says: bytes under `pixel_values`, or 16 bits where -1 marks padding.

    The call raises ValueError where the processor made something else of a picture.
    """
    changes: dict[str, Any] = {"patchify": _keep_whole} if form.cut is not None else {}
    changes |= {"normalize": _mark} if form.marks else {}
    stopped = _with_methods(processor, changes)
    options = _MARKED if form.marks else _STOPPED

    def run(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
        output = stopped(*args, **{**kwargs, **options})
        output[PIXELS] = _narrow(output[PIXELS], marks=form.marks)
        return dict(output)

    return run


def _find_scale(processor: PilBackend, device: torch.device) -> Scale:
    """What the processor's own methods make of every byte, in the cheapest operations that give the same."""
    every = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    values: Any = every.astype(np.float32)
    mean = deviation = None
    if processor.do_rescale:
        values = processor.rescale(every, processor.rescale_factor)
    if processor.do_normalize:
        mean, deviation = (_by_channel(one, device) for one in (processor.image_mean, processor.image_std))
        values = processor.normalize(values, processor.image_mean, processor.image_std)
    wanted = torch.from_numpy(np.ascontiguousarray(values))
    factor = processor.rescale_factor if processor.do_rescale else None
    choices = [Scale(None, None, mean, deviation)]
    if factor:
        choices = [Scale(1 / factor, None, mean, deviation), Scale(None, factor, mean, deviation)]
    given = torch.from_numpy(every.copy()).to(device)
    for choice in choices:
        if torch.equal(choice.apply(given, (0, 1, 2), -3).cpu(), wanted):
            return choice
    raise NoByteFormError("The device's arithmetic does not scale as the family's picture processor does.")


def _by_channel(value: Any, device: torch.device) -> Tensor:
    listed = [value] * 3 if isinstance(value, int | float) else list(value)
    return torch.tensor(listed, dtype=torch.float32, device=device)


def _list_forms(
    processor: PilBackend, scale: Scale, wanted: Mapping[str, Any], device: torch.device
) -> Iterator[ByteForm]:
    """What to try, the cheapest first."""
    if cut := _find_cut(processor):
        yield ByteForm(scale, cut=cut)
    if where := _find_channels(processor, _widen(wanted[PIXELS])):
        black = scale.apply(torch.zeros(3, 1, 1, dtype=torch.uint8, device=device), (0, 1, 2), -3)
        # Padding behind scaling is 0, at sizes that are not tried here too. It must not pass for black, if that is not.
        yield ByteForm(scale, *where, marks=bool(black.any()))


def _find_cut(processor: Any) -> Cut | None:
    """How a family with a `patchify` of the usual kind cuts a picture."""
    if not hasattr(processor, "patchify"):
        return None
    patch, merge, moments = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    picture = np.asarray(_draw_noise(2 * patch * merge, 3 * patch * merge)).transpose(2, 0, 1)
    wanted, rows, columns = processor.patchify(picture, patch_size=patch, merge_size=merge, temporal_patch_size=moments)
    if (rows, columns) != (picture.shape[1] // patch, picture.shape[2] // patch):
        return None
    given, found = torch.from_numpy(picture.copy()), torch.from_numpy(np.ascontiguousarray(wanted))
    for order in _ORDERS:
        cut = Cut(order, patch, merge, moments, tuple(found.shape[1:]))
        made = cut.apply(given).float()
        if made.shape == found.shape and torch.equal(made, found.float()):
            return cut
    return None


def _with_methods(processor: Any, changes: dict[str, Any]) -> Any:
    """The same processor, but for some methods."""
    family = type(processor)
    changed: Any = type(family.__name__, (family,), changes)
    stopped = changed.__new__(changed)
    stopped.__dict__.update(processor.__dict__)
    return stopped


def _keep_whole(_: Any, image: Any, patch_size: int, **__: Any) -> tuple[Any, int, int]:
    """In place of `patchify`: the picture comes whole, its values in a row."""
    _, height, width = image.shape
    return np.ascontiguousarray(image).reshape(-1, 1), height // patch_size, width // patch_size


def _mark(_: Any, image: Any, *__: Any, **___: Any) -> Any:
    """In place of `normalize`: one more, so that padding, which comes behind it as 0, can be told from black."""
    return np.add(image, 1, dtype=np.int16 if image.dtype == np.uint8 else image.dtype)


def _find_channels(processor: Any, pixels: Tensor) -> tuple[int, tuple[int, ...]] | None:
    """The axis, from the end, along which the channel changes, and its channels; from one picture of each colour."""
    if pixels.ndim > 2 and pixels.shape[-3] == 3:
        return -3, (0, 1, 2)
    outputs = []
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        picture = PIL.Image.new("RGB", (64, 64), colour)
        outputs.append(_widen(processor(images=[picture], return_tensors="pt", **_STOPPED)[PIXELS]))
    stacked = torch.stack(outputs)
    channel, shown = stacked.argmax(dim=0), stacked.amax(dim=0) > 0
    for axis in range(-1, -channel.ndim - 1, -1):
        # The channel of each place of this axis, if it is the same wherever something is shown.
        rest = [other for other in range(-channel.ndim, 0) if other != axis]
        lowest = torch.where(shown, channel, 3).amin(dim=rest)
        highest = torch.where(shown, channel, -1).amax(dim=rest)
        if torch.equal(lowest, highest):
            return axis, tuple(lowest.tolist())
    return None


def _matches(
    processor: Any, form: ByteForm, pictures: list[Any], wanted: Mapping[str, Any], device: torch.device
) -> bool:
    """Whether pictures come out as `wanted`, the processor's own, and nothing else differs."""
    wanted = dict(wanted)
    try:
        found = dict(stop_at_bytes(processor, form)(images=pictures, return_tensors="pt"))
    except (ValueError, TypeError):
        return False
    pixels = {PIXELS: _widen(found.pop(PIXELS))}
    own = _widen(wanted.pop(PIXELS))
    if not form.pack(pixels) or set(found) != set(wanted):
        return False
    grid = found[GRID].tolist() if form.cut is not None else ()
    padding = pixels[PADDING].to(device) if PADDING in pixels else None
    made = form.finish(pixels[PIXELS].to(device), grid=grid, padding=padding).cpu()
    same = own.dtype is made.dtype and own.shape == made.shape and torch.equal(own, made)
    return same and all(_is_same(found[name], wanted[name]) for name in wanted)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype is other.dtype and one.shape == other.shape and torch.equal(one, other)
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def _narrow(values: Any, *, marks: bool) -> Any:
    """Whole numbers as bytes; where some mark padding, all less one in 16 bits. Raises ValueError for others."""
    whole = [_to_whole(part, torch.int16 if marks else torch.uint8) for part in _list_arrays(values)]
    if marks:
        whole = [part.sub_(1) for part in whole]
        if all(int(part.min()) >= 0 for part in whole):
            whole = [part.to(torch.uint8) for part in whole]
    narrow = iter(whole)

    def rebuild(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [rebuild(one) for one in value]
        return next(narrow) if isinstance(value, Tensor) else next(narrow).numpy()

    return rebuild(values)


def _list_arrays(values: Any) -> Iterator[Tensor]:
    if isinstance(values, list | tuple):
        for one in values:
            yield from _list_arrays(one)
    else:
        yield values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))


def _to_whole(values: Tensor, kind: torch.dtype) -> Tensor:
    """From 0 to 255, or to 256 where all is one more. Raises ValueError for what is not whole."""
    if values.dtype is torch.uint8 is kind:
        return values
    whole = values.to(kind)
    low, high = (int(one) for one in whole.aminmax())
    if low < 0 or high > (256 if kind is torch.int16 else 255) or not bool((whole == values).all()):
        raise ValueError("pixels are no bytes")
    return whole


def _widen(values: Any) -> Tensor:
    """One tensor of a processor's pixels. Raises TypeError for pictures that cannot be one."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, list | tuple):
        parts = [_widen(one) for one in values]
        if any(part.shape != parts[0].shape for part in itertools.islice(parts, 1, None)):
            raise TypeError("pictures of different shapes")
        return torch.stack(parts)
    return torch.from_numpy(np.asarray(values))


def _draw_noise(height: int, width: int) -> PIL.Image.Image:
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise)
