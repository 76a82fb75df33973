"""`python -m batchinfer.stack.alive beat|cpu|host`: whether this machine's process does its work, for health checks.

Ends with 0 where it does; with 1 and a sentence on standard error where it does not. Asks Postgres, which has the signs
of life. A web server is asked over HTTP instead: `GET /healthz`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from batchinfer.errors import SettingsError, Unavailable
from batchinfer.services.context import open_context
from batchinfer.services.upkeep import seconds_since_tick
from batchinfer.settings import load_settings
from batchinfer.store.hosts import list_hosts
from batchinfer.store.leases import list_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.services.context import Context

#: A beat ticks every `reap_s`; so many of them may be missed.
MISSED_TICKS = 6


def find_trouble(ctx: Context, role: str) -> str | None:
    """Why the process of that role is not at work, or None where it is. Raises KeyError for a role that has no sign of
    life, Unavailable."""
    return _SIGNS[role](ctx)


def _find_beat_trouble(ctx: Context) -> str | None:
    ago_s, most_s = seconds_since_tick(ctx), MISSED_TICKS * ctx.settings.reap_s
    if ago_s is None or ago_s > most_s:
        return f"Nobody ticked in the last {most_s:.0f} s. The log of the beat says why."
    return None


def _find_cpu_trouble(ctx: Context) -> str | None:
    name, most_s = ctx.settings.machine_name, ctx.settings.lease_ttl_s
    with ctx.db.transaction() as tx:
        ours = [worker for worker in list_workers(tx) if worker.role == "cpu" and worker.host == name]
    if any(not worker.dead and worker.silent_s <= most_s for worker in ours):
        return None
    return f"No CPU worker of {name} holds a lease. Its log says why."


def _find_host_trouble(ctx: Context) -> str | None:
    name = ctx.settings.machine_name
    with ctx.db.transaction() as tx:
        hosts = list_hosts(tx, silent_s=ctx.settings.lease_ttl_s)
    if any(host.alive for host in hosts if host.host == name):
        return None
    return f"The keeper of {name} gives no sign of life. Its log says why."


_SIGNS: dict[str, Callable[[Context], str | None]] = {
    "beat": _find_beat_trouble,
    "cpu": _find_cpu_trouble,
    "host": _find_host_trouble,
}


def main(arguments: list[str]) -> int:
    """Answer for the role that is named."""
    if len(arguments) != 1 or arguments[0] not in _SIGNS:
        print(f"Name a role: {', '.join(_SIGNS)}.", file=sys.stderr)
        return 2
    try:
        ctx = open_context(load_settings(), name="batchinfer-alive", pool_size=1)
    except SettingsError as error:
        print(error.message, file=sys.stderr)
        return 2
    try:
        trouble = find_trouble(ctx, arguments[0])
    except Unavailable:
        trouble = "The database does not answer."
    finally:
        ctx.close()
    if trouble:
        print(trouble, file=sys.stderr)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
