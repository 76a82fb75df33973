"""The home: one `up` at a time, secrets for their owner alone, and what else lies in it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from batchinfer.errors import StartError
from batchinfer.settings import load_settings
from batchinfer.stack.devices import count_cpu_workers, list_devices
from batchinfer.stack.home import Home
from batchinfer.stack.models import find_model
from batchinfer.stack.orphans import MARK, end_orphans, find_marked, process_runs
from batchinfer.stack.ready_file import ReadyFile
from batchinfer.stack.reload import CodeWatch
from batchinfer.stack.running import describe_servers, find_servers, find_service

if TYPE_CHECKING:
    from pathlib import Path


def test_a_home_has_one_holder(tmp_path: Path) -> None:
    first, second = Home(tmp_path / "home"), Home(tmp_path / "home")
    first.open()
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
    with pytest.raises(StartError, match=rf"process {os.getpid()}.*--home"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_a_lock_file_of_a_process_that_is_gone_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "up.lock").write_text("1\n")  # process 1 lives, and holds nothing
    home = Home(tmp_path)
    home.open()
    assert (tmp_path / "up.lock").read_text() == f"{os.getpid()}\n"
    home.close()


def test_a_home_that_cannot_be_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"Not a directory.*--home"):
        Home(tmp_path / "file" / "home").open()


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    home = Home(tmp_path)
    secret = home.make_secret("secret-key")
    assert len(secret) >= 48
    assert home.make_secret("secret-key") == secret
    assert (tmp_path / "secret-key").stat().st_mode & 0o777 == 0o600
    home.forget("secret-key")
    assert home.read_secret("secret-key") is None


def test_orphans_are_known_by_their_mark(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    processes = [
        subprocess.Popen(["/bin/sleep", "1000"], env={**os.environ, MARK: str(home)}) for home in (ours, other)
    ]
    try:
        assert find_marked(ours) == {processes[0].pid}
        assert end_orphans(ours) == 1
        assert not process_runs(processes[0].pid)
        assert process_runs(processes[1].pid)
        assert end_orphans(ours) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _model(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["A"], "model_type": "a"}))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_models_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    home = tmp_path / "home"
    named = _model(home / "models" / "reader")
    assert find_model("reader", home, fake=False).path == named
    elsewhere = _model(tmp_path / "elsewhere")
    found = find_model(str(elsewhere), home, fake=False)
    assert (found.name, found.path) == ("elsewhere", elsewhere)
    assert found.facts == {"architecture": "A", "model_type": "a", "weights_bytes": 7}


def test_a_revision_names_exactly_these_files(tmp_path: Path) -> None:
    contents = [b"one", b"one", b"two"]
    folders = (str(_model(tmp_path / "m", weights)) for weights in contents)
    revisions = [find_model(folder, tmp_path, fake=False).revision for folder in folders]
    assert revisions[0] == revisions[1] != revisions[2]


def test_a_model_that_is_nowhere_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no model nowhere.*models.*--model"):
        find_model("nowhere", tmp_path, fake=False)
    assert find_model("nowhere", tmp_path, fake=True).path is None


def test_devices_are_counted_by_their_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list_devices(tmp_path) == ["cuda:0", "cuda:1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert list_devices(tmp_path) == ["cuda:0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert list_devices(tmp_path) == ["cpu"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.13.0+cpu")
    assert list_devices(tmp_path) == ["cpu"]


def test_cpu_workers() -> None:
    assert count_cpu_workers("3", ["cpu"]) == 3
    assert count_cpu_workers("auto", ["cpu"]) >= 1


@pytest.mark.parametrize(
    ("devices", "cores", "workers"),
    [(["cpu"], 1, 1), (["cpu"], 2, 1), (["cpu"], 64, 2), (["cuda:0"], 16, 2), (["cuda:0"], 3, 1),
     ([f"cuda:{n}" for n in range(8)], 96, 16), ([f"cuda:{n}" for n in range(8)], 16, 4),
     ([f"cuda:{n}" for n in range(8)], 8, 1)],
)  # fmt: skip
def test_cpu_workers_are_as_many_as_devices_need_and_cores_allow(devices: list[str], cores: int, workers: int) -> None:
    assert count_cpu_workers("auto", devices, cores) == workers


def test_the_ready_file_is_there_only_while_ready(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ready.json"
    ready = ReadyFile(path)
    ready.remove()
    ready.update({"model": [1]})
    assert not path.exists()
    ready.write("http://127.0.0.1:1", "bi_key", {"model": [1]})
    ready.update({"model": [2], "redis": []})
    assert json.loads(path.read_text()) == {
        "url": "http://127.0.0.1:1",
        "api_key": "bi_key",
        "pids": {"postgres": [], "redis": [], "web": [], "beat": [], "cpu": [], "model": [2]},
    }
    assert path.stat().st_mode & 0o777 == 0o600
    ready.remove()
    assert not path.exists()
    with pytest.raises(StartError, match="--ready-file"):
        ReadyFile(path.parent).remove()


def test_changed_code_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "watched_package"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr("batchinfer.stack.reload.PACKAGES", ("watched_package",))
    monkeypatch.syspath_prepend(tmp_path)
    watch = CodeWatch()
    assert not watch.changed()
    (package / "new.py").touch()
    assert watch.changed()
    os.utime(package / "new.py", ns=(1, 1))
    assert watch.changed()
    (package / "data.txt").touch()
    assert not watch.changed()


def test_other_verbs_find_the_servers_of_a_running_up(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    with pytest.raises(StartError, match="Start `batchinfer up`"):
        find_servers(settings)
    full = load_settings(home=tmp_path, database_url="postgresql://u:p@h/d", redis_url="redis://h/0")
    Home(tmp_path).keep_secret("servers.json", describe_servers(full, "http://127.0.0.1:1"))
    assert find_service(tmp_path) is None
    Home(tmp_path).keep_secret("api-key", "bi_x")
    service = find_service(tmp_path)
    assert service is not None
    assert (service.url, service.api_key) == ("http://127.0.0.1:1", "bi_x")
    found = find_servers(settings)
    assert found.require_database_url() == full.require_database_url()
    assert found.require_redis_url() == "redis://h/0"
