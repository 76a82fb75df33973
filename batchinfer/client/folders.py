"""The files of a folder that the service reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.media.sniff import DOCUMENTS, HEAD_BYTES, PICTURES, sniff

if TYPE_CHECKING:
    from pathlib import Path


def find_files(folder: Path) -> tuple[dict[Path, str], int]:
    """The pictures and documents of a folder and below, by name, each with its media type as its first bytes tell it;
    and how many others there are. What begins with a dot is passed over. Raises OSError."""
    files: dict[Path, str] = {}
    others = 0
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        with path.open("rb") as file:
            media_type = sniff(file.read(HEAD_BYTES))
        if media_type in PICTURES | DOCUMENTS:
            files[path] = str(media_type)
        else:
            others += 1
    return files, others
