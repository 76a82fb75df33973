"""What a scanner does to a page: noise, blur and the marks of JPEG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageFilter

if TYPE_CHECKING:
    import random

#: Standard deviation, in grey levels, of the mean of three evenly drawn bytes.
_DEVIATION = 42.6


def add_noise(image: Image.Image, rng: random.Random, deviation: float) -> Image.Image:
    """Nearly Gaussian grey noise of a standard deviation in grey levels (0 to 255)."""
    grain = [Image.frombytes("L", image.size, rng.randbytes(image.width * image.height)) for _ in range(3)]
    even = Image.blend(Image.blend(grain[0], grain[1], 0.5), grain[2], 1 / 3)
    scale = deviation / _DEVIATION
    noise = even.point([round(128 + (level - 127.5) * scale) for level in range(256)])
    return ImageChops.add(image, noise, offset=-128)


def blur(image: Image.Image, radius: float) -> Image.Image:
    """Gaussian blur of a radius in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def jpeg_artefacts(image: Image.Image, quality: int) -> Image.Image:
    """The image after one trip through a JPEG file."""
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=quality)
    packed.seek(0)
    with Image.open(packed) as read:
        read.load()
        return read.convert("L")
