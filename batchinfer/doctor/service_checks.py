"""The running service: Postgres, Redis or Valkey, the schema, clocks, blobs and secrets."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import NoPermissionError, RedisError

from batchinfer.doctor.findings import Check, fail, fine, skip, warn
from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.errors import Unavailable
from batchinfer.store.server_facts import read_facts
from batchinfer.store.snapshots import list_snapshots

if TYPE_CHECKING:
    from batchinfer.doctor.findings import Look, Said
    from batchinfer.store.server_facts import ServerFacts

LEAST_POSTGRES, LEAST_REDIS = 15, 7
#: Seconds by which two clocks may differ before logs and times of submission mislead.
CLOCK_S = 2.0
#: A snapshot older than this keeps so many dead rows that claims become slow.
SNAPSHOT_S = 600.0
_PROBE = b"the doctor was here"


def _facts(look: Look) -> ServerFacts:
    return look.ask_once("server facts", lambda: _ask_facts(look))


def _ask_facts(look: Look) -> ServerFacts:
    with look.require_ctx().db.transaction() as tx:
        return read_facts(tx)


def check_postgres(look: Look) -> Said:
    """Version and role of the server."""
    try:
        facts = _facts(look)
    except Unavailable:
        return fail(
            "Postgres does not answer.",
            "Look at BATCHINFER_DATABASE_URL, and at the server's log; `up` keeps it in logs.",
        )
    version = f"{facts.version // 10_000}.{facts.version % 10_000}"
    if facts.standby:
        return fail(
            f"Postgres {version} is a standby: it takes no writes.", "Name the primary in BATCHINFER_DATABASE_URL."
        )
    if facts.version < LEAST_POSTGRES * 10_000:
        return fail(f"Postgres {version} is too old.", f"Move to Postgres {LEAST_POSTGRES} or newer.")
    return fine(f"Postgres {version} answers.")


def check_durability(look: Look) -> Said:
    """Settings on which "nothing lost" rests."""
    settings = _facts(look).settings
    off = [name for name in ("fsync", "full_page_writes") if settings[name] == "off"]
    if off:
        return fail(
            f"{' and '.join(off)} are off: a crash of the host loses or breaks what was answered with 202.",
            "Set them to `on` in postgresql.conf and reload.",
        )
    if settings["synchronous_commit"] == "off":
        return fail(
            "synchronous_commit is off: a crash loses the last submissions that were answered with 202.",
            "Set it to `on`; what may be lost is committed with `off` by the service itself.",
        )
    return fine(f"Commits are on disk before they are answered (synchronous_commit {settings['synchronous_commit']}).")


def check_connections(look: Look) -> Said:
    """Connections that are left."""
    facts = _facts(look)
    if facts.connections > 0.8 * facts.max_connections:
        return warn(
            f"{facts.connections} of {facts.max_connections} connections are used.",
            "Raise max_connections, or lower BATCHINFER_WEB_THREADS; each process holds a few.",
        )
    return fine(f"{facts.connections} of {facts.max_connections} connections are used.")


def check_schema(look: Look) -> Said:
    """Whether the schema is the program's."""
    facts = _facts(look)
    if facts.revision == facts.head:
        return fine(f"The schema is at {facts.head}.")
    return fail(
        f"The schema is at {facts.revision or 'nothing'}, and this program is made for {facts.head}.",
        "Run `batchinfer migrate`. If the schema is the newer one, install the newer program here.",
    )


def check_clock(look: Look) -> Said:
    """This host's clock beside the database's."""
    facts = _facts(look)
    apart_s = abs((facts.asked_at - facts.now).total_seconds())
    if apart_s > CLOCK_S:
        return warn(
            f"The clocks of this host and of the database are {apart_s:.1f} s apart.",
            "Run chrony or systemd-timesyncd on both. No decision rests on a worker's clock; what logs say does.",
        )
    return fine("The clocks of this host and of the database agree.")


def check_snapshots(look: Look) -> Said:
    """The oldest snapshot."""
    with look.require_ctx().db.transaction() as tx:
        held = [snapshot for snapshot in list_snapshots(tx) if snapshot.age_s is not None]
    oldest = max(held, key=lambda snapshot: cast("float", snapshot.age_s), default=None)
    if oldest is None or cast("float", oldest.age_s) < SNAPSHOT_S:
        return fine("No old snapshot keeps dead rows.")
    return warn(
        f"A {oldest.kind} keeps dead rows of the queue since {oldest.age_s:.0f} s.",
        "End its transaction, or drop the replication slot that nobody reads: pg_stat_activity names it.",
    )


def check_redis(look: Look) -> Said:
    """Redis or Valkey: version, and what it does when its memory is full."""
    redis = look.require_ctx().redis
    try:
        began = time.monotonic()
        about: dict[str, Any] = redis.info()
        took_ms = (time.monotonic() - began) * 1000
    except NoPermissionError:
        return skip("Not known: this user of Redis may not ask for INFO (`ACL SETUSER … +info`).")
    except RedisError:
        return warn(
            "Redis does not answer. Jobs are kept and done; they start later, at the poll floor.",
            "Look at BATCHINFER_REDIS_URL and at the server's log.",
        )
    version = str(about.get("valkey_version") or about.get("redis_version") or "")
    name = "Valkey" if about.get("valkey_version") else "Redis"
    if not version.partition(".")[0].isdecimal():
        return skip("Not known: the server at BATCHINFER_REDIS_URL answers and says no version.")
    if int(version.partition(".")[0]) < LEAST_REDIS:
        return fail(f"{name} {version} is too old.", f"Move to Redis {LEAST_REDIS}, Valkey 8, or newer.")
    policy = str(about.get("maxmemory_policy", "noeviction"))
    if int(about.get("maxmemory", 0)) and policy != "noeviction":
        return warn(
            f"{name} {version} throws away keys when its memory is full ({policy}).",
            "Set `maxmemory-policy noeviction`: announcements expire by themselves.",
        )
    return fine(f"{name} {version} answers in {took_ms:.0f} ms.")


def check_blobs(look: Look) -> Said:
    """Writing, reading and removing a file where uploads lie."""
    blobs = look.require_ctx().blobs
    try:
        sha256 = blobs.put(DEFAULT_TENANT, _PROBE)
        try:
            whole = blobs.read(DEFAULT_TENANT, sha256) == _PROBE
        finally:
            blobs.remove_unused(DEFAULT_TENANT, sha256, unused_s=0.0)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else type(error).__name__
        return fail(
            f"The blob store does not take a file and give it back ({cause}).",
            "Look at the disk and the mount under the home, and at who owns its folder blobs.",
        )
    if not whole:
        return fail(
            "What was written into the blob store came back otherwise.",
            "Check the disk under the home, and its memory.",
        )
    return fine("The blob store takes a file and gives it back.")


def check_secrets(look: Look) -> Said:
    """Whether others may read keys."""
    home = look.settings.home
    wide = [name for name in ("api-key", "servers.json", "secret-key") if _is_wide(home / name)]
    if wide:
        return fail(
            f"Other users of this host can read {', '.join(wide)} in the home.",
            "Take it from them (`chmod 600`), and change the keys that stood there: `batchinfer keys`.",
        )
    return fine("Keys in the home are its owner's alone.")


def _is_wide(file: Any) -> bool:
    return bool(file.is_file() and file.stat().st_mode & 0o077)


_LOST = "Nothing can be submitted or stored without it."
SERVICE_CHECKS = (
    Check("Postgres", "service", _LOST, check_postgres),
    Check("durability", "service", "A 202 promises that a crash loses nothing.", check_durability),
    Check("connections", "service", "A process that gets none stops working.", check_connections),
    Check("schema", "service", "A program on another schema refuses or breaks.", check_schema),
    Check("clock", "service", "Times in logs and pages would mislead.", check_clock),
    Check("oldest snapshot", "service", "Claims become slow while dead rows are kept.", check_snapshots),
    Check("Redis", "service", "Without it work starts at the poll floor.", check_redis),
    Check("blob store", "service", "Pictures and files lie there.", check_blobs),
    Check("secrets", "service", "Who reads a key may do all that it may.", check_secrets),
)
