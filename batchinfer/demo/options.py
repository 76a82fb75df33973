"""What the reader asked for, by environment variables, as `make demo` passes them on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HELP = """\
CALM=1            leave the model worker alone
KEEP=1            leave the service running afterwards
FILES=DIR         read the PDF, TIFF, JPEG, PNG and WebP files of a folder of yours
MODEL=NAME|DIR    a model folder of yours (Hugging Face layout)
PROMPT=TEXT       what to ask about each page; without it `Extract.`
SEED=NUMBER       draw other sample pages"""


class BadOption(Exception):
    """An option that cannot be followed; the text says why and what is allowed."""


@dataclass(frozen=True)
class Options:
    """The wishes of one run."""

    calm: bool = False
    keep: bool = False
    files: Path | None = None
    model: str | None = None
    prompt: str = "Extract."
    seed: int = 7


def read_options(environment: Mapping[str, str]) -> Options:
    """Raises BadOption."""
    files = Path(environment["FILES"]).expanduser().absolute() if environment.get("FILES") else None
    if files is not None and not files.is_dir():
        raise BadOption(f"FILES={files} is not a folder. Name a folder that holds PDF, TIFF, JPEG, PNG or WebP files.")
    try:
        seed = int(environment.get("SEED") or Options.seed)
    except ValueError:
        raise BadOption(f"SEED={environment['SEED']} is not a whole number.") from None
    return Options(
        calm=_is_on(environment.get("CALM", "")),
        keep=_is_on(environment.get("KEEP", "")),
        files=files,
        model=environment.get("MODEL") or None,
        prompt=environment.get("PROMPT") or Options.prompt,
        seed=seed,
    )


def _is_on(text: str) -> bool:
    return text.strip().lower() not in {"", "0", "no", "false"}
