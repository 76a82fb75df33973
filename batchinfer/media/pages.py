"""Pages of documents: PDFs (PDFium), TIFFs and pictures (Pillow), one page drawn at a time. Runs in `child.py` only.

This PDFium has no JavaScript, follows no link and opens no attachment. It may end the process on a hostile
file, which is one reason why it lives in a process of its own. A PDF whose restrictions need no password to
open is read like any other.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pypdfium2
import pypdfium2.raw as pdfium
from PIL import Image

from batchinfer.errors import BadDocument, BadImage
from batchinfer.media import pictures
from batchinfer.media.blank import is_blank
from batchinfer.media.sniff import HEAD_BYTES, PICTURES, sniff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_POINTS_PER_INCH = 72.0
#: Characters of a page's own text that are read.
MAX_TEXT_CHARS = 200_000
_TURNS = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
_ENCRYPTED = {pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY}


class PageReader:
    """Keeps the last document open, so that the next page of the same file costs no opening."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stamp: tuple[int, int] | None = None
        self._document: _Pdf | _Tiff | _Still | None = None

    def open_document(self, source: Path, *, max_pages: int) -> dict[str, Any]:
        """Count the pages.

        Raises BadDocument (`document_encrypted`, `document_parse_error`, `too_many_pages`).
        """
        with _reading_document():
            pages = self._open(source).count_pages(max_pages)
        if pages > max_pages:
            raise BadDocument(
                f"The document has more than {max_pages:,} pages, the limit. Split it and send the parts.",
                code="too_many_pages",
            )
        if pages == 0:
            raise BadDocument("The document has no pages. Save it anew and send it again.", code="document_parse_error")
        return {"pages": pages}

    def render_page(
        self,
        source: Path,
        target: Path,
        *,
        page: int,
        dpi: int,
        max_side: int,
        max_pixels: int,
        rotate: int = 0,
        lossless: bool | None = None,
        thumbnail: Path | None = None,
        thumbnail_side: int = 0,
        find_blank: bool = False,
    ) -> dict[str, Any]:
        """Draw page `page` (from 1) to `target` as RGB, its longest side at most `max_side` pixels.

        A page of a PDF is drawn at `dpi`, or as coarsely as `max_side` asks, by its page box: the size is
        known before a pixel is drawn. It is turned by `rotate` degrees clockwise, a multiple of 90; `lossless` is as in
        `pictures.save`. A small copy goes to `thumbnail` where one is wanted.

        Returns media_type, width and height; `thumbnail` with the same of the small copy; and where asked `blank`.
        Raises BadDocument (`document_encrypted`, `document_parse_error`,
        `page_too_large`), and BadImage for a picture.
        """
        with _reading_document(page), pictures.pixel_limit(max_pixels):
            image = self._open(source).draw(page, dpi=dpi, max_side=max_side, max_pixels=max_pixels)
        found: dict[str, Any] = {}
        if find_blank:
            found["blank"] = is_blank(image)
        if rotate in _TURNS:
            image = image.transpose(_TURNS[rotate])
        if thumbnail is not None and thumbnail_side:
            found["thumbnail"] = pictures.save_thumbnail(image, thumbnail, thumbnail_side)
        return pictures.save(image, target, max_side, lossless=lossless) | found

    def read_text(self, source: Path, *, page: int) -> dict[str, Any]:
        """The text that page `page` of a PDF carries itself, at most MAX_TEXT_CHARS of it; empty for what is no PDF.

        Returns {"text"}. Raises BadDocument as `render_page` does.
        """
        with _reading_document(page):
            return {"text": self._open(source).read_text(page)}

    def close(self) -> None:
        """Close the document that is open, if any."""
        document, self._document, self._path = self._document, None, None
        if document is not None:
            document.close()

    def _open(self, source: Path) -> _Pdf | _Tiff | _Still:
        facts = source.stat()
        stamp = (facts.st_mtime_ns, facts.st_size)
        if self._document is None or (self._path, self._stamp) != (source, stamp):
            self.close()
            self._document = _open_by_kind(source)
            self._path, self._stamp = source, stamp
        return self._document


class _Pdf:
    def __init__(self, source: Path) -> None:
        self._pdf = pypdfium2.PdfDocument(source)
        self._pdf.init_forms()  # so that the values typed into a form are drawn

    def count_pages(self, _max_pages: int) -> int:
        return len(self._pdf)

    def draw(self, page: int, *, dpi: int, max_side: int, max_pixels: int) -> Image.Image:
        if not 1 <= page <= len(self._pdf):
            raise _no_such_page(page)
        width, height = self._pdf.get_page_size(page - 1)
        if not (0 < width < float("inf") and 0 < height < float("inf")):
            raise _broken(page)
        longest = max_side - 0.01  # the size in pixels is rounded up
        scale = min(dpi / _POINTS_PER_INCH, longest / max(width, height), (max_pixels / width / height) ** 0.5)
        opened = self._pdf[page - 1]
        try:
            image: Image.Image = opened.render(scale=scale, rev_byteorder=True, limit_image_cache=True).to_pil()
            return image.convert("RGB")
        finally:
            opened.close()

    def read_text(self, page: int) -> str:
        if not 1 <= page <= len(self._pdf):
            raise _no_such_page(page)
        opened = self._pdf[page - 1]
        try:
            found = opened.get_textpage()
            try:
                text: str = found.get_text_range(0, min(found.count_chars(), MAX_TEXT_CHARS))
            finally:
                found.close()
        finally:
            opened.close()
        return text.replace("\r\n", "\n")[:MAX_TEXT_CHARS]

    def close(self) -> None:
        self._pdf.close()


class _Tiff:
    def __init__(self, source: Path) -> None:
        # Given a path, Pillow maps the file: a cut one ends the process, a turned one is garbled.
        self._file = source.open("rb")
        try:
            self._image = Image.open(self._file, formats=("TIFF",))
        except BaseException:
            self._file.close()
            raise

    def count_pages(self, max_pages: int) -> int:
        """At most `max_pages` + 1: a file with more is not walked to its end."""
        for pages in range(1, max_pages + 1):
            try:
                self._image.seek(pages)  # one on at a time: after a jump past the end Pillow miscounts
            except EOFError:
                return pages
        return max_pages + 1

    def draw(self, page: int, *, dpi: int, max_side: int, max_pixels: int) -> Image.Image:  # noqa: ARG002
        try:
            self._image.seek(page - 1)
        except EOFError:
            raise _no_such_page(page) from None
        if self._image.width * self._image.height > max_pixels:
            raise _page_too_large(page, max_pixels)
        return pictures.make_plain(self._image)

    def read_text(self, page: int) -> str:  # noqa: ARG002
        return ""

    def close(self) -> None:
        self._image.close()
        self._file.close()


class _Still:
    """A picture: a document of one page."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def count_pages(self, _max_pages: int) -> int:
        return 1

    def draw(self, page: int, *, dpi: int, max_side: int, max_pixels: int) -> Image.Image:  # noqa: ARG002
        if page != 1:
            raise _no_such_page(page)
        return pictures.open_picture(self._source, max_pixels=max_pixels, max_frames=1)

    def read_text(self, page: int) -> str:  # noqa: ARG002
        return ""

    def close(self) -> None:
        """Nothing is held open."""


def _open_by_kind(source: Path) -> _Pdf | _Tiff | _Still:
    with source.open("rb") as file:
        head = file.read(HEAD_BYTES)
        size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes == 0:
        raise BadDocument("The document is empty (0 bytes). Send the file again.", code="document_parse_error")
    kind = sniff(head)
    if kind == "application/pdf":
        return _Pdf(source)
    if kind == "image/tiff":
        return _Tiff(source)
    if kind in PICTURES:
        return _Still(source)
    raise BadDocument("The file is not a document that is read. Send a PDF or TIFF.", code="document_parse_error")


@contextmanager
def _reading_document(page: int | None = None) -> Iterator[None]:
    """Turn whatever a reader raises into our own errors; its text is dropped."""
    try:
        yield
    except (BadDocument, BadImage, FileNotFoundError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _page_too_large(page, Image.MAX_IMAGE_PIXELS or 0) from None
    except pypdfium2.PdfiumError as error:
        if error.err_code in _ENCRYPTED:
            raise BadDocument(
                "The document is encrypted. Remove its password and send it again.", code="document_encrypted"
            ) from None
        raise _broken(page) from None
    except Exception:  # a reader of hostile bytes may raise anything
        raise _broken(page) from None


def _broken(page: int | None) -> BadDocument:
    what = f"Page {page} of the document" if page else "The document"
    return BadDocument(
        f"{what} is broken or cut short. Check that it opens, save it anew and send it again.",
        code="document_parse_error",
    )


def _no_such_page(page: int) -> BadDocument:
    return BadDocument(f"The document has no page {page}.", code="document_parse_error")


def _page_too_large(page: int | None, max_pixels: int) -> BadDocument:
    return BadDocument(
        f"{f'Page {page}' if page else 'A page'} of the document is over the limit of {max_pixels:,} pixels. "
        "Scale it down and send the document again.",
        code="page_too_large",
    )
