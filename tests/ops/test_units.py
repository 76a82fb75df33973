"""deploy/systemd: the units run what compose.yaml runs, within limits that fit the settings, and systemd takes them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchinfer.settings import PREFIX, Settings
from batchinfer.stack import gunicorn_settings
from batchinfer.stack.ports import free_ports
from tests.ops.page import read_table, words
from workers.bootstep import END_S
from workers.crew import LAST_WRITES_S

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "systemd"
HARDENING = FOLDER / "batchinfer-.service.d" / "hardening.conf"
UNITS = ("setup", "web", "beat", "cpu", "host")
PATIENCE_S = 60.0
#: What `systemd-analyze security` makes of a unit that is held by nothing is 9.6.
MOST_EXPOSED = 2.0


def read_unit(path: Path) -> dict[str, list[str]]:
    """Values by key, whatever section they are in; an empty value clears nothing here."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture(scope="module")
def units() -> dict[str, dict[str, list[str]]]:
    return {name: read_unit(FOLDER / f"batchinfer-{name}.service") for name in UNITS}


def read_size(text: str) -> int:
    return int(text[:-1]) * {"M": 2**20, "G": 2**30}[text[-1]]


def test_the_units_are_those_of_the_process_table() -> None:
    named = {name for row in read_table("process") for name in words(row["unit"])}
    assert named == {path.stem for path in FOLDER.glob("*.service")} == {f"batchinfer-{name}" for name in UNITS}


@pytest.mark.parametrize(
    "path", [*FOLDER.glob("*.service"), HARDENING, FOLDER / "batchinfer.target"], ids=lambda p: p.name
)
def test_no_comment_stands_behind_a_value(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert re.fullmatch(r"#.*|\[\w+\]|\w+=[^#]*|", line), line


def test_units_run_what_the_containers_run(units: dict[str, dict[str, list[str]]]) -> None:
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    (web,), (beat,), (cpu,), (host,) = (units[name]["ExecStart"] for name in ("web", "beat", "cpu", "host"))
    place = "/opt/batchinfer/bin/"
    assert web.removeprefix(place).split() == [
        "--bind=127.0.0.1:8000" if word.startswith("--bind=") else word for word in services["web"]["command"]
    ]
    assert beat.removeprefix(place).split() == services["beat"]["command"]
    # A % of systemd's own would be the home folder; how many processes is a variable there.
    assert cpu.replace("%%", "%").removeprefix(place).split() == services["cpu"]["command"][:-2]
    assert "%h" not in cpu.replace("%%h", "")
    assert host.removeprefix(place).split() == services["host-gpu"]["command"]
    setup = " && ".join(line.removeprefix(place) for line in units["setup"]["ExecStart"])
    assert setup == services["setup"]["command"][-1]


def test_every_variable_that_they_set_is_a_setting(units: dict[str, dict[str, list[str]]]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    text = " ".join(path.read_text() for path in [*FOLDER.glob("*.service"), HARDENING, *FOLDER.glob("*.example")])
    named = set(re.findall(rf"\b({PREFIX}\w+)=", text))
    assert named == {PREFIX + name for name in ("HOME", "PROXIES", "DATABASE_URL", "REDIS_URL", "SECRET_KEY")} <= known
    assert units["web"]["Environment"] == [f"{PREFIX}PROXIES=1"]
    secrets = re.findall(r"^\w*(?:KEY|PASSWORD)=(.*)$", (FOLDER / "batchinfer.env.example").read_text(), re.MULTILINE)
    assert secrets == [""], "no secret has a default"


def test_each_is_started_anew_and_after_the_setup(units: dict[str, dict[str, list[str]]]) -> None:
    assert units["setup"]["Type"] == ["oneshot"]
    assert units["setup"]["Restart"] == ["on-failure"]  # a oneshot may have no other
    for name in ("web", "beat", "cpu", "host"):
        unit = units[name]
        assert unit["Restart"] == ["always"]
        assert unit["Wants"] == ["batchinfer-setup.service"]
        assert "batchinfer-setup.service" in unit["After"][0]
        assert unit["KillMode"] == ["mixed"]
    assert all(unit["WantedBy"] == ["batchinfer.target"] for unit in units.values())
    shared = read_unit(HARDENING)
    assert shared["PartOf"] == ["batchinfer.target"]
    assert shared["StartLimitIntervalSec"] == ["0"]


def test_a_unit_has_the_time_that_its_process_takes_to_end(units: dict[str, dict[str, list[str]]]) -> None:
    time_s = {name: int(units[name]["TimeoutStopSec"][0]) for name in ("web", "beat", "cpu", "host")}
    drain_s = Settings().drain_s
    assert time_s["web"] > gunicorn_settings.graceful_timeout
    assert time_s["cpu"] > drain_s + LAST_WRITES_S + END_S
    assert time_s["host"] > drain_s + 10 + LAST_WRITES_S + END_S


def test_limits_let_the_process_do_its_work_and_spare_its_neighbours(units: dict[str, dict[str, list[str]]]) -> None:
    settings = Settings()
    most_mib = max(settings.sandbox_memory_mib, settings.office_memory_mib)
    assert read_size(units["cpu"]["MemoryMax"][0]) > 2 * most_mib * 2**20 + 2**30
    for name, unit in units.items():
        assert "MemoryMax" in unit, name
        assert int(unit["TasksMax"][0]) <= 4096
        assert not {"Nice", "CPUQuota", "CPUSchedulingPolicy"} & set(unit), name
        # Where one of several processes is killed for memory, the others go on.
        assert (unit.get("OOMPolicy") == ["continue"]) == (name in ("cpu", "host"))
        # Models need their devices.
        assert (unit.get("PrivateDevices") == ["yes"]) == (name != "host")
    assert units["host"]["MemoryMax"][0].endswith("%")
    weights = {name: int(units[name]["CPUWeight"][0]) for name in ("web", "host", "cpu")}
    assert weights["web"] > weights["host"] > weights["cpu"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they would lie in a system, with programs that are there. Skips where systemd-analyze is not."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    folder = tmp_path / "units"
    shutil.copytree(FOLDER, folder)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("batchinfer", "celery", "gunicorn"):
        (programs / name).symlink_to("/bin/true")
    for unit in folder.glob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/batchinfer/bin", str(programs)))
    return folder


def analyze(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"}
    return subprocess.run(["systemd-analyze", *words], env=environment, capture_output=True, text=True)


def test_systemd_takes_the_units(installed: Path) -> None:
    files = [str(path) for path in [*installed.glob("*.service"), installed / "batchinfer.target"]]
    run = analyze(installed, "verify", "--man=no", *files)
    assert run.returncode == 0, run.stderr
    assert str(installed) not in run.stderr, run.stderr
    broken = installed / "batchinfer-cpu.service"
    broken.write_text(broken.read_text().replace("TasksMax=512", "TasksMax=512 # threads"))
    again = analyze(installed, "verify", "--man=no", str(broken))
    assert f"{broken}:" in again.stderr, "what is wrong is found"


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_exposed_to_little(installed: Path, name: str) -> None:
    threshold = f"--threshold={int(MOST_EXPOSED * 10)}"
    unit = str(installed / f"batchinfer-{name}.service")
    run = analyze(installed, "security", "--offline=true", threshold, "--no-pager", unit)
    assert run.returncode == 0, run.stdout
    shutil.rmtree(installed / "batchinfer-.service.d")
    assert analyze(installed, "security", "--offline=true", threshold, "--no-pager", unit).returncode != 0


def test_the_user_of_the_units_is_made(tmp_path: Path) -> None:
    program = shutil.which("systemd-sysusers")
    if program is None or os.geteuid() != 0:
        pytest.skip("systemd-sysusers is not installed, or we are not root")
    (tmp_path / "etc").mkdir()
    run = subprocess.run([program, f"--root={tmp_path}", str(FOLDER / "sysusers.conf")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    user = read_unit(HARDENING)["User"][0]
    entry = next(line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith(f"{user}:"))
    assert entry.split(":")[5] == read_unit(HARDENING)["WorkingDirectory"][0]


def test_the_web_server_tells_systemd_that_it_listens(units: dict[str, dict[str, list[str]]], tmp_path: Path) -> None:
    """What `Type=notify` waits for, said by the real gunicorn with the unit's own options."""
    assert units["web"]["Type"] == ["notify"]
    port = next(free_ports())
    options = units["web"]["ExecStart"][0].replace(":8000", f":{port}").split()[1:]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "BATCHINFER_HOME": str(tmp_path),
        "BATCHINFER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "BATCHINFER_REDIS_URL": "redis://127.0.0.1:1/0",
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(environment["NOTIFY_SOCKET"])
        listener.settimeout(PATIENCE_S)
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            assert b"READY=1" in listener.recv(4096)
            socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
