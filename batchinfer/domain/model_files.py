"""The files of a model: which are fetched, which are refused before a byte of weights is, and what they say of it.

Weights are safetensors alone: pickles run code when they are read, and Python files are code. Neither is ever fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchinfer.errors import Failure

INDEX = "model.safetensors.index.json"
WEIGHTS = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npz", ".h5", ".msgpack")
#: What a model needs beside its weights, by the end of its name.
_BESIDE = (".json", ".jinja", ".model", ".tiktoken", ".vocab", "vocab.txt", "merges.txt")
_PAPERS = re.compile(r"(LICENSE|LICENCE|NOTICE|README)(\.md|\.txt|\.rst)?", re.IGNORECASE)
_TEMPLATES = "additional_chat_templates/"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@ -]{0,180}")
#: Small files that are read before anything is fetched, and the most bytes of one.
SMALL_BYTES = 32 * 2**20
MOST_FILES = 5000
_LICENCE = re.compile(r"\A---\n(?:.*\n)*?license:\s*['\"]?([A-Za-z0-9._+ -]{1,64}?)['\"]?\s*\n")


@dataclass(frozen=True)
class ModelFile:
    """A file of a revision. What pins its bytes is `sha256`; until that is known `git` (the SHA-1 of a Git blob) or
    `stamp` (a bucket's word for a version). `commit` is where a hub has it."""

    name: str
    size_bytes: int
    sha256: str | None = None
    git: str | None = None
    stamp: str | None = None
    commit: str | None = None

    @property
    def holds_weights(self) -> bool:
        """Whether it is a file of weights."""
        return self.name.endswith(WEIGHTS)

    def as_json(self) -> dict[str, Any]:
        """As it is stored: name, size and sha256, and what else is known."""
        more = {name: value for name in ("git", "stamp", "commit") if (value := getattr(self, name))}
        return {"name": self.name, "size": self.size_bytes, "sha256": self.sha256, **more}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> ModelFile:
        """The file that was stored."""
        known = {name: stored.get(name) for name in ("sha256", "git", "stamp", "commit")}
        return cls(stored["name"], int(stored["size"]), **known)


@dataclass(frozen=True)
class Listing:
    """What a source has: all its files, the hash that pins them, and its licence where it says one."""

    revision: str
    files: tuple[ModelFile, ...]
    licence: str | None = None


def find_small(files: Sequence[ModelFile]) -> list[ModelFile]:
    """The files that are read before anything is fetched: configurations, the index of the shards, the README."""
    wanted = [
        file for file in files
        if "/" not in file.name and (file.name.endswith("config.json") or file.name in {
            INDEX, "chat_template.jinja", "chat_template.json", "README.md"})
    ]  # fmt: skip
    return [file for file in wanted if file.size_bytes <= SMALL_BYTES]


def choose_files(files: Sequence[ModelFile], configs: Mapping[str, Mapping[str, Any]]) -> list[ModelFile]:
    """Which of the files are fetched, by name; `configs` are the JSON objects among the small files.

    Raises Failure for what must not be loaded or never could: pickle_weights, remote_code, weights_missing,
    config_missing, shard_missing, invalid_source.
    """
    named = {file.name: file for file in files}
    if len(named) > MOST_FILES:
        raise Failure(f"The source has over {MOST_FILES:,} files. Name one with a single model.", code="invalid_source")
    if "config.json" not in named:
        raise Failure("The source has no config.json at its top: it is no model folder as transformers writes it.",
                      code="config_missing")  # fmt: skip
    _refuse_remote_code(configs)
    weights = _choose_weights(named, configs.get(INDEX))
    beside = [file for file in files if _is_beside(file.name)]
    return sorted([*weights, *beside], key=lambda file: (file.holds_weights, file.name))


def _refuse_remote_code(configs: Mapping[str, Mapping[str, Any]]) -> None:
    for name in sorted(configs):
        if configs[name].get("auto_map"):
            raise Failure(
                f"{name} asks to run Python code of the model's own (auto_map), which is never done. Use a version of "
                "the model that transformers supports itself.", code="remote_code",
            )  # fmt: skip


def _choose_weights(named: Mapping[str, ModelFile], index: Mapping[str, Any] | None) -> list[ModelFile]:
    if index is not None:
        return _read_shards(named, index)
    found = [file for file in named.values() if file.holds_weights and "/" not in file.name]
    usual = [file for file in found if file.name.startswith("model")]
    if found:
        return usual or found
    if any(name.endswith(_PICKLES) for name in named):
        raise Failure(
            "The weights are pickle files, which can run code when they are read. Choose a model with safetensors, or "
            "convert them.", code="pickle_weights",
        )  # fmt: skip
    raise Failure("The source has no weights: no file that ends with .safetensors.", code="weights_missing")


def _read_shards(named: Mapping[str, ModelFile], index: Mapping[str, Any]) -> list[ModelFile]:
    weight_map = index.get("weight_map")
    shards = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not shards or not all(isinstance(shard, str) for shard in shards):
        raise Failure(f"{INDEX} of the source names no shards. It is damaged.", code="shard_missing")
    for shard in sorted(shards):
        if shard not in named or "/" in shard or not shard.endswith(WEIGHTS):
            raise Failure(f"{INDEX} names a file of weights that the source does not have.", code="shard_missing")
    return [named[shard] for shard in sorted(shards)]


def _is_beside(name: str) -> bool:
    """Whether a file is fetched that holds no weights."""
    folder, slash, last = name.rpartition("/")
    if not _NAME.fullmatch(last) or (slash and f"{folder}/" != _TEMPLATES):
        return False
    if slash:
        return last.endswith(".jinja")
    return bool(_PAPERS.fullmatch(last)) or (last.endswith(_BESIDE) and not last.endswith(WEIGHTS))


def pin_files(files: Sequence[ModelFile]) -> str:
    """A name for exactly these files where their source has none: SHA-256 over names, sizes and whatever pins each, 40
    hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        digest.update(f"{file.name}\0{file.size_bytes}\0{file.sha256 or file.git or file.stamp or ''}\0".encode())
    return digest.hexdigest()[:40]


def with_sha256(files: Sequence[ModelFile], found: Mapping[str, str]) -> list[ModelFile]:
    """The same with the SHA-256 that was read, by name."""
    return [replace(file, sha256=found.get(file.name, file.sha256)) for file in files]


def find_licence(readme: str) -> str | None:
    """The licence that a model card names at its head, or None."""
    found = _LICENCE.search(readme[:20_000].replace("\r\n", "\n"))
    return found[1].strip() if found else None
