"""Ask one model the golden prompts, in a process of its own, so that what it holds and takes is its own.

    python -m workers.examine DIR GOLDEN [--dtype auto] [--quantisation none] [--device auto] [--slots 8] ...

The last line of output is one JSON object: see `Sheet`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.domain.goldens import parse_goldens
from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.domain.limits import Limits
from batchinfer.errors import BadRequest, BatchinferError
from batchinfer.media.blobs import BlobStore
from batchinfer.media.golden_files import read_golden_file
from batchinfer.settings import load_settings
from workers.engine.loader import open_engine
from workers.engine.phases import Phases
from workers.engine.protocol import ModelError
from workers.golden import prepare_goldens, run_golden
from workers.pin import pin

if TYPE_CHECKING:
    from batchinfer.domain.goldens import GoldenPrompt
    from batchinfer.settings import Settings
    from workers.golden import GoldenReport

#: Seconds that all answers together may take before the rest counts as wrong.
_PATIENCE_S = 3600.0


@dataclass(frozen=True)
class Sheet:
    """What a model made of the prompts: its `answers` to each, and their `faults`, None where one is right.

    `resident_mib` is what the process held in the end, weights that are mapped from their files among it, and
    `device_mib` the most that a GPU held. Rates are over `seconds`, from the first prompt to the last answer.
    """

    model: str
    revision: str
    engine: str
    dtype: str
    quantisation: str
    device: str
    prompts: int
    right: int
    answers: list[str]
    faults: list[str | None]
    seconds: float
    completion_tokens: int
    pages: int
    resident_mib: int
    peak_resident_mib: int
    device_mib: int | None
    phases: dict[str, float]
    versions: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As plain data, with the figures that follow from the others."""
        seconds = self.seconds or 1e-9
        return asdict(self) | {
            "accuracy": round(self.right / self.prompts, 4),
            "tokens_per_s": round(self.completion_tokens / seconds, 2),
            "pages_per_s": round(self.pages / seconds, 3),
        }


def read_prompts(path: Path, settings: Settings) -> tuple[GoldenPrompt, ...]:
    """The prompts of a file. Raises BatchinferError, OSError."""
    prompts = parse_goldens(read_golden_file(path), Limits.of(settings), path.name)
    if any(not picture.data for prompt in prompts for picture in prompt.pictures):
        raise BadRequest(
            f"A picture in {path.name} is named by its SHA-256, and no service is asked here. Put the pictures beside "
            "the file and name them by their paths.",
            param="golden",
        )
    return prompts


def examine(given: argparse.Namespace) -> Sheet:
    """Load, ask, judge. Raises ModelError, BatchinferError (the file, or a picture in it), ValueError, OSError."""
    settings = load_settings()
    prompts, pinned = read_prompts(given.golden, settings), pin(given.device, given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        nowhere = BlobStore(Path(scratch) / "blobs")
        cases = prepare_goldens(prompts, Path(scratch), settings, blobs=nowhere, tenant_id=DEFAULT_TENANT)
        phases = Phases()
        engine = open_engine(
            given.engine,
            given.folder,
            device=pinned.device,
            slots=given.slots,
            threads=pinned.threads,
            dtype=given.dtype,
            quantisation=given.quantisation,
            phases=phases,
        )
        try:
            report = run_golden(engine, cases, timeout_s=_PATIENCE_S)
            return _fill(given, engine, report, sum(len(case.request.images) for case in cases), phases)
        finally:
            engine.close()


def _fill(given: argparse.Namespace, engine: Any, report: GoldenReport, pages: int, phases: Phases) -> Sheet:
    verdict, stats = getattr(engine, "verdict", None), engine.stats()
    return Sheet(
        model=stats.model,
        revision=stats.revision,
        engine=engine.name,
        dtype=verdict.dtype if verdict else given.dtype,
        quantisation=verdict.quantisation if verdict else given.quantisation,
        device=verdict.device if verdict else given.device,
        prompts=len(report.results),
        right=report.right,
        answers=[result.answer for result in report.results],
        faults=[result.fault for result in report.results],
        seconds=round(report.seconds, 3),
        completion_tokens=sum(result.completion_tokens for result in report.results),
        pages=pages,
        resident_mib=_read_resident_mib(),
        peak_resident_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        device_mib=_read_device_mib(),
        phases=phases.as_json(),
        versions=dict(verdict.versions) if verdict else {},
    )


def _read_resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def _read_device_mib() -> int | None:
    """The most that tensors on the GPU took; None on a CPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated()) // 2**20


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workers.examine", description="Golden prompts to one model.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("golden", type=Path, metavar="GOLDEN")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantisation", default="none")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 where the model could be asked, else 1."""
    given = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        sheet = examine(given)
    except (ModelError, BatchinferError, ValueError, OSError) as error:
        message = getattr(error, "message", None) or str(error)
        sys.stdout.write(json.dumps({"error": {"code": getattr(error, "code", None), "message": message}}) + "\n")
        return 1
    sys.stdout.write(json.dumps(sheet.as_json()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
