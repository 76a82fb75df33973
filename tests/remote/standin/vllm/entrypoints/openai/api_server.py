"""Stands in for vLLM's server: the same command line over the fake engine, and the ways in which the real one fails.

STANDIN is a word: ready (the usual), slow, never, dies, orphans (a child in a session of its own that ignores SIGTERM),
deaf (ignores SIGTERM). A request that says [[crash]] ends the process at once, as a lost device does.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.openai_server import FakeServer


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    for flag in (
        "--model",
        "--served-model-name",
        "--host",
        "--dtype",
        "--generation-config",
        "--limit-mm-per-prompt",
        "--structured-outputs-config",
    ):
        parser.add_argument(flag, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    parser.add_argument("--lora-modules", nargs="*")
    given, rest = parser.parse_known_args()
    how, notes = os.environ.get("STANDIN", "ready"), Path(os.environ["STANDIN_NOTES"])
    (notes / "command").write_text("\n".join([*sys.argv[1:], *rest]))
    print("the stand-in starts", flush=True)
    if how == "dies":
        print("no device for the stand-in", flush=True)
        sys.exit(3)
    if how in ("orphans", "deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sleeper = [sys.executable, "-c", "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
        child = subprocess.Popen(sleeper, start_new_session=True)
        (notes / "child").write_text(str(child.pid))
    (notes / "pid").write_text(str(os.getpid()))
    if how == "slow":
        time.sleep(1.5)
    if how == "never":
        time.sleep(600)
    FakeServer(
        model=given.served_model_name,
        key=os.environ["VLLM_API_KEY"],
        port=given.port,
        slots=given.max_num_seqs,
        steps_per_s=400.0,
        allow_faults=True,
    )
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
