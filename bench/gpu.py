"""Our engine on a GPU, beside what the GPU can do at most and beside `generate`; from the bare source tree.

    python -m bench.gpu --model 2b|8b|30b-a3b [--peer URL] [--out FILE]

One model a run. Every figure is one line of JSON, written as soon as it is known. Needs torch, transformers,
tokenizers, safetensors and Pillow. `--model tiny --device cpu` shows that everything runs; its figures say nothing.
Ends with 2 where the device that the model needs is not there, with 1 where a part failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import gpu_pages, gpu_steps, machine
from bench.gpu_models import REAL, SHAPES, build_loaded
from bench.gpu_rates import Needs, measure_copy, measure_matmul
from workers.engine.features import UNPROVEN, Features
from workers.engine.verify import Verdict, read_attempt, verify_model

Line = dict[str, Any]
PARTS = ("decode", "prefill", "vision", "pages", "generate", "peer")
_NO_GPU = (
    "{model} is a real-sized model and needs a CUDA device, and there is none here (device {device}). Nothing was "
    "measured. Run it on a machine with an NVIDIA GPU, or see that everything runs with --model tiny --device cpu."
)


class Sheet:
    """Where lines go: to the screen and to a file, each at once."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self.failed = False
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("")

    def write(self, line: Line) -> None:
        """One line."""
        text = json.dumps(line, default=float)
        print(text, flush=True)
        if self._out is not None:
            with self._out.open("a") as file:
                file.write(text + "\n")

    def run(self, what: str, measure: Callable[[], Iterator[Line]]) -> None:
        """The lines of a part; where it fails, why, and the run goes on with the next."""
        began = time.perf_counter()
        try:
            for line in measure():
                self.write(line)
        except Exception as error:
            self.failed = True
            traceback.print_exc()
            self.write({"what": what, "failed": f"{type(error).__name__}: {error}"[:500]})
        self.write({"what": f"{what}: done", "seconds": round(time.perf_counter() - began, 1)})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    given = parse(arguments)
    device = torch.device(given.device)
    if given.model in REAL and (device.type != "cuda" or not torch.cuda.is_available()):
        print(_NO_GPU.format(model=given.model, device=device), file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING)
    if device.type == "cpu":
        # Threads that wait for each other on busy cores are slower than one.
        torch.set_num_threads(1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    sheet = Sheet(given.out)
    sheet.write(describe(given, device, dtype))
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        loaded = build_loaded(given.model, Path(scratch) / "model", device, dtype)
        size = sum(parameter.nbytes for parameter in loaded.model.parameters())
        parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
        seconds = round(time.perf_counter() - began, 1)
        sheet.write({"what": "model", "parameters": parameters, "bytes": size, "made_in_s": seconds})
        rates = {"copy_bytes_per_s": measure_copy(device), "matmul_flops_per_s": measure_matmul(device, dtype)}
        sheet.write({"what": "device at most", **rates})
        floor = gpu_steps.Floor(loaded, Needs(loaded.model), *rates.values())
        run_parts(given, sheet, floor, Path(scratch))
    return int(sheet.failed)


def run_parts(given: argparse.Namespace, sheet: Sheet, floor: gpu_steps.Floor, scratch: Path) -> None:
    """Every part asked for, one after the other."""
    loaded, shape = floor.loaded, SHAPES[given.model]
    jobs = gpu_pages.draw_jobs(shape, scratch, given.pages)
    pages = gpu_pages.prepare_pages(loaded, jobs[0].requests[:4])
    parts: dict[str, Callable[[], Iterator[Line]]] = {
        "vision": lambda: iter([gpu_steps.measure_vision(floor, pages)]),
        "prefill": lambda: iter([gpu_steps.measure_prefill(floor, pages[0])]),
        "decode": lambda: gpu_steps.measure_decode(floor, pages[0], given.steps),
        "pages": lambda: measure_pages(given, floor, jobs),
        "generate": lambda: (line for job in jobs for line in gpu_pages.measure_generate(loaded, job)),
        "peer": lambda: (gpu_pages.measure_peer(given.peer, given.peer_model, job, given.slots or 64) for job in jobs),
    }
    for name, measure in parts.items():
        if name in given.parts and (name != "peer" or given.peer):
            sheet.run(name, measure)


def judge(verdict: Verdict, loaded: Any) -> Verdict:
    """What pages are measured with: slots, also where the self-test would have static batches, as is said then.

    Random weights have many near-ties, and half precision then turns tokens over that a real model would not.
    """
    if verdict.engine == "transformers":
        return verdict
    features = dataclasses.asdict(Features(prefix_reuse=False, prefix_before_pictures=False))
    token_bytes = verdict.token_bytes or Needs(loaded.model).token_bytes
    return dataclasses.replace(verdict, engine="transformers", features=features, token_bytes=token_bytes)


def measure_pages(given: argparse.Namespace, floor: gpu_steps.Floor, jobs: Sequence[gpu_pages.Job]) -> Iterator[Line]:
    """The self-test, then each job, with as many slots as memory holds unless told otherwise."""
    found = verify_model(floor.loaded, attempt=given.attempt)
    yield {"what": "self-test", **found.as_json()}
    verdict = judge(found, floor.loaded)
    if verdict is not found:
        yield {"what": "note", "note": "the self-test refuses slots for this model; pages are measured with them"}
    for job in jobs:
        context = gpu_pages.prepare_pages(floor.loaded, job.requests[:1])[0].total_tokens
        slots = given.slots or min(len(job.requests), 256, gpu_steps.find_most_rows(floor, context))
        yield gpu_pages.measure_ours(floor.loaded, verdict, job, slots, given.preparers)


def describe(given: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Line:
    """The first line: what was run on what."""
    line: Line = {
        "what": "run",
        "model": given.model,
        "device": str(device),
        "dtype": str(dtype),
        "tried": given.attempt,
    }
    line["machine"] = machine.describe_machine(torch.get_num_threads(), 0)
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        line["gpu"] = {"name": facts.name, "memory_gib": round(facts.total_memory / 2**30, 1)}
        line["cuda"] = torch.version.cuda
    else:
        line["note"] = "not on a GPU: the figures say nothing, the run shows that everything works"
    return line


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="The engine on a GPU.")
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peer", metavar="URL", help="an OpenAI-compatible server that has the same model")
    parser.add_argument("--peer-model", metavar="NAME", help="its name there; the first it lists where not given")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the lines there")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pages", type=int, default=256, help="pages of each job")
    parser.add_argument("--steps", type=int, default=32, help="decode steps that are measured")
    parser.add_argument("--slots", type=int, help="slots of our engine; as many as fit, at most 256, where not given")
    parser.add_argument("--preparers", type=int, default=8, help="threads that open and scale pictures")
    parser.add_argument(
        "--try",
        dest="attempt",
        type=read_attempt,
        default=UNPROVEN,
        metavar="FEATURE,...",
        help="features off by default that the self-test tries for the pages; all of them where not given",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
