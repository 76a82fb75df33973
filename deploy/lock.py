"""Write the locks of the images: every package that is installed into one, by version and SHA-256 of its wheel.

`python deploy/lock.py`, as `make lock` does, with the Python that the Dockerfile names. pip resolves and downloads
nothing that it need not. `cpu.lock` takes torch from wherever pip's own settings find a CPU build; `cuda.lock` is the
same with torch, and what CUDA needs, from pip's usual index. `control.lock` has no torch, but Flower, in the
versions of the others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCKERFILE = HERE / "Dockerfile"
#: What an image installs of the project, beside what builds it, by lock.
WORKER = ("worker", "guided", "s3", "parquet")
EXTRAS = {"control": ("s3", "parquet", "flower"), "cpu": WORKER, "cuda": WORKER}
Locked = dict[str, tuple[str, str]]


def list_wanted(lock: str) -> list[str]:
    """The requirements of an image as pyproject.toml has them."""
    facts = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    project = facts["project"]
    wanted = [*project["dependencies"], *facts["build-system"]["requires"]]
    return wanted + [one for extra in EXTRAS[lock] for one in project["optional-dependencies"][extra]]


def find_python() -> str:
    """The Python of the image, as 3.11."""
    found = re.search(r"^FROM python:(3\.\d+)-slim AS", DOCKERFILE.read_text(), re.MULTILINE)
    if found is None:
        sys.exit("deploy/Dockerfile names no python:3.x-slim; name one.")
    return found[1]


def resolve(wanted: list[str], *, plain: bool = False, held: Locked | None = None) -> Locked:
    """What pip would install for it: version and SHA-256 by name. `plain` leaves pip's own settings aside; what is
    installed of `held` has its version."""
    environment = dict(os.environ)
    if plain:
        environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    with tempfile.TemporaryDirectory() as folder:
        report, bounds = Path(folder) / "report.json", Path(folder) / "bounds.txt"
        bounds.write_text("".join(f"{name}=={version}\n" for name, (version, _) in (held or {}).items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary", ":all:", "--report", str(report), "--constraint", str(bounds), *wanted]
        subprocess.run(command, check=True, env=environment)
        installs: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return {
        re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower(): (
            one["metadata"]["version"],
            one["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for one in installs
    }


def write(name: str, locked: Locked) -> None:
    """A lock as pip reads it."""
    lines = [f"# Python {find_python()}, Linux on x86-64. Made by `make lock`; not to be edited."]
    lines += [f"{package}=={version} --hash=sha256:{digest}" for package, (version, digest) in sorted(locked.items())]
    (HERE / name).write_text("\n".join(lines) + "\n")


def main() -> None:
    """Resolve each and write all three."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" != find_python():
        sys.exit(f"The image has Python {find_python()}. Run this with it: make lock PYTHON=python{find_python()}")
    cpu = resolve(list_wanted("cpu"))
    version = cpu["torch"][0].partition("+")[0]
    cuda = resolve([f"torch=={version}"], plain=True)
    write("control.lock", resolve(list_wanted("control"), held=cpu))
    write("cpu.lock", cpu)
    write("cuda.lock", {**cuda, **{name: one for name, one in cpu.items() if name != "torch"}})


if __name__ == "__main__":
    main()
