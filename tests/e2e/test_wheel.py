"""The wheel carries all that is needed: installed into a fresh environment, `batchinfer up` runs from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "batchinfer", "workers", "migrations"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that two runs and the working tree do not meet in one build folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh virtual environment with the wheel in it.

    What the wheel depends on is reused from the environment of the tests by a .pth file: installing torch and
    transformers again would fetch hundreds of megabytes to prove nothing about the wheel. The editable install
    of this checkout does not come along: a .pth file inside a folder that a .pth file names is not read.
    """
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*command, wheel], check=True, capture_output=True)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_carries_what_is_not_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "batchinfer/migrations/env.py" in names
    assert [name for name in names if name.startswith("batchinfer/migrations/versions/")]
    assert [name for name in names if name.startswith("batchinfer/admin/templates/") and name.endswith(".html")]
    assert [name for name in names if name.startswith("batchinfer/admin/static/vendor/")]
    assert "workers/models/docreader/config.json" in names
    assert "workers/models/docreader/model.safetensors" in names
    assert not [name for name in names if name.startswith(("tests/", "bench/")) or "__pycache__" in name]


@pytest.mark.long
def test_up_runs_from_the_wheel_with_the_bundled_model(
    installed: Path, tmp_path: Path, start_up: Callable[..., Any], patience: Callable[..., None]
) -> None:
    where = subprocess.run(
        [installed, "-c", "import batchinfer, workers; print(batchinfer.__file__, workers.__file__)"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert str(ROOT) not in where
    up = start_up(tmp_path / "home", "--reload", command=[str(installed.with_name("batchinfer"))]).wait_ready()
    with up.client() as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["docreader"]
        assert client.get("/openapi.json").status_code == 200
        job = up.wait_ended(client, up.submit(client, "hello", max_tokens=8)["id"])
        assert job["status"] == "succeeded", job
        assert job["result"]["engine"] != "fake"

    before = up.pids("web")
    module = Path(where.split()[0])
    os.utime(module, ns=(1, 1))
    patience(lambda: up.pids("web") not in ([], before))
    assert up.stop() == 0
    assert up.left() == set()
