"""The unmodified `openai` package uploads a file in parts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import openai
import pytest

if TYPE_CHECKING:
    from pathlib import Path


# The package's 1.x leaves the file to the collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_file_in_parts(client: openai.OpenAI, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    source = tmp_path / "pages.bin"
    source.write_bytes(data)
    made = client.uploads.upload_file_chunked(
        file=source,
        mime_type="application/octet-stream",
        purpose="user_data",
        part_size=100_000,
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
    )
    assert (made.status, made.bytes) == ("completed", len(data))
    assert made.file is not None
    assert (made.file.filename, made.file.purpose, made.file.bytes) == ("pages.bin", "user_data", len(data))
    assert client.files.content(made.file.id).read() == data


def test_what_is_in_memory_and_what_is_given_up(client: openai.OpenAI) -> None:
    made = client.uploads.upload_file_chunked(
        file=b"{}\n" * 10, filename="in.jsonl", bytes=30, mime_type="application/jsonl", purpose="batch", part_size=7
    )
    assert made.file is not None
    assert client.files.content(made.file.id).read() == b"{}\n" * 10
    begun = client.uploads.create(bytes=3, filename="a", mime_type="text/plain", purpose="user_data")
    part = client.uploads.parts.create(begun.id, data=b"abc")
    assert part.upload_id == begun.id
    assert client.uploads.cancel(begun.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as refused:
        client.uploads.complete(begun.id, part_ids=[part.id])
    assert refused.value.code == "upload_not_pending"
