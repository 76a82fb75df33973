"""Checks of a running service, on a real Postgres and a real Valkey, well and broken on purpose."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import pytest
import redis
from click.testing import CliRunner
from sqlalchemy import text

from batchinfer.cli import cli
from batchinfer.doctor import service_checks, storage
from batchinfer.doctor.findings import Level, Look, examine
from batchinfer.doctor.service_checks import SERVICE_CHECKS
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from pathlib import Path

    from batchinfer.services.context import Context

OK, WARNING, ERROR = Level.OK, Level.WARNING, Level.ERROR


@pytest.fixture
def look(context: Context) -> Look:
    return Look.of_host(context.settings, context)


def test_a_service_that_is_well_has_no_error(look: Look) -> None:
    found = {finding.check: finding for finding in examine(SERVICE_CHECKS, look)}
    wrong = {name: finding for name, finding in found.items() if finding.level is ERROR and name != "durability"}
    assert wrong == {}
    assert found["Postgres"].level is OK
    assert found["schema"].level is OK
    assert found["Redis"].level is OK
    assert found["blob store"].level is OK
    assert found["Postgres"].took_ms > 0  # its answer serves the checks that follow
    assert found["blob store"].took_ms > 0


def test_settings_that_lose_what_was_promised_are_errors(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = service_checks._facts(look)
    for settings, level in (
        ({"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}, OK),
        ({"fsync": "off", "full_page_writes": "on", "synchronous_commit": "on"}, ERROR),
        ({"fsync": "on", "full_page_writes": "on", "synchronous_commit": "off"}, ERROR),
    ):
        monkeypatch.setattr(service_checks, "_facts", lambda _, s=settings: replace(facts, settings=s))
        assert service_checks.check_durability(look).level is level


@pytest.mark.parametrize(
    ("check", "change", "level"),
    [
        (service_checks.check_postgres, {"version": 140_011}, ERROR),
        (service_checks.check_postgres, {"standby": True}, ERROR),
        (service_checks.check_connections, {"connections": 95, "max_connections": 100}, WARNING),
        (service_checks.check_schema, {"revision": "0001_first"}, ERROR),
        (service_checks.check_schema, {"revision": None}, ERROR),
    ],
)
def test_a_server_that_does_not_fit_is_told(
    look: Look, monkeypatch: pytest.MonkeyPatch, check: Any, change: dict[str, Any], level: Level
) -> None:
    facts = replace(service_checks._facts(look), **change)
    monkeypatch.setattr(service_checks, "_facts", lambda _: facts)
    said = check(look)
    assert said.level is level
    assert said.remedy


def test_clocks_that_differ_are_told(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = service_checks._facts(look)
    assert service_checks.check_clock(look).level is OK
    monkeypatch.setattr(service_checks, "_facts", lambda _: replace(facts, now=facts.now - timedelta(minutes=3)))
    assert service_checks.check_clock(look).level is WARNING


def test_an_old_snapshot_is_told(look: Look, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with context.db.engine.connect().execution_options(isolation_level="REPEATABLE READ") as holder:
        holder.execute(text("SELECT 1"))
        assert service_checks.check_snapshots(look).level is OK
        monkeypatch.setattr(service_checks, "SNAPSHOT_S", 0.0)
        assert service_checks.check_snapshots(look).level is WARNING


@pytest.mark.parametrize(
    ("about", "level"),
    [
        ({"redis_version": "7.0.15", "maxmemory": 0}, OK),
        ({"redis_version": "6.2.1", "maxmemory": 0}, ERROR),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0", "maxmemory": 0}, OK),
        ({"redis_version": "7.2.4", "maxmemory": 10**9, "maxmemory_policy": "allkeys-lru"}, WARNING),
    ],
)
def test_what_redis_says_of_itself_is_judged(look: Look, about: dict[str, Any], level: Level) -> None:
    assert look.ctx is not None
    stand_in = cast("Context", SimpleNamespace(redis=SimpleNamespace(info=lambda: about)))
    assert service_checks.check_redis(replace(look, ctx=stand_in)).level is level


def test_redis_that_is_gone_costs_time_and_is_no_error(look: Look) -> None:
    gone = cast("Context", SimpleNamespace(redis=redis.Redis(port=1, socket_connect_timeout=1)))
    assert service_checks.check_redis(replace(look, ctx=gone)).level is WARNING


def test_redis_that_may_not_be_asked_is_not_called_away(look: Look, context: Context) -> None:
    """A user without the command, on the real server."""
    context.redis.execute_command("ACL", "SETUSER", "shy", "on", ">word", "~*", "+@all", "-info")
    try:
        place = urlsplit(context.settings.require_redis_url())
        with redis.Redis(place.hostname or "", place.port or 0, username="shy", password="word") as shy:
            said = service_checks.check_redis(replace(look, ctx=replace(context, redis=cast("Any", shy))))
    finally:
        context.redis.execute_command("ACL", "DELUSER", "shy")
    assert (said.level, "+info" in said.message) == (Level.SKIPPED, True)


def test_keys_that_others_can_read_are_an_error(look: Look, context: Context) -> None:
    key = context.settings.home / "api-key"
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_text("bi_x")
    key.chmod(0o600)
    assert service_checks.check_secrets(look).level is OK
    key.chmod(0o644)
    assert service_checks.check_secrets(look).level is ERROR
    key.unlink()


def test_a_blob_store_that_takes_nothing_is_an_error(
    look: Look, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(context.blobs), "read", lambda *_: b"otherwise")
    assert service_checks.check_blobs(look).level is ERROR


def test_without_a_service_the_host_is_looked_at_alone(tmp_path: Path) -> None:
    answer = CliRunner().invoke(cli, ["doctor", "--home", str(tmp_path), "--json"])
    findings = [json.loads(line) for line in answer.stdout.splitlines()]
    assert {finding["group"] for finding in findings} == {"storage", "host", "devices"}
    assert answer.exit_code == (1 if any(finding["level"] == "error" for finding in findings) else 0)
    assert "The service is left out" in answer.stderr


def test_the_command_line_looks_at_the_service(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = context.settings
    monkeypatch.setenv("BATCHINFER_DATABASE_URL", settings.require_database_url())
    monkeypatch.setenv("BATCHINFER_REDIS_URL", settings.require_redis_url())
    answer = CliRunner().invoke(cli, ["doctor", "--home", str(settings.home)])
    assert "service\n" in answer.stdout
    assert "Postgres" in answer.stdout
    assert settings.require_database_url() not in answer.output


def test_a_folder_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    told: list[str] = []
    found = storage.measure(tmp_path, mib=64, tell=told.append)
    assert list(tmp_path.iterdir()) == []
    assert len(told) == 5
    assert min(found.written, found.cold, found.warm, found.cold_shards, found.warm_shards) > 0
    assert found.estimate_load_s(2 * found.cold_shards) == pytest.approx(2.0)


def test_a_measurement_that_cannot_be_is_refused_before_it_writes(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as missing:
        storage.measure(tmp_path / "none", mib=64, tell=print)
    assert missing.value.param == "dir"
    with pytest.raises(BadRequest) as large:
        storage.measure(tmp_path, mib=10**9, tell=print)
    assert large.value.param == "mib"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(shards: Any, mib: int) -> None:
        shards[0].write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_write", burst)
    with pytest.raises(OSError, match="No space"):
        storage.measure(tmp_path, mib=64, tell=print)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_measures(tmp_path: Path) -> None:
    answer = CliRunner().invoke(cli, ["doctor", "storage", str(tmp_path), "--mib", "64"])
    assert answer.exit_code == 0, answer.output
    assert "page cache" in answer.stdout
    assert "weights of 130 GiB" in answer.stdout
    found = CliRunner().invoke(cli, ["doctor", "storage", str(tmp_path), "--mib", "64", "--json"])
    assert json.loads(found.stdout)["mib"] == 64
