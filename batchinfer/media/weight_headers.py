"""What a model folder says of itself, read without torch and without its weights: a few kilobytes of each file."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from batchinfer.domain.memory_facts import make_facts

if TYPE_CHECKING:
    from pathlib import Path

#: The longest header that safetensors itself accepts, in bytes.
_LONGEST_HEADER = 100_000_000


def read_model_facts(folder: Path) -> dict[str, Any]:
    """The facts of a model's row; empty where the folder cannot be read: what is wrong with it, loading says.

    Without a plan's facts where the weights' headers cannot be.
    """
    processor, weights = folder / "preprocessor_config.json", sorted(folder.glob("*.safetensors"))
    try:
        config = _read_object(folder / "config.json")
        size_bytes = sum(file.stat().st_size for file in weights)
    except (OSError, ValueError):
        return {}
    try:
        headers = [read_header(file)[0] for file in weights]
        return make_facts(config, headers, _read_object(processor) if processor.is_file() else {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {**make_facts(config, [], {}, whole=False), "weights_bytes": size_bytes}


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file (dtype, shape and place of each tensor) and the byte where the tensors begin.

    Raises ValueError, OSError.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise ValueError("no header of a safetensors file")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("no header of a safetensors file")  # noqa: TRY004 - content, not a type that was passed
    return header, 8 + length


def _read_object(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text())
    if not isinstance(content, dict):
        raise ValueError("no JSON object")  # noqa: TRY004
    return content
