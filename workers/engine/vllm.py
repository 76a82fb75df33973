"""vLLM as an engine: its server as a program of ours, in its own virtual environment, and the remote engine before it.

vLLM pins other versions than ours, so it is never imported here. Its server listens on a loopback port that was free,
wants a key that is made anew each time and told by its environment alone, and dies with this process (guard.py).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workers.engine.dialects import VLLM_VERSION_AT
from workers.engine.folder import check_folder
from workers.engine.owned import OwnedProgram
from workers.engine.protocol import ModelError
from workers.engine.remote import RemoteEngine
from workers.engine.remote_options import RemoteOptions, read_options
from workers.engine.upstream import Served, Upstream, find_served

_log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_LOOK_S = 0.5
#: Flags that are ours to set, or nobody's: code from a model's folder is never run.
_REFUSED = ("--trust-remote-code", "--api-key", "--host", "--port", "--model", "--served-model-name", "--middleware")


@dataclass(frozen=True)
class VllmOptions(RemoteOptions):
    """What the remote engine is told, and how the server is started.

    `python` is that of vLLM's own environment. `tensor_parallel` is over how many devices the model is split,
    `quantization` and `dtype` are vLLM's words (`fp8`), `lora` are adapters (name: folder), of which `adapter` answers.
    `memory_share` is the part of the device that vLLM takes. `arguments` are further flags, `environment` further
    variables. The server must be ready in `start_s` seconds and gone in `stop_s`; what it writes goes to the file
    `log`.
    """

    dialect: str = "vllm"
    priority: bool = True
    python: str = ""
    tensor_parallel: int = 1
    quantization: str | None = None
    dtype: str = "auto"
    lora: dict[str, str] = field(default_factory=dict)
    adapter: str | None = None
    memory_share: float | None = None
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    start_s: float = 900.0
    stop_s: float = 15.0
    log: str | None = None


class VllmEngine(RemoteEngine):
    """Opened by `open_vllm`. When the server ends by itself, the engine is over."""

    name = "vllm"

    def __init__(
        self, options: VllmOptions, upstream: Upstream, served: Served, program: OwnedProgram, *, slots: int
    ) -> None:
        self._program = program
        super().__init__(options, upstream, served, slots=slots)
        program.watch(lambda status: self.lose(f"vLLM's server ended with {status}."))

    def close(self) -> None:
        """Stop at once, and end the server."""
        super().close()
        # Called back by the engine's own thread, nobody may wait: the guard sees to the rest.
        self._program.stop(wait=threading.current_thread() is not self._thread)


def open_vllm(path: Path, *, slots: int, model: str = "", **given: Any) -> VllmEngine:
    """Start the server over a model folder and wait until it serves. `model` is the name that it serves it under.

    Raises ModelError: a folder that cannot be served, bad options, no vLLM there, a server that ends or is not ready in
    time.
    """
    options = read_options(VllmOptions, given)
    options = replace(options, python=_check_options(options))
    folder = check_folder(path)
    name = model or folder.name
    port, key = find_port(), secrets.token_urlsafe(32)
    command = write_command(options, folder.path.resolve(), name, port=port, slots=slots)
    log = Path(options.log) if options.log else None
    program = OwnedProgram(command, environment=_environment(options, key), log=log, stop_s=options.stop_s)
    upstream = Upstream(f"http://{_LOOPBACK}:{port}/v1", options.adapter or name, key)
    try:
        served = _wait_ready(program, upstream, options)
        return VllmEngine(replace(options, revision=folder.revision), upstream, served, program, slots=slots)
    except BaseException:
        program.stop()
        raise


def write_command(options: VllmOptions, folder: Path, name: str, *, port: int, slots: int) -> list[str]:
    """The server's command line. Its module is started: the package's command looks for a name that builds lack."""
    command = [options.python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", name, "--host", _LOOPBACK, "--port", str(port)]
    command += ["--max-num-seqs", str(min(slots, options.concurrency or slots)), "--dtype", options.dtype]
    # Each request brings its own sampling, and it is all that it gets.
    command += ["--generation-config", "vllm", "--enable-prompt-tokens-details"]
    command += ["--limit-mm-per-prompt", json.dumps({"image": options.max_images})]
    # As our own engine holds answers to a schema: no white space between parts, of which a model can write without end.
    command += ["--structured-outputs-config", json.dumps({"backend": "guidance", "disable_any_whitespace": True})]
    if options.priority:
        command += ["--scheduling-policy", "priority"]
    if options.tensor_parallel > 1:
        command += ["--tensor-parallel-size", str(options.tensor_parallel)]
    if options.quantization:
        command += ["--quantization", options.quantization]
    if options.context_tokens:
        command += ["--max-model-len", str(options.context_tokens)]
    if options.memory_share is not None:
        command += ["--gpu-memory-utilization", str(options.memory_share)]
    if options.lora:
        adapters = [f"{adapter}={Path(place).resolve()}" for adapter, place in sorted(options.lora.items())]
        command += ["--enable-lora", "--lora-modules", *adapters]
    return [*command, *options.arguments]


def find_python(python: str) -> str | None:
    """The Python that is meant, a path or a name that the shell would find; None where it is not there."""
    return shutil.which(str(Path(python).expanduser())) if python else None


def find_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _check_options(options: VllmOptions) -> str:
    """The Python to start. Raises ModelError."""
    python = find_python(options.python)
    if python is None:
        raise ModelError(
            "engine_not_installed",
            "The option python must name the Python of an environment that has vLLM, or set BATCHINFER_VLLM_PYTHON.",
        )
    if options.url:
        raise ModelError("engine_options", "The engine vllm starts its own server; leave url out, or take remote.")
    for argument in options.arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in _REFUSED:
            raise ModelError("engine_options", f"{flag} must not be among the arguments of vLLM; leave it out.")
    if options.adapter and options.adapter not in options.lora:
        raise ModelError("engine_options", "The option adapter names one that the option lora does not have.")
    return python


def _environment(options: VllmOptions, key: str) -> dict[str, str]:
    """Ours, without what would lead its Python to our packages, and quiet."""
    ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    return ours | quiet | dict(options.environment) | {"VLLM_API_KEY": key}


def _wait_ready(program: OwnedProgram, upstream: Upstream, options: VllmOptions) -> Served:
    until = time.monotonic() + options.start_s
    where = f"its log is {options.log}" if options.log else "the worker's log has its words"
    while True:
        if program.status is not None:
            _log.error("vLLM's server ended before it served: %s", program.read_tail())
            raise ModelError("vllm_ended", f"vLLM's server ended with {program.status} before it served; {where}.")
        try:
            return find_served(upstream, wait_s=0.0, timeout_s=options.connect_s, version_at=VLLM_VERSION_AT)
        except ModelError as error:
            if error.code != "upstream_unreachable":
                raise
        if time.monotonic() >= until:
            _log.error("vLLM's server is not ready: %s", program.read_tail())
            raise ModelError(
                "vllm_slow", f"vLLM's server was not ready within {options.start_s:.0f} s; raise start_s, or {where}."
            )
        program.wait(_LOOK_S)
