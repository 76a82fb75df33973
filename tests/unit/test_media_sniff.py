from __future__ import annotations

import pytest

from batchinfer.media.sniff import DOCUMENTS, PICTURES, name_other, sniff

SERVED = [
    (b"\xff\xd8\xff\xe0\x00\x10JFIF", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "image/png"),
    (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "image/webp"),
    (b"%PDF-1.7\n", "application/pdf"),
    (b"\xef\xbb\xbf\n%PDF-1.4", "application/pdf"),
    (b"II*\x00\x08\x00\x00\x00", "image/tiff"),
    (b"MM\x00*\x00\x00\x00\x08", "image/tiff"),
    (b"II+\x00\x08\x00\x00\x00", "image/tiff"),
]
REFUSED = [
    b"",
    b"GIF89a\x01\x00",
    b"BM\x46\x00",
    b"8BPS\x00\x01",
    b"%!PS-Adobe-3.0 EPSF-3.0",
    b"<svg xmlns='http://www.w3.org/2000/svg'>",
    b"RIFF\x24\x00\x00\x00WAVEfmt ",
    b"\xff\xd8",
    b"hello %PDF-1.7",
    b"PK\x03\x04",
    b'{"a": 1}',
]


@pytest.mark.parametrize(("head", "media_type"), SERVED)
def test_a_served_kind_is_told_by_its_first_bytes(head: bytes, media_type: str) -> None:
    assert sniff(head) == media_type
    assert media_type in PICTURES | DOCUMENTS


@pytest.mark.parametrize("head", REFUSED)
def test_anything_else_is_nothing(head: bytes) -> None:
    assert sniff(head) is None


def test_common_other_kinds_have_a_name_for_the_message() -> None:
    assert name_other(b"GIF89a") == "a GIF"
    assert name_other(b"\x00\x00\x00\x18ftypheic") == "a HEIC, AVIF or video file"
    assert name_other(b"\x00\x01\x02\x03") is None
