"""Trees of /proc and /sys that a test writes, for checks of what no test machine has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import text

from batchinfer.doctor.findings import Look
from batchinfer.services.context import Context
from batchinfer.settings import load_settings
from batchinfer.store import fleet

MEMINFO = "MemTotal:       32768000 kB\nMemAvailable:   30000000 kB\nSwapTotal: {total} kB\nSwapFree: {free} kB"
REPLICA = text("""
    INSERT INTO replicas (id, tenant_id, worker, model, revision, engine, device, state, error, host, planned_mib,
        created_at, ready_at, ended_at)
    SELECT gen_random_uuid(), tenant_id, :worker, :model, 'r1', 'fake', 'cpu', :state, CAST(:error AS jsonb), :host,
        :planned_mib, now() - make_interval(secs => :age_s),
        CASE WHEN :ready THEN now() - make_interval(secs => :age_s - 5) END,
        CASE WHEN :state = 'failed' THEN now() END
    FROM models WHERE name = :model
""")


def room(*, free: float = 0.5, inodes: float = 0.5, blocks: int = 10**6) -> Callable[[Path], os.statvfs_result]:
    """A file system with these shares free, of 4 KiB blocks."""
    found = SimpleNamespace(
        f_blocks=blocks, f_bavail=int(blocks * free), f_frsize=4096, f_files=1000, f_favail=int(1000 * inodes)
    )
    return lambda _: cast("os.statvfs_result", found)


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Look]:
    """`tree({"proc/sys/vm/swappiness": "60"}, limits=…)`: a look at a host that shows these files and no others."""

    def planted(files: dict[str, str], **options: Any) -> Look:
        root = tmp_path / "root"
        for name, shown in {"proc/meminfo": MEMINFO.format(total=0, free=0), **files}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(shown)
        return Look(
            root, load_settings(home=tmp_path / "home"), **{"room": room(), "cores": frozenset(range(8)), **options}
        )

    return planted


@pytest.fixture
def add_replica(context: Context) -> Callable[..., None]:
    """A replica of the model `known`, which is made where it is not there."""

    def add(**fields: Any) -> None:
        values = {"worker": "w@here", "model": "known", "state": "ready", "error": None, "host": None, "ready": True}
        values |= {"planned_mib": None, "age_s": 60}
        with context.db.transaction() as tx:
            fleet.register_model(tx, name="known", path="/nowhere", revision="r1", facts={})
            tx.execute(REPLICA, values | fields)

    return add
