from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from batchinfer.errors import BadImage
from batchinfer.media.sandbox import SandboxPool

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = {"max_pixels": 40_000_000, "max_side": 2048, "max_frames": 1}


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = SandboxPool(1, 1536, 60)
    yield pool
    pool.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "normal"


def packed(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def normalise(pool: SandboxPool, data: bytes, target: Path, **limits: int) -> dict[str, object]:
    source = target.with_name("source")
    source.write_bytes(data)
    return pool.run("normalise", source=str(source), target=str(target), **{**LIMITS, **limits})


def refusal(pool: SandboxPool, data: bytes, target: Path, **limits: int) -> BadImage:
    with pytest.raises(BadImage) as caught:
        normalise(pool, data, target, **limits)
    assert not target.exists()
    return caught.value


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int) -> bytes:
    """A grey PNG of side x side pixels, all black, in a few kilobytes."""
    squeezer, body, row = zlib.compressobj(9), b"", b"\0" * (side + 1)
    for _ in range(side):
        body += squeezer.compress(row)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    idat = chunk(b"IDAT", body + squeezer.flush())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + idat + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_becomes_a_small_rgb_png(pool: SandboxPool, target: Path, form: str) -> None:
    answer = normalise(pool, packed(Image.new("RGB", (320, 200), (200, 30, 30)), form), target)
    assert answer == {"media_type": "image/png", "width": 320, "height": 200}
    with Image.open(target) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (320, 200))
        assert abs(image.getpixel((5, 5))[0] - 200) < 6


def test_a_large_picture_is_scaled_down_to_jpeg_without_subsampling(pool: SandboxPool, target: Path) -> None:
    answer = normalise(pool, packed(Image.new("RGB", (4000, 2500), "navy"), "PNG"), target)
    assert answer == {"media_type": "image/jpeg", "width": 2048, "height": 1280}
    with Image.open(target) as image:
        assert image.format == "JPEG"
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3


def test_one_pixel_is_a_picture(pool: SandboxPool, target: Path) -> None:
    assert normalise(pool, packed(Image.new("RGB", (1, 1)), "PNG"), target)["width"] == 1


def test_a_strip_keeps_at_least_one_pixel(pool: SandboxPool, target: Path) -> None:
    answer = normalise(pool, packed(Image.new("L", (20_000, 1)), "PNG"), target)
    assert (answer["width"], answer["height"]) == (2048, 1)


def test_exif_turns_the_picture_and_stays_behind(pool: SandboxPool, target: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste("black", (0, 0, 10, 20))
    answer = normalise(pool, packed(picture, "JPEG", exif=exif, quality=95), target)
    assert (answer["width"], answer["height"]) == (20, 40)
    with Image.open(target) as image:
        assert image.getpixel((10, 2))[0] < 40
        assert not image.getexif()
    assert b"taken at home" not in target.read_bytes()


def test_broken_exif_does_not_lose_the_picture(pool: SandboxPool, target: Path) -> None:
    data = packed(Image.new("RGB", (40, 20)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert normalise(pool, data, target)["width"] == 40


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_clear_becomes_white(pool: SandboxPool, target: Path, mode: str) -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 4, 8))
    normalise(pool, packed(clear.convert(mode), "PNG"), target)
    with Image.open(target) as image:
        assert image.getpixel((7, 7)) == (255, 255, 255)
        assert max(image.getpixel((1, 1))) < 30


def test_sixteen_bits_keep_their_shades(pool: SandboxPool, target: Path) -> None:
    deep = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 32768, 65535)):
        deep.putpixel((x, 0), value)
    normalise(pool, packed(deep, "PNG"), target)
    with Image.open(target) as image:
        assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]


@pytest.mark.parametrize("mode", ["CMYK", "L", "1"])
def test_other_modes_become_rgb(pool: SandboxPool, target: Path, mode: str) -> None:
    form = "PNG" if mode == "1" else "JPEG"
    normalise(pool, packed(Image.new("RGB", (9, 9), "white").convert(mode), form), target)
    with Image.open(target) as image:
        assert image.mode == "RGB"
        assert min(image.getpixel((4, 4))) > 245


def test_a_bomb_is_refused_by_its_header(pool: SandboxPool, target: Path) -> None:
    data = png_bomb(12_000)
    assert len(data) < 1_000_000
    error = refusal(pool, data, target)
    assert error.code == "image_too_large"
    assert "40,000,000" in error.message


@pytest.mark.parametrize("size", [(6500, 6500), (16_000, 12_000)])
def test_the_pixel_limit_holds_for_every_format(pool: SandboxPool, target: Path, size: tuple[int, int]) -> None:
    canvas = struct.pack("<I", size[0] - 1)[:3] + struct.pack("<I", size[1] - 1)[:3]
    body = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + b"VP8L" + struct.pack("<I", 0)
    webp = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    assert refusal(pool, webp, target).code in {"image_too_large", "image_parse_error"}
    jpeg = bytearray(packed(Image.new("L", (8, 8)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", size[1], size[0])
    assert refusal(pool, bytes(jpeg), target).code == "image_too_large"


def test_nothing_is_decoded_over_the_limit_of_the_caller(pool: SandboxPool, target: Path) -> None:
    data = packed(Image.new("RGB", (200, 200)), "WEBP")
    assert refusal(pool, data, target, max_pixels=39_999).code == "image_too_large"
    assert normalise(pool, data, target, max_pixels=40_000)["width"] == 200


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_cut_picture_is_broken(pool: SandboxPool, target: Path, form: str) -> None:
    noisy = Image.effect_noise((300, 300), 90).convert("RGB")
    data = packed(noisy, form)
    for share in (0.02, 0.5, 0.9):
        assert refusal(pool, data[: int(len(data) * share) + 12], target).code == "image_parse_error"


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animation_is_refused_before_it_is_decoded(pool: SandboxPool, target: Path, form: str) -> None:
    frames = [Image.new("L", (8, 8), 250 * (index % 2)).convert("RGB") for index in range(60)]
    data = packed(frames[0], form, save_all=True, append_images=frames[1:])
    error = refusal(pool, data, target)
    assert error.code == "too_many_frames"
    assert "60 frames" in error.message
    assert normalise(pool, data, target, max_frames=60)["width"] == 8


def test_a_gif_of_ten_thousand_frames_is_not_opened(pool: SandboxPool, target: Path) -> None:
    frame = b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff" + frame * 10_000 + b"\x3b"
    with Image.open(io.BytesIO(gif)) as image:
        assert image.n_frames == 10_000
    error = refusal(pool, gif, target)
    assert error.code == "unsupported_image_media_type"
    assert "a GIF" in error.message


@pytest.mark.parametrize("form", ["BMP", "TIFF", "PDF", "EPS", "ICO"])
def test_other_formats_are_not_pictures_here(pool: SandboxPool, target: Path, form: str) -> None:
    assert refusal(pool, packed(Image.new("RGB", (16, 16)), form), target).code == "unsupported_image_media_type"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_image_file"),
        (b"hello", "image_parse_error"),
        (b"\x89PNG\r\n\x1a\n", "image_parse_error"),
        (b"\xff\xd8\xff" + b"\0" * 500, "image_parse_error"),
        (b"8BPS\0\1" + b"\0" * 200, "unsupported_image_media_type"),
        (b"<svg></svg>", "unsupported_image_media_type"),
    ],
)
def test_what_is_no_picture(pool: SandboxPool, target: Path, data: bytes, code: str) -> None:
    error = refusal(pool, data, target)
    assert error.code == code
    assert str(target.parent) not in error.message


def test_a_text_chunk_that_swells_is_refused(pool: SandboxPool, target: Path) -> None:
    plain = packed(Image.new("L", (4, 4)), "PNG")
    swollen = chunk(b"zTXt", b"note\0\0" + zlib.compress(b"\0" * 200_000_000, 9))
    data = plain[:33] + swollen + plain[33:]
    assert refusal(pool, data, target).code == "image_parse_error"


def test_the_same_process_served_all_of_it(pool: SandboxPool, target: Path) -> None:
    assert normalise(pool, packed(Image.new("RGB", (9, 9)), "PNG"), target)["width"] == 9
    assert len(pool.pids) == 1
    status = Path(f"/proc/{pool.pids[0]}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_kib < 700 * 1024
