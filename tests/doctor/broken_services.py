"""A running service broken in one way: its own Postgres and home, and stand-ins for servers that no test may change."""

from __future__ import annotations

import errno
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import redis
from pydantic import SecretStr
from sqlalchemy import text

from batchinfer.doctor import service_checks
from batchinfer.services.context import open_context
from batchinfer.store import leases
from tests.doctor.conftest import MEMINFO
from tests.doctor.stage import Broken, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.doctor.findings import Look

#: Nobody listens there: no program of ours takes the port of discard (RFC 863).
NOWHERE = 9


def _says(**changes: object) -> Callable[[Stage], Look]:
    """Postgres says these things of itself."""

    def change(stage: Stage) -> Look:
        ask = service_checks.read_facts
        stage.patch.setattr(service_checks, "read_facts", lambda tx: replace(ask(tx), **changes))  # type: ignore[arg-type]
        return stage.service

    return change


def _sets(**changed: str) -> Callable[[Stage], Look]:
    return _says(settings={"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", **changed})


def _lose_postgres(stage: Stage) -> Look:
    url = SecretStr(f"postgresql://nobody:hush@127.0.0.1:{NOWHERE}/none")
    lost = open_context(stage.context.settings.model_copy(update={"database_url": url}))
    stage.after.callback(lost.close)
    return replace(stage.service, ctx=lost)


def _set_back_clock(stage: Stage) -> Look:
    ask = service_checks.read_facts
    stage.patch.setattr(
        service_checks, "read_facts", lambda tx: replace(found := ask(tx), now=found.now - timedelta(minutes=3))
    )
    return stage.service


def _run(statement: str) -> Callable[[Stage], Look]:
    """The database after a statement."""

    def run(stage: Stage) -> Look:
        with stage.context.db.transaction() as tx:
            tx.execute(text(statement))
        return stage.service

    return run


def _hold_snapshot(stage: Stage) -> Look:
    holder = stage.after.enter_context(stage.context.db.engine.connect())
    holder = holder.execution_options(isolation_level="REPEATABLE READ")
    holder.execute(text("SELECT 1"))
    stage.patch.setattr(service_checks, "SNAPSHOT_S", 0.0)
    return stage.service


def _redis(answers: object) -> Callable[[Stage], Look]:
    def put(stage: Stage) -> Look:
        return replace(stage.service, ctx=replace(stage.context, redis=cast("Any", answers)))

    return put


def _redis_says(**about: object) -> Callable[[Stage], Look]:
    return _redis(SimpleNamespace(info=lambda: about))


def _blobs(name: str, act: Callable[..., object]) -> Callable[[Stage], Look]:
    def put(stage: Stage) -> Look:
        stage.patch.setattr(type(stage.context.blobs), name, act)
        return stage.service

    return put


def _refuse(*_: object) -> object:
    raise OSError(errno.EROFS, "Read-only file system")


def _show_key(name: str) -> Callable[[Stage], Look]:
    def show(stage: Stage) -> Look:
        key = stage.make_home(stage.service) / name
        key.write_text("bi_x")
        key.chmod(0o644)
        return stage.service

    return show


def _loads(*loads: dict[str, Any]) -> Callable[[Stage], Look]:
    def load(stage: Stage) -> Look:
        for fields in loads:
            stage.request.getfixturevalue("add_replica")(**fields)
        return stage.service

    return load


def _worker(told: dict[str, Any], statement: str = "SELECT 1") -> Callable[[Stage], Look]:
    def start(stage: Stage) -> Look:
        with stage.context.db.transaction() as tx:
            leases.open_lease(tx, role="model", worker="m@here", host="here", pid=1, info=told)
            tx.execute(text(statement))
        return stage.service

    return start


def _plan(room_mib: int) -> Callable[[Stage], Look]:
    """6,000 MiB are planned in a container that has so many."""

    def plan(stage: Stage) -> Look:
        look: Look = stage.plant({"proc/meminfo": MEMINFO.format(total=0, free=0)})
        (group := look.root / "sys/fs/cgroup").mkdir(parents=True)
        (group / "memory.max").write_text(str(room_mib << 20))
        host = stage.context.settings.machine_name
        stage.request.getfixturevalue("add_replica")(host=host, planned_mib=6000)
        return replace(stage.service, root=look.root)

    return plan


_FAILED = {"state": "failed", "ready": False, "error": '{"message": "A shard is short."}'}
_STALE = "UPDATE leases SET heartbeat_at = now() - interval '1 hour'"
BROKEN_SERVICES = (
    Broken("Postgres", "does not answer", _lose_postgres),
    Broken("Postgres", "is a standby", _says(standby=True)),
    Broken("Postgres", "is too old", _says(version=140_011)),
    Broken("durability", "are off", _sets(fsync="off")),
    Broken("durability", "are off", _sets(full_page_writes="off")),
    Broken("durability", "synchronous_commit is off", _sets(synchronous_commit="off")),
    Broken("connections", "connections are used", _says(connections=95, max_connections=100)),
    Broken("schema", "batchinfer migrate", _run("UPDATE alembic_version SET version_num = '0001_first'")),
    Broken("schema", "batchinfer migrate", _run("DROP TABLE alembic_version")),
    Broken("clock", "apart", _set_back_clock),
    Broken("oldest snapshot", "keeps dead rows", _hold_snapshot),
    Broken("Redis", "does not answer", _redis(redis.Redis(port=NOWHERE, socket_connect_timeout=1))),
    Broken("Redis", "is too old", _redis_says(redis_version="6.2.1")),
    Broken("Redis", "throws away keys", _redis_says(redis_version="7.2", maxmemory=1, maxmemory_policy="allkeys-lru")),
    Broken("blob store", "came back otherwise", _blobs("read", lambda *_: b"otherwise")),
    Broken("blob store", "does not take a file", _blobs("put", _refuse)),
    Broken("blob store", "does not take a file", _blobs("read", _refuse)),
    Broken("secrets", "can read", _show_key("api-key")),
    Broken("secrets", "can read", _show_key("servers.json")),
    Broken("secrets", "can read", _show_key("secret-key")),
    Broken("models", "could not be loaded", _loads(_FAILED)),
    Broken("models", "No model is known", lambda stage: stage.service),
    Broken("models", "an earlier one serves", _loads({}, {**_FAILED, "worker": "v@here", "age_s": 1})),
    Broken("workers", "no sign of life", _worker({}, _STALE)),
    Broken("workers", "nothing more is claimed", _worker({"paused": "memory pressure"})),
    Broken("workers", "No worker is there", lambda stage: stage.service),
    Broken("memory against plans", "fewer slots", _plan(4000)),
    Broken("memory against plans", "stay for everything else", _plan(6500)),
)
