"""Fetch the front-end files at their pinned versions into static/vendor/ and write down what they are.

Run by `make vendor`; needs npm. The files in the repository are the source: neither building nor running
fetches them.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static" / "vendor"
LIST = "VENDOR.txt"


@dataclass(frozen=True)
class Package:
    """One package, its exact version, and the files taken from it: path in the package -> name here."""

    name: str
    version: str
    files: tuple[tuple[str, str], ...]


PACKAGES = (
    Package("htmx.org", "4.0.1", (("dist/htmx.min.js", "htmx.min.js"), ("LICENSE", "htmx.LICENSE.txt"))),
    Package(
        "uplot",
        "1.6.32",
        (
            ("dist/uPlot.iife.min.js", "uplot.min.js"),
            ("dist/uPlot.min.css", "uplot.min.css"),
            ("LICENSE", "uplot.LICENSE.txt"),
        ),
    ),
)


def fetch(package: Package, folder: Path) -> None:
    """Copy the files of a package into `folder`. Raises CalledProcessError where npm cannot fetch it."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed. Install the package npm, then run `make vendor` again.")
    with tempfile.TemporaryDirectory() as scratch:
        wanted = f"{package.name}@{package.version}"
        subprocess.run(
            [npm, "pack", wanted, "--silent", "--pack-destination", scratch],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
            for source, target in package.files:
                member = archive.extractfile(f"package/{source}")
                if member is None:
                    raise SystemExit(f"{wanted} has no file {source}. Correct PACKAGES in {Path(__file__).name}.")
                # No source map is shipped, so the line that names one would only cause a failing request.
                lines = [line for line in member.read().splitlines() if not line.startswith(b"//# sourceMappingURL=")]
                (folder / target).write_bytes(b"\n".join(lines) + b"\n")


def describe(folder: Path) -> str:
    """The text of VENDOR.txt: a line a file with package, version and SHA-256."""
    lines = ["# file  package  version  sha256; written by `make vendor`"]
    for package in PACKAGES:
        for _, name in package.files:
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            lines.append(f"{name}  {package.name}  {package.version}  {digest}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fetch every package and write the list."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        fetch(package, FOLDER)
    text = describe(FOLDER)
    (FOLDER / LIST).write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
