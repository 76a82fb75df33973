"""The limited process that opens users' files: `python -m batchinfer.media.child`, started by `limited.py`.

Reads one JSON line a task (`operation`, `arguments`), answers with one JSON line. It first gives up what a
decoder does not need: memory, open files, large files, new processes, core dumps, new privileges. It holds no
secret: its environment is empty but for the search path.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from batchinfer.errors import BadDocument, BadImage, BatchinferError, Failure, Unavailable
from batchinfer.media.pages import PageReader
from batchinfer.media.pictures import normalise

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_MAX_FILE_BYTES = 256 << 20
_MAX_OPEN_FILES = 64
_PATHS = {"source", "target", "thumbnail"}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Operations = dict[str, Callable[..., dict[str, Any]]]


def main() -> None:
    """Answer lines until the standard input ends, which it does when the parent is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--memory-mib", type=int, required=True)
    parser.add_argument("--cpu-s", type=int, required=True)
    options = parser.parse_args()
    _die_with(options.parent)
    _give_up_rights(options.memory_mib << 20)
    # Nothing that a library prints may reach the answers or the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")  # Pillow warns of oddities in good pictures, such as broken EXIF data
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    reader = PageReader()
    operations: Operations = {
        "normalise": normalise,
        "open_document": reader.open_document,
        "render_page": reader.render_page,
        "read_text": reader.read_text,
    }
    _say(answers, {"ready": True})
    for line in sys.stdin:
        _allow_cpu(options.cpu_s)
        _say(answers, _answer(operations, json.loads(line)))


def _answer(operations: Operations, task: dict[str, Any]) -> dict[str, Any]:
    arguments = {
        name: Path(value) if name in _PATHS and value is not None else value
        for name, value in task["arguments"].items()
    }
    try:
        return {"result": operations[task["operation"]](**arguments)}
    except MemoryError:
        return {"memory": True}
    except (BadImage, BadDocument) as error:
        return _error(error)
    except FileNotFoundError:
        return _error(Failure("A file of this job is no longer in the store. Submit it again.", code="blob_missing"))
    except OSError as error:
        if error.errno in _FULL:
            return _error(Unavailable("The disk that keeps the files is full. Free some space.", code="storage_full"))
        return _error(Failure("A file of this job could not be read or written.", code="storage_error"))
    except Exception:  # the process lives on; this one task failed
        return _error(Failure("The file could not be opened. Save it anew and send it again.", code="sandbox_failed"))


def _error(error: BatchinferError) -> dict[str, Any]:
    return {"error": {"class": type(error).__name__, "code": error.code, "message": error.message}}


def _say(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _die_with(parent: int) -> None:
    """Have the kernel end this process with the thread that started it; the pool keeps that one alive."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def _give_up_rights(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _allow_cpu(seconds: int) -> None:
    """Processor time for one more task: ends a task that runs on when nobody watches any more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
