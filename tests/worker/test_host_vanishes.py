"""A host that is gone from one moment to the next, with a model in every phase: another one has them all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.services import models
from batchinfer.services import work as verbs
from batchinfer.stack.programs import child_environment
from tests.worker.houses import PATIENCE_S, run_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

LONG_S = 3600
#: Models by the phase that each is in when the host goes, its state then, and what holds it there.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "planned": ("planned", {}),
    "read": ("loading", {"read_s": LONG_S}),
    "copy": ("loading", {"copy_s": LONG_S}),
    "warm_up": ("loading", {"warm_up_s": LONG_S}),
    "verifying": ("verifying", {}),
    "ready": ("ready", {}),
    "draining": ("draining", {"steps_per_s": 1}),
}


@pytest.fixture
def far(settings: Any, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`batchinfer host` as a process of its own; what it started ends with it."""
    home = tmp_path / "far"
    changed = settings.model_copy(update={"home": home, "host_name": "far", "drain_s": 600.0})
    command = [sys.executable, "-m", "batchinfer.cli", "host", "--home", str(home), "--name", "far"]
    with (tmp_path / "far.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--cpu-workers", "1"], env=child_environment(changed), stdout=log, stderr=log, cwd=tmp_path
        )
    yield process
    process.kill()
    process.wait()
    sys.stdout.write((tmp_path / "far.log").read_text())


@pytest.mark.parametrize("lease_ttl_s", [15.0])
def test_a_host_vanishes_with_a_model_in_every_phase(work, rows, hold, open_house, until, far, tmp_path) -> None:
    hold("ready", "of verifying")
    for name, (_, options) in MODELS.items():
        models.register_model(work.ctx, name, "", f"of {name}")
        one = models.ensure_deployment(work.ctx, name, engine="fake", device="cpu")
        # What counts less waits until the others are up.
        priority = -1 if name == "planned" else 0
        set_options = "UPDATE deployments SET options = %s, priority = %s WHERE id = %s"
        rows.query(set_options, json.dumps(options), priority, one)

    def find() -> dict[str, str]:
        return dict(rows.query("SELECT model, state FROM replicas WHERE host = 'far'"))

    until(lambda: find().get("draining") == "ready", "the one that is to drain is ready", PATIENCE_S)
    job = work.submit("[[steps:500]]", model="draining", max_tokens=500)
    until(lambda: work.state(job).value == "running", "it has something to do", PATIENCE_S)
    rows.query("UPDATE deployments SET replicas = 0 WHERE options ? 'steps_per_s'")
    phases = {name: f'"phase": "{name}"' for name in ("read", "copy", "warm_up")}
    logs = tmp_path / "far" / "logs"
    until(
        lambda: (
            find() == {name: state for name, (state, _) in MODELS.items()}
            and all(any(sign in log.read_text() for log in logs.glob("model*.log")) for sign in phases.values())
        ),
        "each is in its phase",
        PATIENCE_S,
    )

    far.send_signal(signal.SIGKILL)
    far.wait()
    rows.query("UPDATE deployments SET options = '{}', replicas = 1")
    hold.release()
    assert find() == {name: state for name, (state, _) in MODELS.items()}, "nobody was there to say that it went"
    house = open_house("one")

    def look(condition: Any) -> Any:
        verbs.reap(work.ctx)  # as a beat does, each second
        return condition()

    ended = "host = 'far' AND ended_at IS NOT NULL"
    run_until([house], lambda: look(lambda: rows.count(ended) == len(MODELS)), "its silence is noticed")
    assert set(find().values()) == {"failed"}
    assert rows.query("SELECT DISTINCT error ->> 'code' FROM replicas WHERE host = 'far'") == [("worker_lost",)]
    ready = "SELECT model FROM replicas WHERE host = 'one' AND state = 'ready' ORDER BY model"
    run_until([house], lambda: rows.query(ready) == [(name,) for name in sorted(MODELS)], "another host has them")
    assert rows.query("SELECT sum(failures), count(next_try_at) FROM deployments") == [(0, 0)], "no model's fault"
    run_until([house], lambda: work.state(job).value == "succeeded", "what was held is answered")
    assert work.outcomes(job)[0] == "lost"
