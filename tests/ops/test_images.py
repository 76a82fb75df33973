"""deploy/Dockerfile: two images, each of which installs its lock, and the one without torch starts what it is for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.ops.control_image import block_packages, list_worker_modules, read_names

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
#: What the services of compose.yaml that run the control image start with.
STARTS = """
import importlib, sys
from celery.app.utils import find_app
importlib.import_module("batchinfer.stack.gunicorn_settings")
importlib.import_module("batchinfer.web").create_app()
for name in ("workers.beat", "workers.cpu"):
    assert find_app(name).main
for name in ("batchinfer.cli", "batchinfer.stack.alive", "flower.command", "workers.beat", "workers.workshop"):
    importlib.import_module(name)
assert not {name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:])
print("all of it")
"""


def read_stages() -> dict[str, tuple[str, str]]:
    """What each stage begins from and its instructions, by name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {name: (base, text) for base, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}


def test_the_control_image_has_no_torch_and_nothing_that_comes_with_it() -> None:
    control = read_names("control")
    assert {"torch", "transformers", "numpy", "safetensors", "llguidance"} <= read_names("cpu") - control
    assert not any(name.startswith(("nvidia-", "cuda-", "triton")) for name in control)
    assert "flower" in control


def test_images_are_copies_of_what_was_built_and_run_as_a_user() -> None:
    stages = read_stages()
    assert list(stages)[-1] == "control", "what a build without --target makes"
    for name in ("control", "worker"):
        base, text = stages[name]
        assert base == "base"
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert lines == [f"COPY --from=build-{name} /opt/batchinfer /opt/batchinfer", "USER batchinfer",
                         "VOLUME /var/lib/batchinfer"]  # fmt: skip
        assert "pip uninstall --yes pip" in stages[f"build-{name}"][1]
    assert "COPY deploy/control.lock " in stages["build-control"][1]
    assert "ARG LOCK=cuda" in stages["build-worker"][1]


def test_nothing_goes_to_the_builder_but_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for source in " ".join(copied).replace("${LOCK}", "cuda").split():
        assert any(fnmatch(source, pattern) for pattern in sent), f"{source} is not sent"
        assert (ROOT / source).exists()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(block_packages(tmp_path / "blocked")), str(ROOT)]),
        "BATCHINFER_HOME": str(tmp_path),
        "BATCHINFER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "BATCHINFER_REDIS_URL": "redis://127.0.0.1:1/0",
    }


def test_what_the_control_image_is_for_starts_in_it(environment: dict[str, str]) -> None:
    """CPU workers and beat at work with these packages alone: tests/worker/test_cpu_process.py."""
    blocked = list_worker_modules()
    assert "torch" in blocked
    command = [sys.executable, "-c", STARTS, *blocked]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.stdout == "all of it\n", run.stderr


def test_a_model_needs_the_other_image(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", "import workers.engine.loader, torch"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "not in this image" in run.stderr
