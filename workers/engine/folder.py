"""A model folder, checked before anything is loaded: every finding is a ModelError with a stable code and a remedy."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.engine.protocol import ModelError

#: The longest header that safetensors itself accepts, in bytes.
_LONGEST_HEADER = 100_000_000
#: How much of each weight file goes into the revision, from its beginning and from its end, in bytes.
_SAMPLED = 65_536
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LFS_POINTER = b"version https://git-lfs"
#: Files that decide what a model answers, besides its weights.
_DECIDING = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class ModelFolder:
    """A folder that passed the checks. `revision` changes with configuration, tokenizer and weights."""

    path: Path
    config: dict[str, Any]
    revision: str
    #: The weight files, by name.
    weights: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name


def check_folder(path: Path) -> ModelFolder:
    """Read what is cheap to read and raise ModelError for what could not be loaded, or must not be."""
    if not path.is_dir():
        raise ModelError("model_folder_missing", f"There is no folder for model {path.name}; check the model's path.")
    config = _read_json(path / "config.json", "config_missing")
    _refuse_remote_code(path)
    weights = _find_weights(path)
    headers = {file.name: _read_header(file) for file in weights}
    _check_index(path, headers)
    return ModelFolder(path, config, _hash(path, weights), tuple(weights))


def _read_json(file: Path, missing: str) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(missing, f"The model folder has no {file.name}; copy the whole folder as it was published.")
    try:
        content = json.loads(file.read_text())
    except (ValueError, OSError):
        content = None
    if not isinstance(content, dict):
        raise ModelError("config_unreadable", f"{file.name} is not a JSON object; copy the file again.")
    return content


def _refuse_remote_code(path: Path) -> None:
    for file in sorted(path.glob("*config.json")):
        if _read_json(file, "config_missing").get("auto_map"):
            raise ModelError(
                "remote_code",
                f"{file.name} asks to run Python code from the model folder (auto_map), which is never done; use a "
                "version of the model that transformers supports itself.",
            )


def _find_weights(path: Path) -> list[Path]:
    """The weight files, by name. A missing shard is named."""
    index = path / _INDEX
    if index.is_file():
        shards = sorted(set(_read_weight_map(index).values()))
        for shard in shards:
            if Path(shard).name != shard:
                raise ModelError("index_unreadable", f"{_INDEX} names files outside the folder; copy it again.")
            if not (path / shard).is_file():
                raise ModelError("shard_missing", f"The weight file {shard} is missing; copy it into the model folder.")
        return [path / shard for shard in shards]
    found = sorted(path.glob("*.safetensors"))
    if found:
        return found
    if any(file for pattern in _PICKLES for file in path.glob(pattern)):
        raise ModelError(
            "pickle_weights",
            "The weights are pickle files, which can run code when they are read; convert them to safetensors.",
        )
    raise ModelError("weights_missing", "The model folder has no safetensors file; copy the weights into it.")


def _read_weight_map(index: Path) -> dict[str, str]:
    weight_map = _read_json(index, "index_unreadable").get("weight_map")
    readable = isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())
    if not readable or not weight_map:
        raise ModelError("index_unreadable", f"{index.name} has no weight_map; copy the file again.")
    return dict(weight_map)


def _read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file, after its length was checked against the file's."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if (start + stream.read(64)).startswith(_LFS_POINTER):
            raise ModelError("weights_not_fetched", f"{file.name} is a Git LFS pointer; run `git lfs pull` first.")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise _truncated(file)
        stream.seek(8)
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise _truncated(file) from None
    if expected != size:
        raise _truncated(file)
    return dict(header)


def _truncated(file: Path) -> ModelError:
    return ModelError("weights_truncated", f"The weight file {file.name} is cut short or damaged; copy it again.")


def _check_index(path: Path, headers: dict[str, dict[str, Any]]) -> None:
    if not (path / _INDEX).is_file():
        return
    for tensor, shard in _read_weight_map(path / _INDEX).items():
        if tensor not in headers[shard]:
            raise ModelError("shard_incomplete", f"The weight file {shard} lacks {tensor}; copy it again.")


def _hash(path: Path, weights: list[Path]) -> str:
    """Twelve hexadecimal digits over the deciding files, and the size, beginning and end of each weight file."""
    digest = hashlib.sha256()
    for name in _DECIDING:
        file = path / name
        digest.update(name.encode() + b"\0" + (file.read_bytes() if file.is_file() else b""))
    for file in weights:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLED))
            stream.seek(max(0, size - _SAMPLED))
            digest.update(stream.read(_SAMPLED))
    return digest.hexdigest()[:12]
