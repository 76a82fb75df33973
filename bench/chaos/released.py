"""The last release beside today's code: its wheel, kept in the tests, as a folder that processes run from.

`python -m bench.chaos.released COMMIT` renews it at each release. The bundled model's weights are left out: the fake
engine needs none, and they would be ten times the rest.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "chaos" / "released"
WEIGHTS = "workers/models/docreader/model.safetensors"
#: Where a wheel has what lies elsewhere in the repository.
MOVED = {"batchinfer/migrations/": "migrations/"}


@dataclass(frozen=True)
class Release:
    """What the wheel was made of."""

    version: str
    commit: str
    wheel: Path

    def unpack(self, folder: Path) -> Path:
        """Its packages, as `pip install --no-deps --target` would lay them; what they need is that of today."""
        with zipfile.ZipFile(self.wheel) as wheel:
            wheel.extractall(folder)  # noqa: S202 - the one that lies in the tests
        return folder

    def head(self) -> str:
        """The revision of the schema that it was made for."""
        with zipfile.ZipFile(self.wheel) as wheel:
            steps = [Path(name).name for name in wheel.namelist() if name.startswith("batchinfer/migrations/versions/")]
        return max(steps).partition("_")[0]


def find_release() -> Release:
    """The last release."""
    told = json.loads((FOLDER / "release.json").read_text())
    return Release(told["version"], told["commit"], FOLDER / f"batchinfer_vlm-{told['version']}-py3-none-any.whl")


def list_committed(release: Release) -> dict[str, bytes] | None:
    """What each file of the wheel was at its commit, by its name in the wheel; None where the history is not here."""
    with zipfile.ZipFile(release.wheel) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    found = _git("archive", "--format=tar", release.commit)
    if found is None:
        return None
    with tarfile.open(fileobj=io.BytesIO(found)) as archive:
        files = {one.name: archive for one in archive if one.isfile()}
        return {name: _read(archive, _move(name)) for name in names if _move(name) in files}


def _move(name: str) -> str:
    for here, there in MOVED.items():
        if name.startswith(here):
            return there + name.removeprefix(here)
    return name


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    return file.read() if file else b""


def _git(*words: str) -> bytes | None:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def build(commit: str) -> Release:
    """Make the wheel of a commit and keep it instead of the one before. Needs pip and hatchling, and no network."""
    commit = (_git("rev-parse", f"{commit}^{{commit}}") or b"").decode().strip()
    source = _git("archive", "--format=tar", commit)
    if source is None:
        raise SystemExit("This commit is not here. Fetch the whole history first.")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(source)) as archive:
            archive.extractall(folder, filter="data")
        (Path(folder) / WEIGHTS).unlink()
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        subprocess.run([*pip, "--wheel-dir", f"{folder}/made", folder], check=True)
        (made,) = Path(folder, "made").glob("*.whl")
        for before in FOLDER.glob("*.whl"):
            before.unlink()
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / made.name).write_bytes(made.read_bytes())
        told = {"version": made.name.split("-")[1], "commit": commit}
        (FOLDER / "release.json").write_text(json.dumps(told, indent=1) + "\n")
    return find_release()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the commit of the release")
    print(build(parser.parse_args().commit))
