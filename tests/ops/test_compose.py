"""compose.yaml: what runs, with what commands, and that nothing but the web server on loopback is published."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchinfer.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "compose.yaml"
SECRETS = dict.fromkeys(("POSTGRES_PASSWORD", "VALKEY_PASSWORD", "SECRET_KEY"), "x" * 24)


@pytest.fixture
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text())["services"])


def test_the_processes_of_the_architecture_are_there(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "valkey", "setup", "web", "beat", "cpu", "model"}
    for role in ("beat", "cpu", "model"):
        command = services[role]["command"]
        assert command[:3] == ["celery", "-A", f"workers.{role}"]
        assert (ROOT / "workers" / f"{role}.py").exists()


def test_only_the_web_server_is_published_and_on_loopback_alone(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"web": ["127.0.0.1:8000:8000"]}


def test_no_password_has_a_default_or_stands_on_a_command_line(services: dict[str, Any]) -> None:
    text = FILE.read_text()
    used = set(re.findall(r"\$\{(\w*(?:PASSWORD|KEY))\b", text))
    assert used == set(SECRETS)
    assert not re.findall(r"\$\{\w*(?:PASSWORD|KEY)\b(?!:\?)", text)
    assert "requirepass" in services["valkey"]["command"][-1]
    assert "$$VALKEY_PASSWORD" in services["valkey"]["command"][-1]  # expanded in the container, not here


def test_every_setting_that_it_names_exists(services: dict[str, Any]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    named = {name for service in services.values() for name in service.get("environment", {}) if PREFIX in name}
    assert named
    assert named <= known


def test_docker_reads_it() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    environment = {**os.environ, **SECRETS}
    run = subprocess.run(
        [docker, "compose", "-f", FILE, "config", "--quiet"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
