"""`make chaos-mix SEED=…`: random faults on a whole service, replayed from a seed; then bench/results/chaos.md."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from batchinfer.settings import PREFIX
from bench.chaos.mix import run_part
from bench.chaos.report import save_part, write_report
from bench.machine import describe_machine

RESULTS = Path(__file__).resolve().parents[1] / "results"


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--seed", default="", help="seed of the first part; drawn and printed where it is left out")
    parser.add_argument("--parts", type=int, default=1, help="parts, with seeds that follow each other")
    parser.add_argument("--jobs", type=int, default=4000, help="submissions of a part")
    parser.add_argument("--faults", type=int, default=26, help="faults of a part")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of chaos.md and of what each part found")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts. Status 1 where a ledger is not clean."""
    options = read_arguments(arguments)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]  # the parts state every setting themselves
    first = int(options.seed) if options.seed else random.SystemRandom().randrange(10**6)
    clean = True
    for seed in range(first, first + options.parts):
        print(f"seed {seed}: {options.jobs} submissions, {options.faults} faults", flush=True)
        folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
        folder.chmod(0o755)  # Postgres may be another user
        part = run_part(folder, seed, options.jobs, options.faults, lambda line: print(line, flush=True))
        clean = clean and part.clean
        print(f"seed {seed}: ledger {'clean' if part.clean else part.problems}, {dict(part.states)}", flush=True)
        save_part(options.out / "chaos", part, describe_machine(1, 0))
        write_report(options.out / "chaos", options.out / "chaos.md")
        if part.clean:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"The logs are kept in {folder}.", flush=True)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
