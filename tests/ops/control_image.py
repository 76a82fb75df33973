"""The packages of the image `control`, made so here: whatever only the image `worker` has cannot be imported."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def read_names(lock: str) -> set[str]:
    """The packages of a lock."""
    lines = (DEPLOY / f"{lock}.lock").read_text().splitlines()
    return {line.partition("==")[0] for line in lines if not line.startswith("#")}


def list_worker_modules() -> set[str]:
    """What the packages are imported as that `cpu.lock` has and `control.lock` has not."""
    missing = read_names("cpu") - read_names("control")
    found = metadata.packages_distributions().items()
    return {module for module, packages in found if {one.lower().replace("_", "-") for one in packages} <= missing}


def block_packages(folder: Path) -> Path:
    """A folder for PYTHONPATH, in which each of them is a module that is not there."""
    folder.mkdir()
    for name in list_worker_modules():
        if name.isidentifier():
            (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('not in this image', name={name!r})\n")
    return folder
