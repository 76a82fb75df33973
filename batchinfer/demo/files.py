"""What is submitted: drawn documents with their truth, or the reader's own files without one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.client import folders
from batchinfer.media.sniff import DOCUMENTS
from batchinfer.samples import write_documents

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DRAWN = 24
_WORDS = {
    "application/pdf": "PDF",
    "image/tiff": "TIFF",
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WebP",
}


@dataclass(frozen=True)
class File:
    """A file to submit. `truth` holds the right fields of each page, in page order, or None."""

    path: Path
    media_type: str
    truth: tuple[dict[str, str], ...] | None = None
    #: Drawn as from a scanner: noisy and a little skewed.
    scanned: bool = False

    @property
    def pages(self) -> int | None:
        """How many pages it has; None until the service has opened it."""
        if self.truth is not None:
            return len(self.truth)
        return None if self.media_type in DOCUMENTS else 1


def draw_files(folder: Path, seed: int) -> list[File]:
    """Two dozen documents from the part of the samples that training never draws from."""
    drawn = write_documents(folder, seed, count=DRAWN)
    return [File(one.path, one.media_type, tuple(page.fields for page in one.pages), one.scanned) for one in drawn]


def find_files(folder: Path) -> tuple[list[File], int]:
    """The files of a folder and below that can be read, by name, and how many others there are."""
    found, others = folders.find_files(folder)
    return [File(path, media_type) for path, media_type in found.items()], others


def describe(files: Sequence[File]) -> str:
    """For example `24 files (9 PDF, 6 PNG, 6 JPEG, 3 TIFF), 54 pages`."""
    kinds = Counter(_WORDS[file.media_type] for file in files)
    text = f"{len(files)} files ({', '.join(f'{count} {word}' for word, count in kinds.most_common())})"
    pages = [file.pages for file in files]
    if None in pages:
        return text
    return f"{text}, {sum(page or 0 for page in pages)} pages"
