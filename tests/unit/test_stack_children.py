"""Children end with their parent, however it ends, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchinfer.stack.children import Program, explain_end, start_child
from batchinfer.stack.orphans import process_runs

if TYPE_CHECKING:
    from collections.abc import Callable

SLEEP = ["/bin/sleep", "1000"]

#: A parent that starts one child the given way, says its process id and waits to be killed.
PARENT = """
import sys, time
from batchinfer.stack.children import Program, start_child
child = start_child(Program("test", "test", ["/bin/sleep", "1000"], way=sys.argv[1]), None)
print(child.pid, flush=True)
time.sleep(1000)
"""


def wait_until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def _program_of(pid: int) -> str:
    return Path(f"/proc/{pid}/exe").readlink().name


@pytest.mark.parametrize("way", ["self", "namespace", "nobody", "passing"])
def test_a_killed_parent_takes_its_child_along(way: str) -> None:
    if way != "self" and os.geteuid() != 0:
        pytest.skip("only root changes its user")
    with subprocess.Popen([sys.executable, "-c", PARENT, way], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            wait_until(lambda: not process_runs(pid) or _program_of(pid) in {"sleep", "coreutils", "busybox"})
            if way == "namespace" and not process_runs(pid):
                pytest.skip("user namespaces are refused here")
            assert process_runs(pid)
            parent.kill()
            wait_until(lambda: not process_runs(pid))
        finally:
            parent.kill()


def test_a_child_that_ignores_sigterm_is_killed_with_its_group() -> None:
    script = "trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1; done"
    log = Path(os.environ.get("TMPDIR", "/tmp")) / f"group-{os.getpid()}.log"
    child = start_child(Program("test", "test", ["/bin/sh", "-c", script], env=dict(os.environ)), log)
    try:
        wait_until(lambda: log.read_text().strip().isdigit())
        grandchild = int(log.read_text())
        assert process_runs(grandchild)
        child.stop(grace_s=0.3)
        assert child.process.returncode == -signal.SIGKILL
        wait_until(lambda: not process_runs(grandchild))
    finally:
        child.kill()
        log.unlink()


def test_children_are_started_from_the_main_thread_only() -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            start_child(Program("test", "test", SLEEP), None)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


def test_what_is_written_to_standard_input_is_not_on_the_command_line(tmp_path: Path) -> None:
    log = tmp_path / "cat.log"
    child = start_child(Program("test", "test", ["/bin/cat"], stdin="a secret\n"), log)
    assert child.wait(10)
    assert log.read_text() == "a secret\n"
    assert log.stat().st_mode & 0o077 == 0


def test_a_log_explains_a_full_disk(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    log.write_text("x" * 10_000 + "\nFATAL: could not write: No space left on device\n")
    assert "disk is full" in explain_end(log)
    log.write_text("FATAL: something nobody has seen")
    assert explain_end(log) == ""
    assert explain_end(tmp_path / "none.log") == ""
