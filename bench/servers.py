"""The peers as they run: each a process group of its own, on a loopback port or behind a pipe."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import httpx

from bench.chat import ChatClient, Texts, to_messages
from bench.models import SHAPES
from bench.recipes import VLLM, XINFERENCE, PeerError
from workers.engine.protocol import Request

#: Seconds until a peer must be ready, and until it must have ended after being asked to.
_START_S, _STOP_S = 600.0, 10.0
_ROWS = 64
#: Xinference runs each picture request in a thread of its own; more at once only fight for the core.
_XINFERENCE_CONCURRENCY = 8
_LOOPBACK = "127.0.0.1"


class Answering(Protocol):
    """Answers requests as fast as it can."""

    def answer(self, requests: Sequence[Request]) -> Texts: ...


@dataclass(frozen=True)
class Peer:
    """A peer that runs, and the group of its processes."""

    asked: Answering
    process: subprocess.Popen[str]

    def answer(self, requests: Sequence[Request]) -> Texts:
        """Raises PeerError and httpx.HTTPError."""
        return self.asked.answer(requests)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop its processes meanwhile: some poll for work and would take time from whoever runs beside them."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)


class PipedPeer:
    """A driver that reads and writes lines of JSON. The first line that it writes says that it is ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._read()

    def answer(self, requests: Sequence[Request]) -> Texts:
        """Raises PeerError where the driver has ended."""
        asked = [{"messages": to_messages(request), "max_tokens": request.max_tokens} for request in requests]
        _pipe(self._process.stdin).write(json.dumps({"requests": asked}) + "\n")
        _pipe(self._process.stdin).flush()
        found = self._read()
        names = [request.id for request in requests]
        return Texts(found["seconds"], dict(zip(names, found["texts"], strict=True)))

    def _read(self) -> dict[str, Any]:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise PeerError("the peer ended before it answered; what it wrote is above.")
        return dict(json.loads(line))


@contextmanager
def open_vllm(model: Path, size: str) -> Iterator[Peer]:
    """vLLM's engine in a process of its own, without HTTP."""
    driver = Path(__file__).with_name("peer_vllm.py")
    # -P: the modules beside the driver must not be taken for those of the standard library.
    command = [str(VLLM.python()), "-P", str(driver), str(model), "--rows", str(_ROWS)]
    with _start([*command, "--context", str(SHAPES[size].context)], VLLM.variables(), piped=True) as process:
        yield Peer(PipedPeer(process), process)


@contextmanager
def open_vllm_server(model: Path, size: str) -> Iterator[Peer]:
    """vLLM's server. Its module is started, as the package's command does not find its own version."""
    port = find_port()
    command = [str(VLLM.python()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "bench", "--host", _LOOPBACK, "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", str(SHAPES[size].context), "--max-num-seqs", str(_ROWS), "--enforce-eager"]
    command += ["--mm-processor-cache-gb", "0", "--limit-mm-per-prompt", '{"image": 1, "video": 0}']
    with _start(command, VLLM.variables()) as process:
        base = _wait_for(process, port, "/health")
        yield Peer(ChatClient(base, "bench", _ROWS, {"ignore_eos": True}), process)


@contextmanager
def open_xinference(model: Path, size: str) -> Iterator[Peer]:
    """Xinference with its transformers engine, the model registered and launched over its API."""
    port = find_port()
    command = [str(XINFERENCE.python().with_name("xinference-local")), "-H", _LOOPBACK, "-p", str(port)]
    # What it registers it keeps in its home and refuses a second time.
    with (
        tempfile.TemporaryDirectory() as home,
        _start([*command, "--log-level", "warning"], {**XINFERENCE.variables(), "XINFERENCE_HOME": home}) as process,
    ):
        base = _wait_for(process, port, "/v1/models")
        with httpx.Client(base_url=base, timeout=_START_S, trust_env=False) as client:
            registration = {"model": json.dumps(describe_for_xinference(model)), "persist": True}
            client.post("/v1/model_registrations/LLM", json=registration).raise_for_status()
            client.post("/v1/models", json=launch_for_xinference(size)).raise_for_status()
        yield Peer(ChatClient(base, "bench", _XINFERENCE_CONCURRENCY, {}), process)


def describe_for_xinference(model: Path) -> dict[str, Any]:
    """What Xinference registers. The architecture named is the mixture-of-experts sister of ours.

    Its transformers engine then loads the folder by `AutoModelForImageTextToText`, which finds the right class; the
    name of the dense one is not in its list.
    """
    config = json.loads((model / "config.json").read_text())
    spec = {
        "model_format": "pytorch",
        "model_size_in_billions": "0_1",
        "quantization": "none",
        "model_id": None,
        "model_hub": "huggingface",
        "model_revision": None,
        "model_uri": f"file://{model.absolute()}",
    }
    return {
        "version": 2,
        "context_length": config["text_config"]["max_position_embeddings"],
        "model_name": f"bench-{model.name}",
        "model_lang": ["en"],
        "model_ability": ["chat", "vision"],
        "model_family": "Qwen3-VL-Instruct",
        "model_description": "random weights",
        "model_specs": [spec],
        "stop_token_ids": [config["text_config"]["eos_token_id"]],
        "stop": ["<|im_end|>"],
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "chat_template": (model / "chat_template.jinja").read_text(),
    }


def launch_for_xinference(size: str) -> dict[str, Any]:
    """How it is launched. Without the two limits its engine would enlarge every picture to 448 pixels a side."""
    return {
        "model_uid": "bench",
        "model_name": f"bench-{size}",
        "model_type": "LLM",
        "model_engine": "transformers",
        "model_format": "pytorch",
        "model_size_in_billions": "0_1",
        "quantization": "none",
        "n_gpu": None,
        "device": "cpu",
        "enable_virtual_env": False,
        "min_pixels": 64 * 64,
        "max_pixels": SHAPES[size].largest,
    }


def find_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _start(command: list[str], variables: dict[str, str], *, piped: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run a command and end it with every process that it started."""
    pipe = subprocess.PIPE if piped else None
    with subprocess.Popen(
        command, env=variables, stdin=pipe, stdout=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """A peer leaves children behind when only its first process is asked; its group is its own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(_STOP_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _wait_for(process: subprocess.Popen[str], port: int, path: str) -> str:
    """The base address once the server answers. Raises PeerError."""
    base, until = f"http://{_LOOPBACK}:{port}", time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise PeerError(f"the peer ended with {process.returncode} before it was ready.")
        try:
            if httpx.get(base + path, timeout=5, trust_env=False).is_success:
                return base
        except httpx.HTTPError:
            pass
        time.sleep(1.0)
    raise PeerError(f"the peer was not ready within {_START_S:.0f} s.")


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise PeerError("the peer was started without a pipe.")
    return stream
