"""compose.yaml: what runs by which commands, who gets which secret, what is published, what holds each container."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchinfer.settings import PREFIX, Settings
from batchinfer.stack import gunicorn_settings
from batchinfer.stack.programs import Fleet, list_programs
from tests.ops.page import read_table, words
from workers.bootstep import END_S
from workers.crew import LAST_WRITES_S

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "compose.yaml"
OURS = {"setup", "web", "beat", "cpu", "host-cpu", "host-gpu"}
PROFILES = ("cpu", "gpu", "monitoring")
#: Of the command line's client, which is in the same image.
CLIENT = {"BATCHINFER_URL"}
GIB = 2**30


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text())["services"])


def read_size(text: str) -> float:
    return float(text[:-1]) * {"m": 2**20, "g": GIB}[text[-1]]


def read_default(text: str) -> str:
    """What `${NAME:-default}` is where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_services_are_those_of_the_process_table(services: dict[str, Any]) -> None:
    table = {name: row for row in read_table("process") for name in words(row["service"])}
    assert set(table) == set(services)
    for name, row in table.items():
        image = services[name]["image"].removeprefix("batchinfer-").split("/")[-1].split(":")[0]
        assert row["image"] == image, name
        needed = set(services[name].get("depends_on", {}))
        assert words(row["waits for"]) == needed, name


def test_the_profiles_are_those_of_the_page(services: dict[str, Any]) -> None:
    named = {name for row in read_table("profile") for name in words(row["profile"])}
    assert named == {name for service in services.values() for name in service.get("profiles", [])} == set(PROFILES)
    assert services["host-cpu"]["profiles"] == ["cpu"]
    assert services["host-gpu"]["profiles"] == ["gpu"]


def test_each_process_is_started_as_batchinfer_up_starts_it(services: dict[str, Any], tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, host_name="here")
    fleet = Fleet(model=None, engine="auto", devices=["cpu"], cpu_workers=1)  # type: ignore[arg-type]
    programs = list_programs(settings, fleet, 0)
    argv = {one.role: [word.replace("@here", "@%h") for word in one.argv[3:]] for one in programs}
    web, cpu = services["web"]["command"], services["cpu"]["command"]
    assert services["beat"]["command"] == ["celery", *argv["beat"]]
    assert cpu[: len(argv["cpu"]) + 1] == ["celery", *argv["cpu"]]
    assert cpu[len(argv["cpu"]) + 1 :] == ["--processes", "${CPU_PROCESSES:-2}"]
    assert argv["web"][:2] == ["-c", web[1].removeprefix("--config=")]
    assert argv["web"][-1] == web[-1]
    for name in ("host-cpu", "host-gpu"):
        assert services[name]["command"] == ["batchinfer", "host", "--cpu-workers", "0"]


def test_only_nginx_is_published_and_only_its_two_ports(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"nginx": ["${HTTP_PORT:-80}:80", "${HTTPS_PORT:-443}:443"]}
    assert not any("network_mode" in service for service in services.values())


def test_only_nginx_and_cpu_workers_have_a_way_out(services: dict[str, Any]) -> None:
    assert yaml.safe_load(FILE.read_text())["networks"] == {"inner": {"internal": True}, "outer": {}}
    assert {name for name, service in services.items() if "outer" in service["networks"]} == {"nginx", "cpu"}
    assert all("inner" in service["networks"] for service in services.values())


def test_a_keeper_is_found_by_the_name_that_it_gives(services: dict[str, Any]) -> None:
    for name in ("host-cpu", "host-gpu"):
        assert services[name]["networks"]["inner"]["aliases"] == [services[name]["environment"]["BATCHINFER_HOST_NAME"]]


def test_every_setting_that_it_names_exists_and_is_right(services: dict[str, Any]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT
    for name in OURS:
        named = {key: read_default(str(value)) for key, value in services[name]["environment"].items()}
        assert {key for key in named if key.startswith(PREFIX)} <= known, name
        values = {key.removeprefix(PREFIX).lower(): value for key, value in named.items() if key not in CLIENT}
        settings = Settings(**values)  # a value that is none is refused
        assert str(settings.home) == "/var/lib/batchinfer"
        assert settings.proxies == (1 if name == "web" else 0)


def test_each_secret_goes_where_the_page_says_and_nowhere_else(services: dict[str, Any]) -> None:
    table = {name: words(row["who gets it"]) for row in read_table("in `.env`") for name in words(row["in `.env`"])}
    text = FILE.read_text()
    assert set(re.findall(r"\$\{(\w*(?:PASSWORD|KEY))\b", text)) == set(table)
    assert not re.findall(r"\$\{\w*(?:PASSWORD|KEY)\b(?!:\?)", text), "none has a default"
    for secret, gets in table.items():
        found = {name for name, one in services.items() if f"${{{secret}:?" in json.dumps(one.get("environment", {}))}
        assert found == gets, secret
        assert secret in text[: text.index("\nname:")], "the line that makes .env makes it"


def test_no_secret_stands_on_a_command_line(services: dict[str, Any]) -> None:
    for name, service in services.items():
        shown = json.dumps([service.get("command"), service.get("healthcheck")])
        assert not re.search(r"(?<!\$)\$\{?\w*(PASSWORD|KEY)", shown), name  # $$ is expanded in the container
    assert "requirepass %s" in services["valkey"]["command"][-1]
    assert services["flower"]["environment"]["FLOWER_BASIC_AUTH"].startswith("operator:${FLOWER_PASSWORD:?")
    assert not any("UNAUTHENTICATED" in key for key in services["flower"]["environment"])


def test_every_container_is_held_tight(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"] is True, name
        assert service["pids_limit"] <= 4096, name
        assert "privileged" not in service, name
        assert service["restart"] == ("no" if name == "setup" else "unless-stopped")
        assert ("cap_add" in service) == (name == "postgres")
        assert ("mem_limit" in service) == (name != "postgres"), name


def test_every_service_has_a_health_check_but_the_one_that_ends(services: dict[str, Any]) -> None:
    for name, service in services.items():
        check = service["healthcheck"]
        assert check == {"disable": True} if name == "setup" else check["test"][0] in ("CMD", "CMD-SHELL"), name
    for name, role in {"beat": "beat", "cpu": "cpu", "host-cpu": "host", "host-gpu": "host"}.items():
        assert services[name]["healthcheck"]["test"] == ["CMD", "python", "-m", "batchinfer.stack.alive", role]


def test_what_waits_for_what_can_come_true(services: dict[str, Any]) -> None:
    """A condition holds of its service, and nobody waits for one that only a profile starts."""
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert set(services[needed].get("profiles", [])) <= set(service.get("profiles", [])), name
            ends = services[needed]["restart"] == "no"
            assert ends == (how["condition"] == "service_completed_successfully"), name


def test_a_container_has_the_time_that_its_process_takes_to_end(services: dict[str, Any]) -> None:
    grace_s = {name: int(services[name]["stop_grace_period"][:-1]) for name in ("web", "cpu", "host-cpu", "host-gpu")}
    drain_s = Settings().drain_s
    assert grace_s["web"] > gunicorn_settings.graceful_timeout
    assert grace_s["cpu"] > drain_s + LAST_WRITES_S + END_S
    assert grace_s["host-cpu"] == grace_s["host-gpu"] > drain_s + 10 + LAST_WRITES_S + END_S


def test_the_memory_of_a_cpu_worker_holds_what_its_processes_may_take(services: dict[str, Any]) -> None:
    settings = Settings()
    processes = int(read_default(services["cpu"]["command"][-1]))
    most_mib = max(settings.sandbox_memory_mib, settings.office_memory_mib)
    assert read_size(read_default(services["cpu"]["mem_limit"])) > processes * most_mib * 2**20 + GIB


def test_large_bodies_lie_on_disk_and_not_in_memory(services: dict[str, Any]) -> None:
    for name, place in {"web": "/tmp", "cpu": "/tmp", "nginx": "/var/cache/nginx"}.items():
        volumes = [volume.split(":") for volume in services[name]["volumes"]]
        assert any(target[1] == place and not target[0].startswith((".", "/")) for target in volumes), name
        assert place not in services[name].get("tmpfs", []), name


def test_what_it_mounts_of_this_tree_is_there(services: dict[str, Any]) -> None:
    mounted = [volume.split(":") for name, service in services.items() for volume in service.get("volumes", [])
               if name not in ("prometheus", "grafana")]  # fmt: skip
    ours = [parts for parts in mounted if parts[0].startswith("./")]
    assert len(ours) == 3
    for parts in ours:
        assert (ROOT / parts[0]).exists(), parts[0]
        assert parts[2] == "ro"


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_what_monitoring_mounts_of_this_tree_is_there(services: dict[str, Any], name: str) -> None:
    folder = ROOT / "deploy" / name
    if not folder.exists():
        pytest.skip(f"deploy/{name} is not there")
    ours = [volume.split(":") for volume in services[name]["volumes"] if volume.startswith("./")]
    assert ours
    assert all((ROOT / parts[0]).is_dir() and parts[2] == "ro" for parts in ours)


def find_compose() -> list[str]:
    """The command line of Docker Compose 2. Skips where there is none."""
    docker, alone = shutil.which("docker"), shutil.which("docker-compose")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0:
        return [docker, "compose"]
    if alone and b"v2" in subprocess.run([alone, "version"], capture_output=True).stdout:
        return [alone]
    pytest.skip("docker compose is not installed")


@pytest.mark.parametrize("profiles", [(), ("cpu",), ("gpu",), PROFILES])
def test_docker_compose_reads_it(profiles: tuple[str, ...], services: dict[str, Any]) -> None:
    command = find_compose()
    options = [word for profile in profiles for word in ("--profile", profile)]
    secrets = {name: "x" * 24 for row in read_table("in `.env`") for name in words(row["in `.env`"])}
    whole = [*command, "-f", str(FILE), *options, "config", "--format", "json"]
    run = subprocess.run(whole, env={**os.environ, **secrets}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    started = {name for name, one in services.items() if set(one.get("profiles", [])) <= set(profiles)}
    assert set(json.loads(run.stdout)["services"]) == started
    missing = subprocess.run(whole, env={**os.environ, **secrets, "SECRET_KEY": ""}, capture_output=True, text=True)
    assert missing.returncode != 0
    assert "SECRET_KEY" in missing.stderr
