"""`python -m batchinfer.stack.alive beat|cpu|model|host`: whether this machine's process does its work, for health
checks.

Ends with 0 where it does; with 1 and a sentence on standard error where it does not. Asks Postgres, which has the signs
of life. A web server is asked over HTTP instead: `GET /healthz`.

`--excuse-database` behind the role ends with 0 where Postgres does not answer, too: for a check whose failure ends the
process. A new one would do no better, and all of them would lose what they hold.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from batchinfer.errors import SettingsError, Unavailable
from batchinfer.services.context import open_context
from batchinfer.services.upkeep import seconds_since_beat
from batchinfer.settings import load_settings
from batchinfer.store.hosts import list_hosts
from batchinfer.store.leases import list_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.services.context import Context

#: A beat ticks every `reap_s`; so many of them may be missed.
MISSED_TICKS = 6
#: Nobody is ended because Postgres is away.
EXCUSE = "--excuse-database"


def find_trouble(ctx: Context, role: str) -> str | None:
    """Why the process of that role is not at work, or None where it is. Raises KeyError for a role that has no sign of
    life, Unavailable."""
    return _SIGNS[role](ctx)


def _find_beat_trouble(ctx: Context) -> str | None:
    # Not a tick of anybody: CPU workers tick in the stead of a beat that hangs.
    ago_s, most_s = seconds_since_beat(ctx), MISSED_TICKS * ctx.settings.reap_s
    if ago_s is None or ago_s > most_s:
        return f"No beat ticked in the last {most_s:.0f} s. Its log says why."
    return None


def _find_cpu_trouble(ctx: Context) -> str | None:
    return _find_worker_trouble(ctx, "cpu", "CPU worker")


def _find_model_trouble(ctx: Context) -> str | None:
    # The lease begins when the model is loaded and verified.
    return _find_worker_trouble(ctx, "model", "model worker")


def _find_worker_trouble(ctx: Context, role: str, shown: str) -> str | None:
    name, most_s = ctx.settings.machine_name, ctx.settings.lease_ttl_s
    with ctx.db.transaction() as tx:
        ours = [worker for worker in list_workers(tx) if worker.role == role and worker.host == name]
    if any(not worker.dead and worker.silent_s <= most_s for worker in ours):
        return None
    return f"No {shown} of {name} holds a lease. Its log says why."


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
    "model": _find_model_trouble,
    "host": _find_host_trouble,
}
ROLES = tuple(_SIGNS)


def main(arguments: list[str]) -> int:
    """Answer for the role that is named."""
    role, *options = arguments or [""]
    if role not in _SIGNS or options not in ([], [EXCUSE]):
        print(f"Name a role: {', '.join(_SIGNS)}. Behind it may stand {EXCUSE}.", file=sys.stderr)
        return 2
    try:
        ctx = open_context(load_settings(), name="batchinfer-alive", pool_size=1)
    except SettingsError as error:
        print(error.message, file=sys.stderr)
        return 2
    try:
        trouble = find_trouble(ctx, role)
    except Unavailable:
        trouble = None if options else "The database does not answer."
    finally:
        ctx.close()
    if trouble:
        print(trouble, file=sys.stderr)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
