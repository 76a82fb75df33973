"""Which model folder `up` serves, and what is said about it before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from batchinfer.errors import StartError
from batchinfer.media.model_folders import name_revision
from batchinfer.media.weight_headers import read_model_facts

BUNDLED = "docreader"


@dataclass(frozen=True)
class ModelFolder:
    """A model and the name by which requests ask for it; no `path` where the fake engine needs none."""

    name: str
    path: Path | None
    revision: str
    facts: dict[str, Any] = field(default_factory=dict)


def find_model(wanted: str | None, home: Path, *, fake: bool) -> ModelFolder:
    """The folder for `--model`: a path, a name under home/models, or the bundled one where nothing is said.

    Raises StartError with what was looked for. The fake engine serves any name, with or without a folder.
    """
    name = Path(wanted).expanduser().absolute().name if wanted else BUNDLED
    for folder in _candidates(wanted, home):
        if (folder / "config.json").is_file():
            return ModelFolder(name, folder, name_revision(folder), read_model_facts(folder))
    if fake:
        return ModelFolder(name, None, "fake")
    if wanted is None:
        raise StartError("The bundled model is not installed. Name a model folder with --model DIR.")
    raise StartError(
        f"There is no model {wanted}: no folder with a config.json, none of that name in {home / 'models'}. "
        "Give --model the path of a Hugging Face folder, or put it there."
    )


def _candidates(wanted: str | None, home: Path) -> list[Path]:
    bundled = _bundled_folder()
    if wanted is None:
        return [home / "models" / BUNDLED, *bundled]
    if "/" in wanted or wanted.startswith((".", "~")):
        return [Path(wanted).expanduser().absolute()]
    named = [home / "models" / wanted, *(folder for folder in bundled if wanted == BUNDLED)]
    return [*named, Path(wanted).absolute()]


def _bundled_folder() -> list[Path]:
    """Beside the data plane's modules, found without importing them."""
    spec = find_spec("workers")
    places = list(spec.submodule_search_locations or []) if spec else []
    return [Path(place) / "models" / BUNDLED for place in places]
