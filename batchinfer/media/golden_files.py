"""Golden prompts in a file: a line of JSON each, their pictures beside it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fields import decode_json
from batchinfer.domain.goldens import MAX_GOLDENS
from batchinfer.errors import BadRequest
from batchinfer.media.sniff import HEAD_BYTES, PICTURES, sniff

if TYPE_CHECKING:
    from pathlib import Path

_SHA256_CHARS = 64


def read_golden_file(path: Path) -> list[dict[str, Any]]:
    """The lines of a file as `domain.goldens.parse_goldens` takes them: a picture that is named by a path, from the
    file's own folder, becomes a data URL. Raises BadRequest with the number of the line, OSError."""
    return [_with_pictures(path, number, line) for number, line in read_golden_lines(path.read_bytes(), path.name)]


def read_golden_lines(raw: bytes, name: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a text with a line of JSON each, with the numbers of their lines; pictures stay as they are named.

    `name` is what messages call the text. Raises BadRequest with the number of the line.
    """
    lines: list[tuple[int, dict[str, Any]]] = []
    for number, text in enumerate(raw.splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = decode_json(text)
        except BadRequest as error:
            raise _refuse(name, number, error.message) from None
        if not isinstance(line, dict):
            raise _refuse(name, number, "It is no object of JSON.")
        lines.append((number, line))
        if len(lines) > MAX_GOLDENS:
            raise _refuse(name, number, f"There are more than {MAX_GOLDENS} prompts. Choose fewer.")
    if not lines:
        raise BadRequest(f"{name} holds no golden prompt. Write a line of JSON for each.", param="golden")
    return lines


def _with_pictures(path: Path, number: int, line: dict[str, Any]) -> dict[str, Any]:
    for name in ("image", "images"):
        if isinstance(line.get(name), list):
            line[name] = [_read_picture(path, number, one) for one in line[name]]
        elif line.get(name) is not None:
            line[name] = _read_picture(path, number, line[name])
    return line


def _read_picture(path: Path, number: int, value: object) -> object:
    """A data URL of what a path leads to; anything else as it is."""
    if not isinstance(value, str) or value[:5].lower() == "data:" or _is_sha256(value):
        return value
    picture = path.parent / value
    if not picture.is_file():
        raise _refuse(path.name, number, f"There is no picture {value[:200]}.")
    data = picture.read_bytes()
    kind = sniff(data[:HEAD_BYTES])
    if kind not in PICTURES:
        raise _refuse(path.name, number, f"{value[:200]} is not a picture that is read. Take a JPEG, PNG or WebP.")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _is_sha256(text: str) -> bool:
    return len(text) == _SHA256_CHARS and all(char in "0123456789abcdef" for char in text)


def _refuse(name: str, number: int, sentence: str) -> BadRequest:
    return BadRequest(f"{name}, line {number}: {sentence}", param="golden")
