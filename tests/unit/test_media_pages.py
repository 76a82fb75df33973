from __future__ import annotations

import functools
import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from batchinfer.errors import BadDocument, BadImage, Failure
from batchinfer.media.sandbox import SandboxPool

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = {"dpi": 144, "max_side": 2048, "max_pixels": 40_000_000}
CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = SandboxPool(1, 1536, 60)
    yield pool
    pool.close()


def make_pdf(objects: list[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of numbered objects, the first of them the catalog."""
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R %b >>\n" % (len(objects) + 1, trailer)
    return out + b"startxref\n%d\n%%%%EOF\n" % start


def pdf_of_pages(boxes: list[tuple[float, float]], content: bytes = b"") -> bytes:
    """Pages of the given sizes in points that share one content stream."""
    squeezed = zlib.compress(content, 9)
    stream = b"<< /Filter /FlateDecode /Length %d >>\nstream\n%b\nendstream" % (len(squeezed), squeezed)
    kids = b" ".join(b"%d 0 R" % number for number in range(4, 4 + len(boxes)))
    page = "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {} {}] /Contents 3 0 R >>"
    pages = [page.format(*box).encode() for box in boxes]
    tree = b"<< /Type /Pages /Kids [%b] /Count %d >>" % (kids, len(boxes))
    return make_pdf([CATALOG, tree, stream, *pages])


def make_tiff(frames: list[Image.Image], **options: object) -> bytes:
    file = io.BytesIO()
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:], **options)
    return file.getvalue()


def write(folder: Path, data: bytes, name: str = "document") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def count_pages(pool: SandboxPool, source: str, max_pages: int = 2000) -> int:
    return int(pool.run("open_document", source=source, max_pages=max_pages)["pages"])


def render(pool: SandboxPool, source: str, page: int = 1, **limits: int) -> Image.Image:
    """The drawn page, after a check that the answer says what was written."""
    target = f"{source}.{page}"
    answer = pool.run("render_page", source=source, target=target, page=page, **{**LIMITS, **limits})
    with Image.open(target) as image:
        image.load()
        assert (answer["width"], answer["height"]) == image.size
        assert answer["media_type"] == f"image/{image.format.lower()}"
        assert image.mode == "RGB"
        return image.copy()


def refusal(pool: SandboxPool, source: str, page: int = 0, **limits: int) -> BadDocument:
    ask = functools.partial(render, page=page) if page else count_pages
    with pytest.raises(BadDocument) as caught:
        ask(pool, source, **limits)
    assert str(Path(source).parent) not in caught.value.message
    assert "PDFium" not in caught.value.message
    return caught.value


def test_a_pdf_is_drawn_page_by_page_at_the_resolution(pool: SandboxPool, tmp_path: Path) -> None:
    source = write(tmp_path, pdf_of_pages([(128, 128), (200, 100)], b"1 0 0 rg 0 0 50 50 re f"))
    assert count_pages(pool, source) == 2
    first, second = render(pool, source, 1), render(pool, source, 2)
    assert (first.size, second.size) == ((256, 256), (400, 200))
    assert first.getpixel((20, 240)) == (255, 0, 0)
    assert first.getpixel((240, 20)) == (255, 255, 255)


def test_a_turned_page_is_drawn_upright(pool: SandboxPool, tmp_path: Path) -> None:
    data = pdf_of_pages([(200, 100)]).replace(b"/Contents 3 0 R", b"/Rotate 90     ")
    assert render(pool, write(tmp_path, data)).size == (200, 400)


def test_a_page_of_a_million_points_is_scaled_down_before_it_is_drawn(pool: SandboxPool, tmp_path: Path) -> None:
    source = write(tmp_path, pdf_of_pages([(1_000_000, 1_000_000), (1_000_000, 2)]))
    assert render(pool, source, 1).size == (2048, 2048)
    assert render(pool, source, 2).size == (2048, 1)


def test_the_pixel_limit_makes_a_page_coarser(pool: SandboxPool, tmp_path: Path) -> None:
    image = render(pool, write(tmp_path, pdf_of_pages([(500, 500)])), max_pixels=10_000)
    assert image.width * image.height <= 101 * 101


def test_what_is_typed_into_a_form_is_drawn(pool: SandboxPool, tmp_path: Path) -> None:
    look = b"0 0 1 rg 0 0 60 20 re f"
    stream = b"<< /Type /XObject /Subtype /Form /BBox [0 0 60 20] /Length %d >>\nstream\n%b\nendstream"
    field = b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /F 4 /Rect [10 10 70 30] /AP << /N 5 0 R >> >>"
    data = make_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [4 0 R] >> >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Annots [4 0 R] >>",
            field,
            stream % (len(look), look),
        ]
    )
    assert render(pool, write(tmp_path, data)).getpixel((80, 160)) == (0, 0, 255)


def test_a_tiff_has_a_page_a_frame(pool: SandboxPool, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (60, 40), "white").convert(mode) for mode in ("L", "1", "RGB", "CMYK")]
    frames.append(Image.new("RGBA", (30, 90), (0, 0, 0, 0)))
    source = write(tmp_path, make_tiff(frames))
    assert count_pages(pool, source) == 5
    for page in (5, 3, 1, 2, 4):
        image = render(pool, source, page)
        assert image.size == ((30, 90) if page == 5 else (60, 40))
        assert image.getpixel((10, 10)) == (255, 255, 255)


def test_a_tiff_is_turned_once(pool: SandboxPool, tmp_path: Path) -> None:
    picture = Image.new("L", (40, 20), "white")
    picture.paste(0, (0, 0, 10, 20))
    image = render(pool, write(tmp_path, make_tiff([picture], tiffinfo={274: 6})))
    assert image.size == (20, 40)
    assert image.getpixel((10, 2)) == (0, 0, 0)


def test_a_scan_is_scaled_down_to_jpeg(pool: SandboxPool, tmp_path: Path) -> None:
    source = write(tmp_path, make_tiff([Image.new("1", (4960, 7016), 1)], compression="group4"))
    image = render(pool, source)
    assert image.size == (1448, 2048)


def test_too_many_pages_are_counted_no_further_than_needed(pool: SandboxPool, tmp_path: Path) -> None:
    long_pdf = write(tmp_path, pdf_of_pages([(10, 10)] * 10_000), "pdf")
    long_tiff = write(tmp_path, make_tiff([Image.new("1", (1, 1))] * 300), "tiff")
    assert refusal(pool, long_pdf).code == "too_many_pages"
    error = refusal(pool, long_tiff, max_pages=200)
    assert error.code == "too_many_pages"
    assert "200" in error.message
    assert count_pages(pool, long_tiff, 300) == 300
    assert count_pages(pool, long_pdf, 10_000) == 10_000


def test_a_count_that_lies_is_not_believed(pool: SandboxPool, tmp_path: Path) -> None:
    data = pdf_of_pages([(10, 10)]).replace(b"/Count 1 ", b"/Count 1000000000 ")
    assert count_pages(pool, write(tmp_path, data)) == 1


@pytest.mark.parametrize(
    "handler",
    [
        b"/Filter /Standard /V 1 /R 2 /O <" + b"41" * 32 + b"> /U <" + b"42" * 32 + b"> /P -4",
        b"/Filter /Made.Up /V 9",
    ],
)
def test_an_encrypted_pdf_is_named_so(pool: SandboxPool, tmp_path: Path, handler: bytes) -> None:
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] >>"
    objects = [CATALOG, b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>", page, b"<< " + handler + b" >>"]
    source = write(tmp_path, make_pdf(objects, b"/Encrypt 4 0 R /ID [<00> <00>]"))
    assert refusal(pool, source).code == "document_encrypted"
    assert refusal(pool, source, page=1).code == "document_encrypted"


def test_broken_documents(pool: SandboxPool, tmp_path: Path) -> None:
    tiff = make_tiff([Image.effect_noise((200, 200), 80)])
    for number, data in enumerate((b"", b"%PDF-1.7\n" + b"\x80" * 300, b"II*\0\xff\xff\xff\xff", b"hello")):
        assert refusal(pool, write(tmp_path, data, str(number))).code == "document_parse_error"
    assert refusal(pool, write(tmp_path, tiff[:20_000], "cut"), page=1).code == "document_parse_error"
    empty = make_pdf([CATALOG, b"<< /Type /Pages /Kids [] /Count 0 >>"])
    assert refusal(pool, write(tmp_path, empty, "empty")).code == "document_parse_error"


@pytest.mark.parametrize("page", [2, 99])
def test_a_page_that_is_not_there(pool: SandboxPool, tmp_path: Path, page: int) -> None:
    for data in (pdf_of_pages([(10, 10)]), make_tiff([Image.new("L", (9, 9))])):
        error = refusal(pool, write(tmp_path, data), page=page)
        assert error.code == "document_parse_error"
        assert f"no page {page}" in error.message


def test_a_frame_over_the_pixel_limit_is_refused_by_its_header(pool: SandboxPool, tmp_path: Path) -> None:
    bomb = make_tiff([Image.new("1", (8, 8)), Image.new("1", (12_000, 12_000))], compression="group4")
    source = write(tmp_path, bomb)
    assert count_pages(pool, source) == 2
    assert render(pool, source, 1).size == (8, 8)
    error = refusal(pool, source, page=2)
    assert error.code == "page_too_large"
    assert "Page 2" in error.message


def test_a_new_file_in_the_old_place_is_opened_anew(pool: SandboxPool, tmp_path: Path) -> None:
    assert count_pages(pool, write(tmp_path, pdf_of_pages([(10, 10)]))) == 1
    assert count_pages(pool, write(tmp_path, pdf_of_pages([(10, 10)] * 3))) == 3


def test_a_file_that_is_gone_is_a_missing_blob(pool: SandboxPool, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        count_pages(pool, str(tmp_path / "never"))
    assert caught.value.code == "blob_missing"


def test_a_stream_that_swells_costs_at_most_its_process(tmp_path: Path) -> None:
    """500 MB of drawing commands in one megabyte: over the memory of the process, whatever it ends with."""
    swollen = b"0 0 m 1 1 l S\n" * (500 * 2**20 // 14)
    source = write(tmp_path, pdf_of_pages([(10, 10)], swollen))
    good = write(tmp_path, pdf_of_pages([(10, 10)]), "good")
    del swollen
    pool = SandboxPool(1, 512, 60)
    try:
        with pytest.raises((BadDocument, Failure)) as caught:
            render(pool, source)
        assert caught.value.code in {"sandbox_killed", "page_too_large", "document_parse_error"}
        assert render(pool, good).size == (20, 20)
    finally:
        pool.close()


def pdf_with_text(*words: bytes) -> bytes:
    """One page that carries a text in a standard font."""
    content = b"BT /F1 12 Tf 50 700 Td %b ET" % b" ".join(b"(%b) Tj" % word for word in words)
    stream = b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content)
    page = (
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 3 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
    )
    return make_pdf([CATALOG, b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>", stream, page])


def read_text(pool: SandboxPool, source: str, page: int = 1) -> str:
    return str(pool.run("read_text", source=source, page=page)["text"])


def test_the_text_that_a_page_carries_is_read(pool: SandboxPool, tmp_path: Path) -> None:
    assert read_text(pool, write(tmp_path, pdf_with_text(b"Invoice 17, total 12.00"))) == "Invoice 17, total 12.00"


def test_a_page_without_text_of_its_own_says_nothing(pool: SandboxPool, tmp_path: Path) -> None:
    assert read_text(pool, write(tmp_path, pdf_of_pages([(200, 100)]))) == ""
    assert read_text(pool, write(tmp_path, make_tiff([Image.new("L", (20, 10))]))) == ""
    assert read_text(pool, write(tmp_path, picture_of("PNG"))) == ""


def test_a_text_without_end_is_cut(pool: SandboxPool, tmp_path: Path) -> None:
    text = read_text(pool, write(tmp_path, pdf_with_text(*[b"\\344" * 30_000] * 10)))
    assert len(text) == 200_000


def test_the_text_of_a_page_that_is_not_there(pool: SandboxPool, tmp_path: Path) -> None:
    with pytest.raises(BadDocument) as caught:
        read_text(pool, write(tmp_path, pdf_with_text(b"one page")), page=2)
    assert caught.value.code == "document_parse_error"


def picture_of(kind: str, size: tuple[int, int] = (60, 40)) -> bytes:
    """Red in its upper left corner."""
    image = Image.new("RGB", size, "white")
    image.paste("red", (0, 0, 10, 10))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_a_document_of_one_page(pool: SandboxPool, tmp_path: Path, kind: str) -> None:
    source = write(tmp_path, picture_of(kind))
    assert count_pages(pool, source) == 1
    assert render(pool, source).size == (60, 40)
    assert refusal(pool, source, 2).code == "document_parse_error"


def test_an_animation_is_no_document(pool: SandboxPool, tmp_path: Path) -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage) as caught:
        render(pool, write(tmp_path, file.getvalue()))
    assert caught.value.code == "too_many_frames"


@pytest.mark.parametrize(("turn", "corner"), [(0, (2, 2)), (90, (37, 2)), (180, (57, 37)), (270, (2, 57))])
def test_a_page_is_turned_clockwise(pool: SandboxPool, tmp_path: Path, turn: int, corner: tuple[int, int]) -> None:
    image = render(pool, write(tmp_path, picture_of("PNG")), rotate=turn)
    assert image.size == ((60, 40) if turn % 180 == 0 else (40, 60))
    assert image.getpixel(corner) == (255, 0, 0)


@pytest.mark.parametrize(("lossless", "kind"), [(None, "PNG"), (True, "PNG"), (False, "JPEG")])
def test_a_page_is_stored_as_asked(pool: SandboxPool, tmp_path: Path, lossless: bool | None, kind: str) -> None:
    source, target = write(tmp_path, picture_of("PNG")), tmp_path / "target"
    pool.run("render_page", source=source, target=str(target), page=1, lossless=lossless, **LIMITS)
    with Image.open(target) as image:
        assert image.format == kind


def test_a_small_copy_is_made_with_the_page(pool: SandboxPool, tmp_path: Path) -> None:
    source, target, small = write(tmp_path, pdf_of_pages([(595, 842)])), tmp_path / "target", tmp_path / "small"
    answer = pool.run(
        "render_page", source=source, target=str(target), page=1, thumbnail=str(small), thumbnail_side=128,
        find_blank=True, **LIMITS,
    )  # fmt: skip
    with Image.open(small) as image:
        assert (image.format, max(image.size), image.size) == (
            "JPEG",
            128,
            tuple(answer["thumbnail"][n] for n in ("width", "height")),
        )
    assert answer["blank"] is True
