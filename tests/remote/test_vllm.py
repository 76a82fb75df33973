"""The managed vLLM with a stand-in behind the same command line: started, slow, dead, and gone with its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.remote.conftest import PATIENCE_S, ask, wait_until
from workers.engine.auto import ask_vllm, open_auto
from workers.engine.choice import Agreement
from workers.engine.fake import FakeEngine
from workers.engine.protocol import OVER, ModelError
from workers.engine.vllm import VllmEngine, VllmOptions, open_vllm, write_command

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(__file__).with_name("standin")
DOCREADER = ROOT / "workers" / "models" / "docreader"
OpenVllm = Callable[..., VllmEngine]


def tell(notes: Path, how: str = "ready", **more: Any) -> dict[str, Any]:
    """Options that start the stand-in."""
    paths = os.pathsep.join([str(STANDIN), str(ROOT)])
    environment = {"PYTHONPATH": paths, "STANDIN": how, "STANDIN_NOTES": str(notes)}
    base = {"python": sys.executable, "environment": environment, "log": str(notes / "log"), "start_s": 100.0}
    return base | {"stop_s": 1.0} | more


@pytest.fixture
def start(tmp_path: Path) -> Iterator[OpenVllm]:
    opened: list[VllmEngine] = []

    def build(how: str = "ready", **more: Any) -> VllmEngine:
        opened.append(open_vllm(DOCREADER, slots=4, **tell(tmp_path, how, **more)))
        return opened[-1]

    yield build
    for engine in opened:
        engine.close()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def read_pid(notes: Path, name: str = "pid") -> int:
    wait_until(lambda: (notes / name).exists() and (notes / name).read_text() != "")
    return int((notes / name).read_text())


def test_it_starts_answers_and_ends(start: OpenVllm, tmp_path: Path) -> None:
    engine = start("slow")
    assert engine.name == engine.stats().engine == "vllm"
    assert engine.stats().model == "docreader"
    assert len(engine.stats().revision) > 6
    assert engine.submit(ask()).result(PATIENCE_S).finish == "length"
    pid, key = read_pid(tmp_path), engine._upstream.key
    assert key is not None
    assert key not in (tmp_path / "command").read_text() + (tmp_path / "log").read_text()
    assert "the stand-in starts" in (tmp_path / "log").read_text()
    engine.close()
    engine.close()
    assert not runs(pid)


def test_its_children_end_with_it(start: OpenVllm, tmp_path: Path) -> None:
    engine = start("orphans")
    pid, child = read_pid(tmp_path), read_pid(tmp_path, "child")
    assert runs(pid)
    assert runs(child)
    engine.close()
    assert not runs(pid)
    assert not runs(child)


def test_a_death_while_serving_ends_the_engine(start: OpenVllm, tmp_path: Path) -> None:
    engine = start("orphans")
    child = read_pid(tmp_path, "child")
    long = engine.submit(ask("[[steps:4000]]", max_tokens=4000))
    wait_until(lambda: engine.stats().running == 1)
    crash = engine.submit(ask("[[crash]]"))
    for handle in (long, crash):
        done = handle.result(PATIENCE_S)
        assert (done.finish, done.error is not None and done.error.transient) == ("error", True)
    wait_until(lambda: engine.progress() == OVER)
    wait_until(lambda: not runs(child))


def test_an_idle_engine_notices_the_death_too(start: OpenVllm, tmp_path: Path) -> None:
    engine = start()
    os.kill(read_pid(tmp_path), signal.SIGKILL)
    wait_until(lambda: engine.progress() == OVER)


@pytest.mark.parametrize(
    ("how", "options", "code"),
    [
        ("dies", {}, "vllm_ended"),
        ("never", {"start_s": 1.5}, "vllm_slow"),
        ("ready", {"python": "/nowhere/python"}, "engine_not_installed"),
        ("ready", {"python": ""}, "engine_not_installed"),
        ("ready", {"url": "http://here"}, "engine_options"),
        ("ready", {"arguments": ["--trust_remote_code"]}, "engine_options"),
        ("ready", {"arguments": ["--api-key=x"]}, "engine_options"),
        ("ready", {"adapter": "nobody"}, "engine_options"),
        ("ready", {"tensor_parallel": "two"}, "engine_options"),
    ],
)
def test_what_does_not_start_says_why_and_leaves_nothing(
    tmp_path: Path, how: str, options: dict[str, Any], code: str
) -> None:
    with pytest.raises(ModelError) as refused:
        open_vllm(DOCREADER, slots=4, **tell(tmp_path, how, **options))
    assert refused.value.code == code
    if (tmp_path / "pid").exists():
        assert not runs(read_pid(tmp_path))


def test_a_folder_that_must_not_be_served_starts_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "code.py"}}')
    with pytest.raises(ModelError) as refused:
        open_vllm(folder, slots=4, **tell(tmp_path))
    assert refused.value.code == "remote_code"
    assert not (tmp_path / "command").exists()


def test_the_server_dies_with_a_killed_worker(tmp_path: Path) -> None:
    script = (
        "import json,sys,time;from pathlib import Path;from workers.engine.vllm import open_vllm;"
        "open_vllm(Path(sys.argv[1]),slots=2,**json.loads(sys.argv[2]));print('open',flush=True);time.sleep(600)"
    )
    import json

    command = [sys.executable, "-c", script, str(DOCREADER), json.dumps(tell(tmp_path, "orphans"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip() == "open"
        pid, child = read_pid(tmp_path), read_pid(tmp_path, "child")
        owner.kill()
    wait_until(lambda: not runs(pid) and not runs(child))


def test_what_is_passed_through_is_on_the_command_line() -> None:
    options = VllmOptions(
        python="python", tensor_parallel=2, quantization="fp8", lora={"b": "b", "a": "/a"}, memory_share=0.8,
        context_tokens=4096, arguments=["--enforce-eager"],
    )  # fmt: skip
    line = " ".join(write_command(options, Path("/m"), "name", port=1234, slots=8))
    for part in (
        "--tensor-parallel-size 2", "--quantization fp8", "--enable-lora --lora-modules a=/a b=",
        "--gpu-memory-utilization 0.8", "--max-model-len 4096", "--scheduling-policy priority", "--max-num-seqs 8",
        "--served-model-name name", "--host 127.0.0.1 --port 1234", "--generation-config vllm",
    ):  # fmt: skip
        assert part in line
    assert line.endswith("--enforce-eager")


def write_python(folder: Path, knows: str) -> Path:
    """A Python that says what its vLLM knows, and else is ours."""
    path = folder / "python"
    said = f'["0.32.0", ["{knows}"]]'
    path.write_text(f'#!/bin/sh\nif [ "$1" = -I ]; then echo \'{said}\'; else exec {sys.executable} "$@"; fi\n')
    path.chmod(0o755)
    return path


def architecture() -> str:
    import json

    return str(json.loads((DOCREADER / "config.json").read_text())["architectures"][0])


@pytest.mark.parametrize(
    ("knows", "agreed", "taken"), [("", 3, "vllm"), ("", 2, "fake"), ("Other", 3, "fake"), ("", None, "vllm")]
)
def test_auto_says_which_and_why(tmp_path: Path, knows: str, agreed: int | None, taken: str) -> None:
    python = write_python(tmp_path, knows or architecture())
    agrees = None if agreed is None else (lambda _engine: Agreement(agreed, 3))
    options = tell(tmp_path, python=str(python))
    engine = open_auto(
        DOCREADER, device="cuda:0", slots=2, vllm=options, open_ours=lambda: FakeEngine(slots=2), agrees=agrees
    )
    try:
        assert engine.name == taken
        assert engine.choice["reason"]  # type: ignore[attr-defined]
        assert engine.submit(ask()).result(PATIENCE_S).finish in ("length", "stop")
    finally:
        engine.close()
    if (tmp_path / "pid").exists():
        wait_until(lambda: not runs(read_pid(tmp_path)), 30)


def test_a_python_without_vllm_is_no_vllm() -> None:
    assert ask_vllm("").version is None
    assert ask_vllm("/nowhere/python").why == "there is no /nowhere/python"
    began = time.monotonic()
    assert "no vLLM" in ask_vllm(sys.executable).why
    assert time.monotonic() - began < PATIENCE_S
