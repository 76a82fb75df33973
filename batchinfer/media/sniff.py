"""What kind of file it is, by its first bytes; the name and type that the sender declares are never asked."""

from __future__ import annotations

#: A file of these is a job's picture.
PICTURES = frozenset({"image/jpeg", "image/png", "image/webp"})
#: A file of these is a document, each page of which becomes a job.
DOCUMENTS = frozenset({"application/pdf", "image/tiff"})
#: How much of a file `sniff` looks at.
HEAD_BYTES = 1024

_STARTS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),
    (b"MM\x00+", "image/tiff"),
)
_OTHERS = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS"),
    (b"<svg", "an SVG"),
    (b"<?xml", "an XML or SVG file"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\xd0\xcf\x11\xe0", "an office document"),
    (b"\x1f\x8b", "a gzip archive"),
)
#: Older programs put a byte order mark or blank lines before the first line of a PDF.
_BEFORE_PDF = b"\xef\xbb\xbf\x00\t\n\x0c\r "


def sniff(head: bytes) -> str | None:
    """The media type of what starts with `head` (`HEAD_BYTES` of it), or None for what is not served."""
    for start, media_type in _STARTS:
        if head.startswith(start):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:HEAD_BYTES].lstrip(_BEFORE_PDF).startswith(b"%PDF-"):
        return "application/pdf"
    return None


def name_other(head: bytes) -> str | None:
    """What a file that is not served seems to be, for a message ("a GIF"), or None where nobody knows."""
    if head[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    return next((name for start, name in _OTHERS if head.startswith(start)), None)
