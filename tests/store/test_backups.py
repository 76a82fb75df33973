"""A backup is whole or none, and an installation that was wiped comes back from it as it was."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from batchinfer.domain.backups import LIST
from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.domain.keys import parse_tenant
from batchinfer.domain.prompts import JobRequest, Upload
from batchinfer.errors import BackupError
from batchinfer.media import backup_files
from batchinfer.media.blobs import BlobStore
from batchinfer.services import backups, checking, jobs, restoring, tenants, upkeep, work
from batchinfer.services.context import Idempotency, open_context
from batchinfer.store import dumping, migrate, snapshots
from batchinfer.store.restoring import open_restore

ROOT = Path(__file__).resolve().parents[2]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


def ask(*uploads):
    content = [{"type": "text", "text": "Read.\t\\N ü\n"}]
    return JobRequest(
        "reader", JobClass.NORMAL, ({"role": "user", "content": content},), uploads, {}, 9, (), None, {}, None
    )


@pytest.fixture
def lived(bench):
    """An installation with ended, waiting and running work, files, a second tenant and a remembered request."""
    tenants.create_tenant(bench.ctx, bench.caller, parse_tenant({"name": "second"}))
    bench.put(3)
    lease = bench.open()
    claims = bench.claim(lease, 2)
    bench.complete(lease, claims[:1])
    for number in range(2):
        jobs.submit(
            bench.ctx, bench.caller, ask(Upload(data=PNG, filename=f"{number}.png", param="file")),
            Idempotency("POST", "/v1/jobs", f"k{number}", bytes(32)),
        )  # fmt: skip
    return bench


@pytest.fixture
def beside(bench, empty_database_url, tmp_path):
    """Settings of another installation: an empty database, an empty home."""
    return bench.ctx.settings.model_copy(
        update={"home": tmp_path / "other", "database_url": SecretStr(empty_database_url)}
    )


@pytest.fixture
def opened(beside):
    """A context on the other installation."""
    made = open_context(beside, pool_size=2)
    yield made
    made.close()


def contents(url):
    """Every row of every table as text, in order."""
    found = {}
    engine = dumping.open_engine(url, "test")
    with engine.connect() as connection:
        for table in dumping.list_tables(connection):
            rows = connection.exec_driver_sql(f'SELECT CAST(t AS text) FROM "{table.name}" t').scalars()  # noqa: S608
            found[table.name] = sorted(rows)
    return found


def blobs_of(root):
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_was_wiped_comes_back_row_by_row_and_byte_by_byte(lived, beside, opened, tmp_path):
    ctx = lived.ctx
    work.end_lease(ctx, lived.leases[0], "stopped", clean=True)
    made = backups.back_up(ctx.settings, tmp_path / "kept")
    before, files = contents(ctx.settings.require_database_url()), blobs_of(ctx.settings.blobs_dir)
    assert made.manifest.rows == sum(len(rows) for name, rows in before.items() if name != "changes")
    restored = restoring.restore(beside, tmp_path / "kept")
    after = contents(beside.require_database_url())
    for name in before.keys() - {"changes"}:
        assert after[name] == before[name], name
    assert {len(before[name]) > 0 for name in ("jobs", "results", "queue", "blobs", "idempotency_keys", "leases")} == {
        True
    }
    assert blobs_of(beside.blobs_dir) == files
    assert len(files) == restored.files == 1
    assert checking.check_counters(opened) == []
    # The same request again is the same job; a new one runs.
    caller = replace(lived.caller)
    again, replayed = jobs.submit(
        opened,
        caller,
        ask(Upload(data=PNG, filename="0.png", param="file")),
        Idempotency("POST", "/v1/jobs", "k0", bytes(32)),
    )
    assert replayed
    assert again.state is JobState.PREPARING
    new, replayed = jobs.submit(opened, caller, ask())
    assert not replayed
    there = type(lived)(opened, caller)
    lease = there.open("w2")
    claims = there.claim(lease)
    assert new.id in {claim.id for claim in claims}
    there.complete(lease, claims)
    assert jobs.get_job(opened, caller, new.id).state is JobState.SUCCEEDED


def test_what_was_being_worked_on_waits_again_and_no_try_is_counted(lived, beside, opened, tmp_path):
    running = [row for row in lived.rows("queue") if row.state == "running"]
    assert running
    backups.back_up(lived.ctx.settings, tmp_path)
    assert restoring.restore(beside, tmp_path).requeued == len(running)
    there = type(lived)(opened, lived.caller)
    assert {row.state for row in there.rows("queue")} == {"queued"}
    assert all(row.dead for row in there.rows("leases"))
    upkeep.tick(opened)
    rows = {row.id: row for row in there.rows("queue")}
    for row in running:
        assert (rows[row.id].crashes, rows[row.id].released) == (row.crashes, row.released + 1)
    assert checking.check_counters(opened) == []


def test_one_moment_is_kept_while_everybody_goes_on(lived, beside, opened, tmp_path, monkeypatch):
    """Jobs end between two tables; nothing of it is in the dump, and the warning of old snapshots has its name."""
    seen = []
    copy = dumping.Dump.copy

    def late(self, table):
        if table.name == "jobs":
            lived.complete(lived.open("late"), lived.claim(lived.leases[-1]))
            lived.put(4)
            with lived.ctx.db.transaction() as tx:
                seen.extend(held.name for held in snapshots.list_snapshots(tx))
        return copy(self, table)

    before = contents(lived.ctx.settings.require_database_url())
    monkeypatch.setattr(dumping.Dump, "copy", late)
    made = backups.back_up(lived.ctx.settings, tmp_path)
    rows = {table.name: table.file.rows for table in made.manifest.tables}
    assert {name: rows[name] for name in ("jobs", "queue", "results")} == {
        name: len(before[name]) for name in ("jobs", "queue", "results")
    }
    assert dumping.APPLICATION in seen
    restoring.restore(beside, tmp_path)
    assert checking.check_counters(opened) == []


def test_a_second_backup_copies_no_file_again_and_keep_removes_the_older(lived, tmp_path):
    settings = lived.ctx.settings
    first = backups.back_up(settings, tmp_path)
    (blob,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    number = blob.stat().st_ino
    lived.ctx.blobs.put(DEFAULT_TENANT, b"a file that no row names")
    second = backups.back_up(settings, tmp_path)
    assert blob.stat().st_ino == number
    stray = BlobStore(tmp_path / "blobs").put(DEFAULT_TENANT, b"of an older backup")
    third = backups.back_up(settings, tmp_path, keep=1)
    assert third.removed == 2
    assert backup_files.list_backups(tmp_path) == [third.place]
    assert not first.place.exists()
    assert not second.place.exists()
    assert not BlobStore(tmp_path / "blobs").exists(DEFAULT_TENANT, stray)
    assert backups.check(tmp_path).place == third.place


def test_a_file_deleted_meanwhile_is_no_fault_and_a_lost_one_is_named(lived, beside, tmp_path):
    ctx = lived.ctx
    (row,) = lived.rows("blobs")
    path = ctx.blobs.path(row.tenant_id, row.sha256)
    path.write_bytes(b"another's bytes")
    made = backups.back_up(ctx.settings, tmp_path)
    assert made.manifest.blobs.lost == (f"{row.tenant_id.hex}/{row.sha256}",)
    path.unlink()
    list_known, backups._list_known = backups._list_known, lambda *_: set()  # as where its row has gone meanwhile
    try:
        made = backups.back_up(ctx.settings, tmp_path)
    finally:
        backups._list_known = list_known
    assert (len(made.manifest.blobs.removed), made.manifest.blobs.lost) == (1, ())
    assert restoring.restore(beside, made.place).files == 0


def test_files_that_are_only_named_must_be_there_or_be_given_up(lived, beside, tmp_path):
    made = backups.back_up(lived.ctx.settings, tmp_path, blobs=LIST)
    assert not (tmp_path / "blobs").exists()
    with pytest.raises(BackupError) as refused:
        restoring.restore(beside, tmp_path)
    assert refused.value.code == "files_missing"
    assert contents(beside.require_database_url()) == {}
    assert restoring.restore(beside, tmp_path, accept_missing=True).manifest == made.manifest


def test_secrets_are_in_no_file_but_those_of_webhooks(lived, tmp_path):
    settings = lived.ctx.settings.model_copy(update={"s3_endpoint_url": "https://me:hush@store.example.org/x"})
    made = backups.back_up(settings, tmp_path)
    found = json.loads((made.place / "settings.json").read_text())
    assert found["settings"]["BATCHINFER_S3_ENDPOINT_URL"] == "https://store.example.org/x"
    assert found["secrets_to_keep_apart"] == [
        "BATCHINFER_DATABASE_URL", "BATCHINFER_REDIS_URL", "BATCHINFER_SECRET_KEY",
    ]  # fmt: skip
    every = b"".join(
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in made.place.iterdir()
    )
    for secret in (settings.require_database_url(), settings.secret_key.get_secret_value(), "hush"):
        assert secret.encode() not in every
    modes = {path.stat().st_mode & 0o077 for path in (made.place, *made.place.iterdir())}
    assert modes == {0}


def test_a_database_with_rows_is_not_overwritten(lived, tmp_path):
    backups.back_up(lived.ctx.settings, tmp_path)
    before = contents(lived.ctx.settings.require_database_url())
    with pytest.raises(BackupError) as refused:
        restoring.restore(lived.ctx.settings, tmp_path)
    assert refused.value.code == "database_not_empty"
    assert contents(lived.ctx.settings.require_database_url()) == before


def test_an_empty_schema_is_filled(lived, beside, tmp_path):
    migrate.upgrade(beside.require_database_url())
    backups.back_up(lived.ctx.settings, tmp_path)
    restoring.restore(beside, tmp_path)
    assert len(contents(beside.require_database_url())["jobs"]) == len(lived.rows("jobs"))


@pytest.mark.parametrize("name", ["jobs.gz", "settings.json", "blobs.tsv.gz", "manifest.json", "blobs"])
def test_a_damaged_file_is_refused_by_its_name_before_anything_is_touched(lived, beside, tmp_path, name):
    made = backups.back_up(lived.ctx.settings, tmp_path)
    path = made.place / name
    if name == "blobs":
        (path,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(BackupError) as refused:
        restoring.restore(beside, tmp_path)
    assert refused.value.code == "backup_damaged"
    assert path.name in refused.value.message
    assert contents(beside.require_database_url()) == {}
    assert not beside.blobs_dir.exists()


@pytest.mark.parametrize(("field", "value"), [("revision", "9999"), ("format", 2)])
def test_a_newer_backup_is_refused(lived, beside, tmp_path, field, value):
    made = backups.back_up(lived.ctx.settings, tmp_path)
    path = made.place / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(BackupError) as refused:
        restoring.restore(beside, tmp_path)
    assert refused.value.code == "backup_newer"
    assert contents(beside.require_database_url()) == {}


def test_a_restore_that_fails_half_way_leaves_nothing(lived, beside, tmp_path, monkeypatch):
    made = backups.back_up(lived.ctx.settings, tmp_path)
    path = made.place / "manifest.json"
    found = json.loads(path.read_text())
    next(table for table in found["tables"] if table["name"] == "queue")["file"]["rows"] += 1
    path.write_text(json.dumps(found))
    with pytest.raises(BackupError):
        restoring.restore(beside, tmp_path)
    assert contents(beside.require_database_url()) == {}
    assert blobs_of(beside.blobs_dir) == {}


def test_a_disk_without_room_is_told_before_anything_is_touched(lived, beside, tmp_path, monkeypatch):
    backups.back_up(lived.ctx.settings, tmp_path / "kept")
    monkeypatch.setattr(backup_files, "measure_free", lambda _: 10)
    with pytest.raises(BackupError) as refused:
        restoring.restore(beside, tmp_path / "kept")
    assert refused.value.code == "restore_no_room"
    assert contents(beside.require_database_url()) == {}
    with pytest.raises(BackupError) as refused:
        backups.back_up(lived.ctx.settings, tmp_path / "another")
    assert refused.value.code == "backup_disk_full"
    assert list((tmp_path / "another").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_backup_disk_that_fills_leaves_no_backup(lived, small_disk):
    first = backups.back_up(lived.ctx.settings, small_disk)
    lived.run(
        "UPDATE jobs SET metadata = (SELECT jsonb_object_agg(n, gen_random_uuid()) FROM generate_series(1, 20000) n)"
    )
    with pytest.raises(BackupError) as refused:
        backups.back_up(lived.ctx.settings, small_disk)
    assert refused.value.code == "backup_disk_full"
    assert {path.name for path in small_disk.iterdir()} == {"blobs", first.place.name}
    assert backups.check(small_disk).place == first.place


def test_a_write_that_finds_no_room_leaves_no_backup(lived, tmp_path, monkeypatch):
    """The same at the edge, where no disk can be mounted."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(backup_files._Counted, "write", full)
    with pytest.raises(BackupError) as refused:
        backups.back_up(lived.ctx.settings, tmp_path / "kept")
    assert refused.value.code == "backup_disk_full"
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_snapshot_is_held_no_longer_than_allowed(lived, tmp_path):
    with pytest.raises(BackupError) as refused:
        backups.back_up(lived.ctx.settings, tmp_path / "kept", max_minutes=1e-9)
    assert refused.value.code == "backup_too_long"
    assert list((tmp_path / "kept").iterdir()) == []


def test_two_at_once_in_one_folder_are_refused(lived, tmp_path):
    with backup_files.open_folder(tmp_path, taking=True), pytest.raises(BackupError) as refused:
        backups.back_up(lived.ctx.settings, tmp_path)
    assert refused.value.code == "backup_in_use"


#: A process that stops for ever after so many tables, to be killed there.
_STOPS = """
import sys, time
from pathlib import Path
from batchinfer.services import backups, restoring
from batchinfer.settings import load_settings
from batchinfer.store import dumping
from batchinfer.store.restoring import Restore
def stop(self, *args, seen=[]):
    seen.append(1)
    if len(seen) == 12:
        print("half", flush=True)
        time.sleep(600)
    return real(self, *args)
verb, folder, home = sys.argv[1:]
settings = load_settings(home=home)
if verb == "backup":
    real, dumping.Dump.copy = dumping.Dump.copy, stop
    backups.back_up(settings, Path(folder))
else:
    real, Restore.fill = Restore.fill, stop
    restoring.restore(settings, Path(folder))
"""


def kill_half_way(verb, folder, settings):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BATCHINFER_DATABASE_URL": settings.require_database_url(),
    }
    command = [sys.executable, "-c", _STOPS, verb, str(folder), str(settings.home)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)


def test_a_backup_that_is_killed_is_no_backup(lived, tmp_path):
    kill_half_way("backup", tmp_path, lived.ctx.settings)
    assert [path.name[:5] for path in tmp_path.iterdir() if path.name.startswith(".")] == [".new-"]
    with pytest.raises(BackupError) as refused:
        backups.check(tmp_path)
    assert refused.value.code == "no_backup"
    made = backups.back_up(lived.ctx.settings, tmp_path)
    assert not list(tmp_path.glob(".new-*"))
    assert backups.check(tmp_path).place == made.place


def test_a_restore_that_is_killed_leaves_the_database_empty_and_may_be_repeated(lived, beside, tmp_path):
    backups.back_up(lived.ctx.settings, tmp_path)
    kill_half_way("restore", tmp_path, beside)
    assert contents(beside.require_database_url()) == {}
    deadline = time.monotonic() + 60
    with psycopg.connect(beside.require_database_url().replace("+psycopg", "")) as connection:
        while connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'batchinfer restore'"
        ).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    restoring.restore(beside, tmp_path)
    assert len(contents(beside.require_database_url())["jobs"]) == len(lived.rows("jobs"))


def test_a_database_that_allows_too_few_locks_is_told_in_advance(beside):
    with pytest.raises(BackupError) as refused, open_restore(beside.require_database_url()) as database:
        database.build("0013", ["20260101"] * 100_000)
    assert refused.value.code == "restore_no_room"
    assert "max_locks_per_transaction" in refused.value.message
