from __future__ import annotations

import errno
import hashlib
import os
import tracemalloc
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from batchinfer.errors import Failure, Unavailable
from batchinfer.media.blobs import BlobStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TENANT = UUID("00000000-0000-7000-8000-000000000001")
OTHER = UUID("00000000-0000-7000-8000-000000000002")
ABSENT = "0" * 64


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_bytes_come_back_under_their_sha256(blobs: BlobStore) -> None:
    sha256 = blobs.put(TENANT, b"a page")
    assert sha256 == hashlib.sha256(b"a page").hexdigest()
    assert blobs.read(TENANT, sha256) == b"a page"
    assert blobs.size_bytes(TENANT, sha256) == 6
    assert blobs.exists(TENANT, sha256)
    with blobs.open(TENANT, sha256) as file:
        assert file.read(1) == b"a"
    assert blobs.path(TENANT, sha256) == blobs.root / TENANT.hex / sha256[:2] / sha256


def test_the_same_bytes_are_kept_once(blobs: BlobStore) -> None:
    first, inode = blobs.put(TENANT, b"x"), None
    inode = blobs.path(TENANT, first).stat().st_ino
    assert blobs.put(TENANT, b"x") == first
    assert blobs.path(TENANT, first).stat().st_ino == inode
    assert len(files_under(blobs.root)) == 1


def test_tenants_do_not_share_blobs(blobs: BlobStore) -> None:
    sha256 = blobs.put(TENANT, b"secret")
    assert not blobs.exists(OTHER, sha256)
    with pytest.raises(Failure) as caught:
        blobs.read(OTHER, sha256)
    assert caught.value.code == "blob_missing"


def test_a_file_is_taken_over(blobs: BlobStore, tmp_path: Path) -> None:
    made = tmp_path / "made.png"
    made.write_bytes(b"p" * 3_000_000)
    sha256 = blobs.put_file(TENANT, made)
    assert not made.exists()
    assert sha256 == hashlib.sha256(b"p" * 3_000_000).hexdigest()
    assert blobs.size_bytes(TENANT, sha256) == 3_000_000
    made.write_bytes(b"p" * 3_000_000)
    assert blobs.put_file(TENANT, made) == sha256
    assert not made.exists()


def test_what_comes_in_pieces_is_whole_or_not_there(blobs: BlobStore) -> None:
    assert blobs.put_pieces(TENANT, iter([b"a ", b"page"])) == blobs.put(TENANT, b"a page")
    assert [path.read_bytes() for path in files_under(blobs.root)] == [b"a page"]

    def break_off() -> Iterator[bytes]:
        yield b"half"
        raise Failure("no more")

    with pytest.raises(Failure, match="no more"):
        blobs.put_pieces(TENANT, break_off())
    assert len(files_under(blobs.root)) == 1


def test_pieces_are_never_together_in_memory(blobs: BlobStore) -> None:
    tracemalloc.start()
    blobs.put_pieces(TENANT, (bytes(2**20) for _ in range(32)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize("read", [BlobStore.read, BlobStore.open, BlobStore.size_bytes])
def test_a_missing_blob_is_a_failure_with_a_code(blobs: BlobStore, read: object) -> None:
    assert not blobs.exists(TENANT, ABSENT)
    with pytest.raises(Failure) as caught:
        read(blobs, TENANT, ABSENT)  # type: ignore[operator]
    assert caught.value.code == "blob_missing"
    assert str(blobs.root) not in caught.value.message


@pytest.mark.parametrize("name", ["../../../etc/passwd", "0" * 63, "A" * 64, "0" * 64 + "\n", ""])
def test_only_a_sha256_names_a_blob(blobs: BlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case"):
        blobs.path(TENANT, name)


def test_a_full_disk_says_so_and_leaves_nothing(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Unavailable) as caught:
        blobs.put(TENANT, b"too much")
    assert caught.value.code == "storage_full"
    assert files_under(blobs.root) == []
