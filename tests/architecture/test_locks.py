"""What the images install is locked by version and hash, and the locks are what pyproject.toml asks for."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
LOCKS = ["control", "cpu", "cuda"]
_LINE = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})")


def read_lock(name: str) -> dict[str, str]:
    """Version by name; every line that is no comment is locked by hash."""
    lines = (ROOT / "deploy" / f"{name}.lock").read_text().splitlines()[1:]
    found = [_LINE.fullmatch(line) for line in lines]
    assert all(found), "a line without a version and a hash"
    locked = {match[1]: match[2] for match in found if match}
    assert len(locked) == len(lines), "a package is there twice"
    return locked


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """What `make lock` runs."""
    spec = importlib.util.spec_from_file_location("deploy_lock", ROOT / "deploy" / "lock.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_is_within_the_ranges_of_the_project(name: str, tool: ModuleType) -> None:
    locked = read_lock(name)
    wanted = [Requirement(text) for text in tool.list_wanted(name)]
    assert len(wanted) > 20
    for requirement in wanted:
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked; run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} has {version}: `make lock`"


@pytest.mark.parametrize("name", LOCKS)
def test_nothing_that_a_locked_package_needs_is_missing(name: str) -> None:
    """As far as the same version is installed here, so that its needs can be read."""
    locked, seen = read_lock(name), 0
    for package, version in locked.items():
        try:
            found = metadata.distribution(package)
        except metadata.PackageNotFoundError:
            continue
        if found.version != version:
            continue
        seen += 1
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                there = locked.get(canonicalize_name(needed.name))
                assert there is not None, f"{package} needs {needed.name}: `make lock`"
                assert needed.specifier.contains(there, prereleases=True), f"{package} needs {needed}, not {there}"
    assert seen > 5


def test_both_locks_of_workers_differ_in_torch_alone() -> None:
    cpu, cuda = read_lock("cpu"), read_lock("cuda")
    assert cpu.pop("torch").partition("+")[0] == cuda.pop("torch")
    assert cpu.items() <= cuda.items()
    assert all(re.match(r"nvidia-|cuda-|triton$", name) for name in cuda.keys() - cpu.keys())


def test_the_control_plane_has_the_versions_of_the_workers() -> None:
    control, cpu = read_lock("control"), read_lock("cpu")
    assert "torch" not in control
    assert not {name for name in control.keys() & cpu.keys() if control[name] != cpu[name]}


def test_an_image_installs_what_is_locked_and_nothing_else(tool: ModuleType) -> None:
    installs = [line for line in DOCKERFILE.splitlines() if "pip install" in line]
    assert len(installs) == 4
    for locked, project in (installs[:2], installs[2:]):
        assert "--require-hashes --no-deps" in locked
        assert "--no-deps --no-index" in project, "the project itself brings nothing along"
    python = tool.find_python()
    for name in LOCKS:
        assert (ROOT / "deploy" / f"{name}.lock").read_text().startswith(f"# Python {python},"), "another Python"
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services["host-gpu"]["build"]["args"]["LOCK"] == "${LOCK:-cuda}"
    assert services["web"]["build"]["target"] == "control"
