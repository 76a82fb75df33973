"""What `engine: auto` does: vLLM asked, started and held to the golden prompts where choice.py wants it, else ours."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workers.engine.choice import Agreement, Choice, VllmFacts, choose_engine
from workers.engine.folder import check_folder
from workers.engine.protocol import Engine, ModelError
from workers.engine.vllm import find_python, open_vllm

_log = logging.getLogger(__name__)

#: Asks the golden prompts of an engine.
Agrees = Callable[[Engine], Agreement]
#: Seconds that vLLM may take to be imported and to list its architectures.
_ASK_S = 180.0
_QUESTION = """
import json, sys
from vllm.version import __version__ as version
from vllm.model_executor.models.registry import ModelRegistry
sys.stdout.write("\\n" + json.dumps([version, sorted(ModelRegistry.get_supported_archs())]) + "\\n")
"""


def open_auto(
    path: Path,
    *,
    device: str,
    slots: int,
    vllm: Mapping[str, Any],
    open_ours: Callable[[], Engine],
    agrees: Agrees | None = None,
) -> Engine:
    """The engine that choice.py takes; its attribute `choice` says which and why. Raises ModelError."""
    facts = ask_vllm(str(vllm.get("python", ""))) if device.startswith("cuda") else VllmFacts()
    architecture = _find_architecture(path) if facts.version is not None else None
    choice = choose_engine(device=device, vllm=facts, architecture=architecture)
    if choice.kind == "vllm":
        engine, choice = _try_vllm(path, slots, vllm, agrees, facts, architecture)
        if engine is not None:
            return _tell(engine, choice)
    return _tell(open_ours(), choice)


def ask_vllm(python: str) -> VllmFacts:
    """What the vLLM of an environment is and knows. Takes seconds: it is imported there, in a process of its own."""
    if not python:
        return VllmFacts()
    found = find_python(python)
    if found is None:
        return VllmFacts(why=f"there is no {python}")
    try:
        asked = subprocess.run(
            [found, "-I", "-c", _QUESTION], capture_output=True, text=True, timeout=_ASK_S, check=False
        )
        version, architectures = json.loads(asked.stdout.strip().rpartition("\n")[2])
        return VllmFacts(str(version), frozenset(map(str, architectures)), why="")
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        _log.warning("vLLM could not be asked", exc_info=True)
        return VllmFacts(why=f"{python} has no vLLM that can be imported")


def _try_vllm(
    path: Path,
    slots: int,
    vllm: Mapping[str, Any],
    agrees: Agrees | None,
    facts: VllmFacts,
    architecture: str | None,
) -> tuple[Engine | None, Choice]:
    """vLLM if it starts and agrees; else nothing of it is left, and the choice says why."""
    try:
        engine = open_vllm(path, slots=slots, **vllm)
    except ModelError as error:
        if error.code == "engine_options":  # the operator's words, and not vLLM, are wrong
            raise
        _log.warning("vLLM could not serve the model: %s", error.message)
        return None, choose_engine(device="cuda", vllm=facts, architecture=architecture, failed=error.code)
    try:
        agreement = agrees(engine) if agrees is not None else None
        choice = choose_engine(device="cuda", vllm=facts, architecture=architecture, agreement=agreement)
    except BaseException:
        engine.close()
        raise
    if choice.kind == "vllm":
        return engine, choice
    engine.close()
    return None, choice


def _find_architecture(path: Path) -> str | None:
    named = check_folder(path).config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else None


def _tell(engine: Engine, choice: Choice) -> Engine:
    _log.info("engine auto: %s", choice.reason)
    engine.choice = dataclasses.asdict(choice)  # type: ignore[attr-defined]  # for whoever records the replica
    return engine
