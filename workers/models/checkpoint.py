"""Checkpoints of a training run: an ordinary model folder, plus the helper heads and a state file."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from workers.models.architecture import new_config
from workers.models.training_pass import TrainingPass

_HELPERS = "helpers.safetensors"
STATE = "state.json"


@dataclass
class TrainingState:
    """How far a run has come; written beside every checkpoint."""

    seed: int
    minutes: float
    batch_size: int
    peak_rate: float
    #: States of the runs this one goes on from, the oldest first; empty if it began from nothing.
    earlier: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    pictures: int = 0
    #: Those of the pictures about which something was asked; the others trained the vision half alone.
    asked: int = 0
    elapsed_minutes: float = 0.0
    finished: bool = False
    #: Moving averages of the three losses.
    tokens_loss: float = 0.0
    slots_loss: float = 0.0
    pointer_loss: float = 0.0


def start(folder: Path | None, seed: int) -> TrainingPass:
    """A training pass from nothing, or warm-started from a folder (with its helper heads if it has them)."""
    torch.manual_seed(seed)
    if folder is None:
        return TrainingPass(Qwen3VLForConditionalGeneration(new_config()))
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    training = TrainingPass(model)
    if (folder / _HELPERS).exists():
        training.load_state_dict(load_file(folder / _HELPERS), strict=False)
    return training


def history(folder: Path | None) -> list[dict[str, Any]]:
    """The runs behind a folder to start from, the oldest first."""
    if folder is None:
        return []
    # A packaged model tells its runs where a checkpoint keeps its state.
    told = next((path for path in (folder / STATE, folder / "training.json") if path.exists()), None)
    if told is None:
        return [{"folder": folder.name}]
    last = json.loads(told.read_text())
    return [*last.pop("earlier", []), last]


def save(training: TrainingPass, state: TrainingState, folder: Path) -> None:
    """Replace the checkpoint in `folder` file by file, so that a reader never meets half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    helpers = {name: value for name, value in training.state_dict().items() if not name.startswith("model.")}
    with tempfile.TemporaryDirectory(dir=folder, prefix="next-") as following:
        training.model.save_pretrained(following)
        save_file(helpers, Path(following) / _HELPERS)
        (Path(following) / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n")
        for path in sorted(Path(following).iterdir()):
            shutil.move(path, folder / path.name)
