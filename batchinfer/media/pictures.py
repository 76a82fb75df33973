"""Pictures made plain: a JPEG, PNG or WebP in, a small upright RGB picture out. Runs in `child.py` only.

Size and frames are checked before anything is decoded, and only Pillow's three decoders named here are tried.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from batchinfer.errors import BadImage
from batchinfer.media.sniff import HEAD_BYTES, PICTURES, name_other, sniff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A normalised picture of at most so many pixels is kept as PNG, a larger one as JPEG.
PNG_PIXELS = 1_000_000
_JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}
_PNG: dict[str, Any] = {"compress_level": 3}
_THUMBNAIL_QUALITY = 70
_FORMATS = ("JPEG", "PNG", "WEBP")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def normalise(source: Path, target: Path, *, max_pixels: int, max_side: int, max_frames: int) -> dict[str, Any]:
    """Write the picture at `source` to `target`: upright, RGB, its longest side at most `max_side` pixels.

    Returns media_type, width and height of what was written. Raises BadImage (`empty_image_file`,
    `image_parse_error`, `image_too_large`, `too_many_frames`, `unsupported_image_media_type`).
    """
    return save(open_picture(source, max_pixels=max_pixels, max_frames=max_frames), target, max_side)


def make_plain(image: Image.Image) -> Image.Image:
    """Decode one picture: turned as its EXIF data says, transparency laid on white, 8-bit RGB."""
    image.load()
    upright = _turn_upright(image)
    if upright.mode.startswith(("I", "F")):
        return _to_grey(upright).convert("RGB")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return upright.convert("RGB")


def save(image: Image.Image, target: Path, max_side: int, *, lossless: bool | None = None) -> dict[str, Any]:
    """Scale an RGB picture down to `max_side` if it is longer, write it, and say what it became.

    `lossless` writes a PNG, or (False) a JPEG of quality 95; None takes what suits the picture's size.
    """
    if max(image.size) > max_side:
        scale = max_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    image.info.clear()  # EXIF, comments and colour profiles stay behind
    small = image.width * image.height <= PNG_PIXELS if lossless is None else lossless
    image.save(target, "PNG" if small else "JPEG", **(_PNG if small else _JPEG))
    return {
        "media_type": "image/png" if small else "image/jpeg",
        "width": image.width,
        "height": image.height,
    }


def save_thumbnail(image: Image.Image, target: Path, side: int) -> dict[str, Any]:
    """Write a small JPEG of an RGB picture, its longest side at most `side` pixels, and say what it became."""
    # By a whole factor first: many times quicker, and good enough for so few pixels.
    small = image.reduce(max(1, max(image.size) // (2 * side)))
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    small.info.clear()
    small.save(target, "JPEG", quality=_THUMBNAIL_QUALITY)
    return {"media_type": "image/jpeg", "width": small.width, "height": small.height}


def open_picture(source: Path, *, max_pixels: int, max_frames: int) -> Image.Image:
    """The picture at `source`: upright, RGB. Raises BadImage as `normalise` does."""
    _check_kind(source)
    with _reading_picture(max_pixels), Image.open(source, formats=_FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise _too_large(max_pixels, image.size)
        _check_frames(image, max_frames)
        return make_plain(image)


def _too_large(max_pixels: int, size: tuple[int, int] | None = None) -> BadImage:
    """The error of a picture over the pixel limit."""
    what = f"is {size[0]} x {size[1]} pixels, which is" if size else "is"
    return BadImage(
        f"The picture {what} over the limit of {max_pixels:,} pixels. Scale it down and send it again.",
        code="image_too_large",
    )


def _turn_upright(image: Image.Image) -> Image.Image:
    if image.format == "TIFF":
        return image  # Pillow turned it while loading
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a picture is not lost because its EXIF data is broken
        return image


def _check_kind(source: Path) -> None:
    with source.open("rb") as file:
        head = file.read(HEAD_BYTES)
        size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes == 0:
        raise BadImage("The picture is empty (0 bytes). Send the file again.", code="empty_image_file")
    if sniff(head) in PICTURES:
        return
    other = name_other(head)
    if sniff(head) or other:
        raise BadImage(
            f"The file is {other or 'a document'}, not a picture that is read. Send a JPEG, PNG or WebP.",
            code="unsupported_image_media_type",
        )
    raise BadImage("The file is not a picture. Send a JPEG, PNG or WebP.", code="image_parse_error")


def _check_frames(image: Image.Image, max_frames: int) -> None:
    # A JPEG of several pictures (MPO) is a photo of a phone with its preview; the first one is the photo.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > max_frames:
        still = "a still picture" if max_frames == 1 else f"a picture of at most {max_frames} frames"
        raise BadImage(
            f"The picture has {frames:,} frames. Send {still}, or each frame as a file of its own.",
            code="too_many_frames",
        )


@contextmanager
def _reading_picture(max_pixels: int) -> Iterator[None]:
    """Turn whatever a decoder raises into our own errors; its text may hold an address and is dropped."""
    with pixel_limit(max_pixels):
        try:
            yield
        except (BadImage, FileNotFoundError, MemoryError):
            raise
        except _BOMBS:
            raise _too_large(max_pixels) from None
        except Exception:  # a decoder of hostile bytes may raise anything
            raise BadImage(
                "The picture is broken or cut short. Check that it opens, save it anew and send it again.",
                code="image_parse_error",
            ) from None


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Pillow's own guard at our limit: some decoders allocate while they open, before we can see the size."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _to_grey(image: Image.Image) -> Image.Image:
    """8-bit grey from 16 or 32 bits: 16-bit values by their full range, others by the range that occurs."""
    if image.mode.startswith("I;16"):
        image, low, high = image.convert("I"), 0.0, 65535.0
    else:
        extrema: Any = image.getextrema()
        low, high = float(extrema[0]), float(extrema[1])
    scale = 255.0 / (high - low) if high > low else 1.0
    return image.convert("F").point(lambda value: value * scale - low * scale).convert("L")
