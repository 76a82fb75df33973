"""Train `docreader`: `python -m workers.models.train --minutes 90 --out DIR [--start DIR]`.

Without `--start` it begins from nothing, with it from the weights of a folder, with fresh warm-up.
The rate falls to its end within `--minutes` of wall-clock time, however fast the machine is.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from workers.models import checkpoint
from workers.models.batches import Batch, Practice
from workers.models.checkpoint import TrainingState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.sharedctypes import Synchronized

    from workers.models.training_pass import Losses, TrainingPass

WARM_UP_STEPS = 100
#: Share of the run after which the rate falls linearly.
DECAY_FROM = 0.45
_LOWEST = 0.01
_SLOT_WEIGHT, _POINTER_WEIGHT = 1.0, 0.5
_MEMORY = 0.98
_SAVE_EVERY_SECONDS = 180
_PRINT_EVERY_STEPS = 50


def rate(peak: float, step: int, progress: float) -> float:
    """Learning rate: a warm-up by steps, then level, then down by share of the time."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    decay = 1.0 if progress < DECAY_FROM else max(_LOWEST, (1 - progress) / (1 - DECAY_FROM))
    return peak * warm * decay


def looking_share(progress: float) -> float:
    """Share of batches that train the eyes alone, which learn slower than the hand: fewer towards the end."""
    if progress < 0.45:
        return 0.7
    return 0.5 if progress < 0.75 else 0.25


def train(training: TrainingPass, state: TrainingState, out: Path) -> None:
    """Run until the minutes are used up."""
    share = multiprocessing.Value("d", looking_share(0.0))
    batches = _batches(state, share)
    optimizer = torch.optim.AdamW(
        training.parameters(), lr=state.peak_rate, weight_decay=0.05, betas=(0.9, 0.98), fused=True
    )
    began = saved = time.monotonic()
    while (progress := (time.monotonic() - began) / (60 * state.minutes)) < 1:
        share.value = looking_share(progress)
        for group in optimizer.param_groups:
            group["lr"] = rate(state.peak_rate, state.steps, progress)
        batch = next(batches)
        losses = _step(training, optimizer, batch)
        _note(state, losses, asked=batch.ids.shape[1] > 0)
        state.elapsed_minutes = (time.monotonic() - began) / 60
        if state.steps % _PRINT_EVERY_STEPS == 0:
            _print_progress(state, optimizer.param_groups[0]["lr"])
        if time.monotonic() - saved > _SAVE_EVERY_SECONDS:
            checkpoint.save(training, state, out)
            saved = time.monotonic()
    state.finished = True
    checkpoint.save(training, state, out)


def _batches(state: TrainingState, share: Synchronized[float]) -> Iterator[Batch]:
    practice = Practice(state.seed, state.batch_size, share)
    return iter(DataLoader(practice, batch_size=None, num_workers=1, prefetch_factor=6))


def _step(training: TrainingPass, optimizer: torch.optim.Optimizer, batch: Batch) -> Losses:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses: Losses = training(batch)
    torch.autograd.backward(losses.total(_SLOT_WEIGHT, _POINTER_WEIGHT))
    torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return losses


def _note(state: TrainingState, losses: Losses, *, asked: bool) -> None:
    keep = min(_MEMORY, state.steps / (state.steps + 1))
    state.slots_loss = keep * state.slots_loss + (1 - keep) * losses.slots.item()
    if asked:
        keep = min(_MEMORY, state.asked / (state.asked + state.batch_size))
        state.tokens_loss = keep * state.tokens_loss + (1 - keep) * losses.tokens.item()
        state.pointer_loss = keep * state.pointer_loss + (1 - keep) * losses.pointer.item()
        state.asked += state.batch_size
    state.steps += 1
    state.pictures += state.batch_size


def _print_progress(state: TrainingState, learning_rate: float) -> None:
    sys.stdout.write(
        f"{state.elapsed_minutes:6.1f} min  step {state.steps:6d}  pictures {state.pictures:7d}"
        f"  tokens {state.tokens_loss:.4f}  slots {state.slots_loss:.4f}  pointer {state.pointer_loss:.4f}"
        f"  rate {learning_rate:.1e}\n"
    )
    sys.stdout.flush()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="wall-clock time, decay included")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--start", type=Path, help="model folder to go on from; without it, from nothing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rate", type=float, default=8e-4, help="highest learning rate")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    earlier = checkpoint.history(args.start)
    state = TrainingState(args.seed, args.minutes, args.batch_size, args.rate, earlier)
    train(checkpoint.start(args.start, args.seed), state, args.out)


if __name__ == "__main__":
    main()
