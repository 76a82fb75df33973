"""What is submitted: texts, pictures and documents, and the options that steer the answer."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A path, or the bytes themselves.
Source: TypeAlias = "str | os.PathLike[str] | bytes"
#: A file's name and its bytes.
Part: TypeAlias = tuple[str, bytes]


class Options(TypedDict, total=False):
    """The fields of a job beside its messages; docs/api.md says what each means. `job_class` is the field `class`."""

    system: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int
    stop: str | Sequence[str]
    logprobs: bool
    response_format: Mapping[str, Any]
    job_class: str
    metadata: Mapping[str, str]
    expires_in: float
    cache: str


def name_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options under the names of the wire; what is None is left out."""
    return {"class" if name == "job_class" else name: value for name, value in options.items() if value is not None}


def make_form(model: str, prompt: str, parts: Sequence[Part], options: Mapping[str, Any]) -> dict[str, Any]:
    """The form of a job with files: those stand before the prompt."""
    fields = {name: _show(value) for name, value in name_fields(options).items()}
    return {"data": {"model": model, "prompt": prompt, **fields}, "files": [("file", part) for part in parts]}


def make_body(model: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a job whose messages hold everything."""
    fields = name_fields(options)
    system = fields.pop("system", None)
    said = [{"role": "system", "content": system}, *messages] if system is not None else list(messages)
    return {"json": {"model": model, "messages": said, **fields}}


def read_parts(files: Source | Sequence[Source] | None) -> list[Part]:
    """One file, several or none, as names and bytes. Raises OSError where one cannot be read."""
    if files is None:
        return []
    sources = [files] if isinstance(files, str | bytes | os.PathLike) else list(files)
    return [_read(number, source) for number, source in enumerate(sources, 1)]


def _read(number: int, source: Source) -> Part:
    return (f"file-{number}", source) if isinstance(source, bytes) else (Path(source).name, Path(source).read_bytes())


def _show(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
