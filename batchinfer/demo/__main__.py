"""`python -m batchinfer.demo`. Exit status: 0 good, 1 not, 2 could not start, 130 interrupted."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from batchinfer.client.progress import open_console
from batchinfer.demo.options import HELP, BadOption, read_options
from batchinfer.demo.run import run
from batchinfer.demo.service import NotStarted
from batchinfer.errors import BatchinferError

if TYPE_CHECKING:
    from types import FrameType


def main() -> int:
    """Run the demo with the options of the environment."""
    console = open_console(sys.stdout)
    if len(sys.argv) > 1:
        console.print(f"The demo takes environment variables:\n{HELP}")
        return 0 if sys.argv[1] in {"-h", "--help"} else 2
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return 0 if run(read_options(os.environ), console) else 1
    except (BadOption, NotStarted, BatchinferError) as error:
        console.print(f"{error}", style="red")
        return 2
    except KeyboardInterrupt:
        console.print("Interrupted; everything was ended.")
        return 130


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
