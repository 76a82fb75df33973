"""Real CPU workers fetch a model: one is killed in the middle, and the next goes on at the byte where it was."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.registry import parse_register
from batchinfer.services import registry
from tests.registry.conftest import COMMIT, REPO, FakeHub, hub, make_model

if TYPE_CHECKING:
    from batchinfer.settings import Settings
    from batchinfer.store.revisions import Revision

__all__ = ["hub"]


@pytest.fixture
def settings(settings: Settings, hub: FakeHub) -> Settings:
    """The hub of this machine, with a model that takes its time."""
    hub.files = make_model(12_000_000)
    return settings.model_copy(update={"hub_url": hub.url, "hub_networks": "127.0.0.0/8"})


def read(work: Any) -> Revision:
    return registry.get_revision(work.ctx, work.caller, "reader", COMMIT)


def begin(work: Any) -> None:
    request = parse_register({"name": "reader", "source": {"kind": "huggingface", "repo": REPO}})
    registry.register(work.ctx, work.caller, request)
    registry.fetch(work.ctx, work.caller, "reader", COMMIT)


@pytest.mark.parametrize("lease_ttl_s", [3.0])
def test_a_killed_workers_fetch_goes_on_at_the_byte_where_it_was(
    work: Any, launcher: Any, until: Any, hub: FakeHub
) -> None:  # fmt: skip
    begin(work)
    hub.slow = (0.1, 2**18)
    first = launcher.start_cpu()
    half = 7_000_000
    until(lambda: read(work).fetched_bytes > half, "half of it is here")
    told = read(work)
    assert told.progress is not None
    assert told.progress["bytes_per_s"] > 0
    first.popen.send_signal(signal.SIGKILL)
    first.popen.wait(30)
    (part,) = work.ctx.settings.models_dir.rglob("*.safetensors.part")
    there, name = part.stat().st_size, part.name.removesuffix(".part")
    assert there < len(hub.files[name])
    hub.slow = None
    hub.asked.clear()
    launcher.start_cpu(name="cpu-1")
    until(lambda: read(work).state != "fetching", "another worker brings the rest")
    done = read(work)
    assert (done.state, done.error) == ("fetched", None)
    assert [one.range for one in hub.asked if name in one.path] == [f"bytes={there}-" if there else None]
    for file in done.files:
        assert (Path(done.path) / file["name"]).read_bytes() == hub.files[file["name"]]


def test_a_cancelled_fetch_and_a_stopped_worker_end_at_once(
    work: Any, launcher: Any, until: Any, hub: FakeHub
) -> None:  # fmt: skip
    begin(work)
    hub.slow = (0.2, 2**16)
    cpu = launcher.start_cpu()
    until(lambda: read(work).fetched_bytes > 200_000, "some of it is here")
    registry.cancel_fetch(work.ctx, work.caller, "reader", COMMIT)
    assert read(work).state == "registered"
    asked = len(hub.asked)
    registry.fetch(work.ctx, work.caller, "reader", COMMIT)
    until(lambda: len(hub.asked) > asked, "it is asked for the rest")
    before = read(work).fetched_bytes
    assert before > 0
    cpu.popen.send_signal(signal.SIGTERM)
    assert cpu.popen.wait(30) == 0
    left = read(work)
    assert left.state == "fetching"
    hub.slow = None
    launcher.start_cpu(name="cpu-1")
    until(lambda: read(work).state == "fetched", "another worker brings the rest")
