from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from batchinfer.errors import BadImage, Failure, Unavailable
from batchinfer.media.sandbox import SandboxPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMITS = {"max_pixels": 40_000_000, "max_side": 2048, "max_frames": 1}
DEADLINE_S = 60.0


@pytest.fixture
def open_pool() -> Iterator[Callable[..., SandboxPool]]:
    pools: list[SandboxPool] = []

    def build(processes: int = 1, memory_mib: int = 1536, timeout_s: float = 60, **options: int) -> SandboxPool:
        pools.append(SandboxPool(processes, memory_mib, timeout_s, **options))
        return pools[-1]

    yield build
    for pool in pools:
        pool.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "teal").save(path)
    return path


def normalise(pool: SandboxPool, source: Path) -> dict[str, object]:
    target = source.with_name(f"normal-{threading.get_ident()}")
    return pool.run("normalise", source=str(source), target=str(target), **LIMITS)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_process_runs_before_it_is_needed(open_pool: Callable[..., SandboxPool], picture: Path) -> None:
    pool = open_pool()
    assert pool.pids == []
    normalise(pool, picture)
    assert len(pool.pids) == 1


def test_a_child_has_limits_and_no_secrets(
    open_pool: Callable[..., SandboxPool], picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHINFER_DATABASE_URL", "postgresql://u:secret@nowhere/x")
    pool = open_pool(memory_mib=700)
    normalise(pool, picture)
    proc = Path(f"/proc/{pool.pids[0]}")
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (proc / "limits").read_text().splitlines()}
    assert limits["Max address space"] == [str(700 << 20)] * 2
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == ["64", "64"]
    assert limits["Max processes"] == ["0", "0"]
    assert limits["Max file size"] == [str(256 << 20)] * 2
    assert limits["Max cpu time"][0] != "unlimited"
    assert "NoNewPrivs:\t1" in (proc / "status").read_text()
    assert b"secret" not in (proc / "environ").read_bytes()


def test_a_killed_child_is_replaced(open_pool: Callable[..., SandboxPool], picture: Path) -> None:
    pool = open_pool()
    normalise(pool, picture)
    old = pool.pids[0]
    os.kill(old, signal.SIGKILL)
    assert normalise(pool, picture)["width"] == 64
    assert pool.pids != [old]


def test_a_hanging_child_is_killed_and_the_next_task_works(
    open_pool: Callable[..., SandboxPool], picture: Path
) -> None:
    pool = open_pool(timeout_s=1)
    normalise(pool, picture)
    hung = pool.pids[0]
    os.kill(hung, signal.SIGSTOP)
    with pytest.raises(Failure) as caught:
        normalise(pool, picture)
    assert caught.value.code == "sandbox_timeout"
    assert not is_running(hung)
    assert normalise(pool, picture)["width"] == 64


def test_a_picture_that_needs_too_much_memory(
    open_pool: Callable[..., SandboxPool], picture: Path, tmp_path: Path
) -> None:
    pool = open_pool(memory_mib=150)
    normalise(pool, picture)
    large = tmp_path / "large.png"
    Image.new("RGB", (6000, 6000)).save(large)
    with pytest.raises((BadImage, Failure)) as caught:
        normalise(pool, large)
    assert caught.value.code in {"image_too_large", "sandbox_killed"}
    assert normalise(pool, picture)["width"] == 64


def test_children_are_renewed_after_some_tasks(open_pool: Callable[..., SandboxPool], picture: Path) -> None:
    pool = open_pool(recycle_after=2)
    seen = []
    for _ in range(4):
        normalise(pool, picture)
        seen += pool.pids
    assert len(seen) == len(set(seen)) == 2


def test_many_threads_share_few_children(open_pool: Callable[..., SandboxPool], picture: Path) -> None:
    pool = open_pool(processes=2)
    with ThreadPoolExecutor(8) as threads:
        widths = [answer["width"] for answer in threads.map(lambda _: normalise(pool, picture), range(24))]
    assert widths == [64] * 24
    assert 1 <= len(pool.pids) <= 2


def test_a_child_outlives_the_thread_that_first_needed_it(open_pool: Callable[..., SandboxPool], picture: Path) -> None:
    pool = open_pool()
    thread = threading.Thread(target=normalise, args=(pool, picture))
    thread.start()
    thread.join()
    first = pool.pids
    assert normalise(pool, picture)["width"] == 64
    assert pool.pids == first


def test_close_ends_children_and_waiting_tasks(open_pool: Callable[..., SandboxPool], picture: Path) -> None:
    pool = open_pool()
    normalise(pool, picture)
    pid = pool.pids[0]
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as threads:
        tasks = [threads.submit(normalise, pool, picture) for _ in range(2)]
        pool.close()
        for task in tasks:
            assert isinstance(task.exception(DEADLINE_S), Unavailable)
    assert pool.pids == []
    assert not is_running(pid)
    with pytest.raises(Unavailable):
        normalise(pool, picture)


def test_children_end_with_a_parent_that_is_killed(picture: Path) -> None:
    script = f"""
import sys
from batchinfer.media.sandbox import SandboxPool
pool = SandboxPool(1, 1536, 60)
pool.run("normalise", source={str(picture)!r}, target={str(picture) + ".out"!r}, **{LIMITS!r})
print(pool.pids[0], flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)  # so that the end of its input cannot be what ends it
        assert is_running(child)
        parent.kill()
    wait_until(lambda: not is_running(child))
