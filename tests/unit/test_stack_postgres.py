"""The embedded Postgres: passwords, paths, what a cut-off run leaves, and how it stops being root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from batchinfer.errors import StartError
from batchinfer.stack.orphans import find_postgres, process_runs
from batchinfer.stack.postgres import EmbeddedPostgres


def _ask(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def test_one_life_of_a_cluster_in_a_deep_home(tmp_path: Path) -> None:
    home = tmp_path / ("a-very-deep-folder-" * 8) / ("and-another-one-" * 8)
    postgres = EmbeddedPostgres(home, fsync=False)
    try:
        url = postgres.start()
        assert _ask(url, "SHOW server_encoding") == "UTF8"
        assert _ask(url, "SHOW unix_socket_directories") == ""
        assert _ask(url, "SHOW listen_addresses") == "127.0.0.1"
        assert "SCRAM" in str(_ask(url, "SELECT rolpassword FROM pg_authid WHERE rolname = 'batchinfer'"))
        assert (home / "pg-password").stat().st_mode & 0o777 == 0o600
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url.replace("batchinfer:", "batchinfer:wrong-"))
        _ask(url, "CREATE TABLE kept AS SELECT 7 AS number")

        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)  # a crash: its own processes may still be there
        assert postgres.child is not None
        assert postgres.child.wait(10)
        (home / "pg" / "postmaster.pid").write_text(f"{os.getpid()}\n")  # a number that is some living process
        postgres.launch()
        postgres.wait_ready()
        assert postgres.url == url
        assert _ask(url, "SELECT number FROM kept") == 7
    finally:
        postgres.stop()
    assert postgres.pid is None
    assert find_postgres(home / "pg") == set()


def test_a_server_that_was_left_behind_is_ended_first(tmp_path: Path) -> None:
    left = EmbeddedPostgres(tmp_path, fsync=False)
    left.start()
    pid = left.pid
    assert pid is not None
    fresh = EmbeddedPostgres(tmp_path, fsync=False)
    try:
        url = fresh.start()
        assert _ask(url, "SELECT 1") == 1
        assert left.pid is None
        assert not process_runs(pid)
    finally:
        fresh.stop()
        left.stop()


def test_a_start_that_was_cut_short_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "pg.new").mkdir()
    (tmp_path / "pg.new" / "PG_VERSION").write_text("18")
    (tmp_path / "pg.new-password").write_text("old")
    postgres = EmbeddedPostgres(tmp_path, fsync=False)
    try:
        assert _ask(postgres.start(), "SELECT 1") == 1
    finally:
        postgres.stop()


#: In a user namespace that has all users and may make no further namespace, as in many containers.
CONFINED = """
import ctypes, pathlib, sys
assert ctypes.CDLL(None).unshare(0x10000000) == 0
print("mapped?", flush=True)
input()
pathlib.Path("/proc/sys/user/max_user_namespaces").write_text("0")
from batchinfer.stack.postgres import EmbeddedPostgres
postgres = EmbeddedPostgres(pathlib.Path(sys.argv[1]), fsync=False)
try:
    postgres.start()
    print(postgres.way, postgres.note, flush=True)
finally:
    postgres.stop()
"""


def _start_confined(home: Path) -> str:
    command = [sys.executable, "-c", CONFINED, str(home)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped?\n"
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{kind}").write_text("0 0 65536")
        out, err = process.communicate("\n", timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes its user")
@pytest.mark.parametrize(("mode", "way"), [(0o755, "nobody"), (0o700, "passing")])
def test_where_namespaces_are_refused_it_runs_as_nobody(
    tmp_path_factory: pytest.TempPathFactory, mode: int, way: str
) -> None:
    home = tmp_path_factory.mktemp("home")
    # All that pytest made, which is one folder more where tests run in several processes.
    folders = [folder for folder in (home, *home.parents) if folder.stat().st_mode & 0o777 == 0o700]
    try:
        for folder in folders:
            folder.chmod(mode)
        said = _start_confined(home)
        assert said.split()[0] == way
        assert "as the user nobody" in said
        assert (home / "pg").stat().st_uid == 65534
        assert home.parent.stat().st_mode & 0o777 == mode
        postgres = EmbeddedPostgres(home, fsync=False)  # where they are not refused, on files of another owner
        try:
            assert _ask(postgres.start(), "SELECT 1") == 1
            assert (home / "pg").stat().st_uid == (0 if postgres.way == "namespace" else 65534)
        finally:
            postgres.stop()
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_data_of_another_release_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "PG_VERSION").write_text("15\n")
    with pytest.raises(StartError, match=r"data of Postgres 15.*--home"):
        EmbeddedPostgres(tmp_path, fsync=False).start()


def test_a_cluster_without_its_password_says_so(tmp_path: Path) -> None:
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "PG_VERSION").write_text("18\n")
    with pytest.raises(StartError, match="pg-password is gone"):
        EmbeddedPostgres(tmp_path, fsync=False).start()
