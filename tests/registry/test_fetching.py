"""Fetching from a hub: what is refused before a byte of weights, what resumes, and what is never taken for whole."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.errors import BadRequest, BatchinferError, FetchFailed, Forbidden, Unavailable
from batchinfer.services import fetches as step
from batchinfer.services import models, registry
from batchinfer.store import events
from tests.registry.conftest import COMMIT, REPO, make_model, make_weights

if TYPE_CHECKING:
    from tests.registry.conftest import Desk, FakeHub

SHARD = "model-00001-of-00002.safetensors"


def test_a_revision_is_registered_without_its_weights(desk: Desk, hub: FakeHub) -> None:
    made = desk.register()
    assert (made.revision, made.state, made.path) == (COMMIT, "registered", "")
    names = [file["name"] for file in made.files]
    assert "modeling_reader.py" not in names
    assert names[-2:] == sorted(name for name in hub.files if name.endswith(".safetensors"))
    assert made.size_bytes == sum(len(hub.files[name]) for name in names)
    facts = made.facts
    assert (facts["architecture"], facts["context_tokens"]) == ("ReaderForConditionalGeneration", 4096)
    assert (facts["licence"], facts["image"]["max_pixels"]) == ("apache-2.0", 1003520)
    assert facts["chat_template"]["file"] == "tokenizer_config.json"
    assert hub.count_weights() == 0
    again = desk.register()
    assert (again.id, again.created_at) == (made.id, made.created_at)


def test_a_fetched_revision_lies_under_its_hash(desk: Desk, hub: FakeHub) -> None:
    made = desk.register()
    assert desk.begin(made).state == "fetching"
    assert desk.begin(made).state == "fetching"
    assert desk.step() is True
    done = desk.read(made)
    assert (done.state, done.error, done.progress) == ("fetched", None, None)
    assert done.fetched_bytes == done.size_bytes
    folder = Path(done.path)
    assert folder == desk.ctx.settings.home / "models" / "reader" / COMMIT
    for file in done.files:
        data = (folder / file["name"]).read_bytes()
        assert data == hub.files[file["name"]]
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
    assert sorted(path.name for path in folder.iterdir()) == sorted(file["name"] for file in done.files)
    assert [path.name for path in folder.parent.iterdir()] == [COMMIT]
    served = models.find_model(desk.ctx, "reader")
    assert served is not None
    assert (served.path, served.facts["licence"]) == (done.path, "apache-2.0")
    assert desk.claim() is None
    assert desk.begin(made).state == "fetched"
    with desk.ctx.db.transaction() as tx:
        told = [event.event for event in events.list_events(tx, DEFAULT_TENANT, made.id)]
    assert told == ["registered", "fetching", "fetched"]


def test_several_revisions_lie_side_by_side(desk: Desk, hub: FakeHub) -> None:
    first = desk.fetch(desk.register())
    hub.files["model-00002-of-00002.safetensors"] = make_weights(999, seed=9)
    second = desk.fetch(desk.register(kind="modelscope", repo=REPO))
    assert second.revision != first.revision
    assert [one.revision for one in registry.list_revisions(desk.ctx, desk.caller, "reader")] == [
        second.revision, first.revision]  # fmt: skip
    assert Path(first.path).is_dir()
    assert Path(second.path).is_dir()
    served = models.find_model(desk.ctx, "reader")
    assert served is not None
    assert (served.revision, served.path) == (first.revision, first.path)


def test_a_lost_workers_bytes_are_gone_on_with(desk: Desk, hub: FakeHub) -> None:
    hub.files = make_model(4_000_000)
    made = desk.register()
    desk.begin(made)
    seen = []

    def wanted() -> bool:  # the process ends somewhere in the second shard
        seen.append(sum(one.stat().st_size for one in desk.ctx.settings.models_dir.rglob("*.safetensors.part")))
        return seen[-1] == 0 or len(list(desk.ctx.settings.models_dir.rglob(SHARD))) == 0

    hub.slow = (0.0, 4096)
    assert desk.step(wanted) is False
    part = next(desk.ctx.settings.models_dir.rglob("*.safetensors.part"))
    there = part.stat().st_size
    assert 0 < there < len(hub.files[part.name.removesuffix(".part")])
    assert desk.read(made).state == "fetching"
    desk.lose()
    desk.make_due()
    hub.asked.clear()
    assert desk.step() is True
    weights = [one for one in hub.asked if "safetensors" in one.path]
    assert [one.range for one in weights] == [f"bytes={there}-"]
    assert desk.read(made).state == "fetched"


def test_a_connection_that_breaks_off_is_gone_on_with(desk: Desk, hub: FakeHub) -> None:
    hub.cuts = [70_000, 10, 30_000]
    done = desk.fetch(desk.register())
    assert done.state == "fetched"
    ranges = [one.range for one in hub.asked if SHARD in one.path]
    assert ranges[0] is None
    assert len(ranges) == 4
    starts = [int(one.removeprefix("bytes=").rstrip("-")) for one in ranges[1:] if one]
    assert starts == sorted(starts)


def test_a_hub_without_ranges_is_read_from_the_beginning(desk: Desk, hub: FakeHub) -> None:
    hub.knows_ranges, hub.cuts = False, [5000]
    assert desk.fetch(desk.register()).state == "fetched"


def test_a_wrong_hash_is_a_failure_and_leaves_nothing(desk: Desk, hub: FakeHub) -> None:
    hub.hashes[SHARD] = "f" * 64
    made = desk.register()
    desk.begin(made)
    error = desk.step()
    assert isinstance(error, BatchinferError)
    assert error.code == "model_file_mismatch"
    failed = desk.read(made)
    assert (failed.state, failed.error["code"]) == ("failed", "model_file_mismatch")
    with desk.ctx.db.transaction() as tx:
        told = [event.event for event in events.list_events(tx, DEFAULT_TENANT, made.id)]
    assert told == ["registered", "fetching", "failed"]
    place = desk.ctx.settings.models_dir / "reader" / f"{COMMIT}.part"
    assert (place / f"{SHARD}.part").stat().st_size == 0
    hub.hashes.clear()
    desk.register()  # its listing is read anew
    assert desk.fetch(made).state == "fetched"


def test_what_an_earlier_process_wrote_is_read_anew_where_it_is_wrong(desk: Desk, hub: FakeHub) -> None:
    place = desk.ctx.settings.models_dir / "reader" / f"{COMMIT}.part"
    place.mkdir(parents=True)
    (place / f"{SHARD}.part").write_bytes(b"x" * 1000)
    assert desk.fetch(desk.register()).state == "fetched"
    assert [one.range for one in hub.asked if SHARD in one.path] == ["bytes=1000-", None]


def test_a_git_file_is_held_to_its_own_hash(desk: Desk, hub: FakeHub) -> None:
    hub.hashes["tokenizer_config.json"] = "a" * 40
    made = desk.register()
    desk.begin(made)
    assert getattr(desk.step(), "code", None) == "model_file_mismatch"


@pytest.mark.parametrize("by", [-1, 1])
def test_a_shard_of_another_length_is_never_whole(desk: Desk, hub: FakeHub, by: int) -> None:
    hub.sizes[SHARD] = len(hub.files[SHARD]) + by
    made = desk.register()
    desk.begin(made)
    assert getattr(desk.step(), "code", None) == "model_file_mismatch"
    assert desk.read(made).state == "failed"


def test_a_shard_that_is_short_by_its_own_header_is_refused(desk: Desk, hub: FakeHub) -> None:
    hub.files[SHARD] = hub.files[SHARD][:-1]
    made = desk.register()
    desk.begin(made)
    assert getattr(desk.step(), "code", None) == "weights_truncated"
    assert not (desk.ctx.settings.models_dir / "reader" / COMMIT).exists()


def test_no_room_is_said_before_anything_is_fetched(desk: Desk, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    made = desk.register()
    desk.begin(made)
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100 * 2**20))
        error = desk.step()
    assert isinstance(error, BatchinferError)
    assert error.code == "disk_full"
    assert "100 MiB are free" in error.message
    assert hub.count_weights() == 0
    assert desk.fetch(made).state == "fetched"


def test_a_disk_that_fills_up_keeps_what_came(desk: Desk, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    made = desk.register()
    desk.begin(made)
    real = step.Incoming.open_part

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    def open_part(self: Any, file: Any) -> Any:
        part = real(self, file)
        if file.name == SHARD:
            part._file = Full(part._file)
        return part

    with monkeypatch.context() as patched:
        patched.setattr(step.Incoming, "open_part", open_part)
        assert getattr(desk.step(), "code", None) == "disk_full"
    assert desk.read(made).state == "failed"
    hub.asked.clear()
    assert desk.fetch(made).state == "fetched"
    assert not [one for one in hub.asked if one.path.endswith("/config.json")]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"pytorch_model.bin": b"pickle"}, "pickle_weights"),
        ({}, "weights_missing"),
        ({"model.safetensors": make_weights(10), "config.json": b'{"auto_map": {"AutoModel": "m.M"}}'},
         "remote_code"),
        ({"model.safetensors": make_weights(10), "tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": "m.T"}}'},
         "remote_code"),
        ({"model.safetensors.index.json": b'{"weight_map": {"w": "model-1.safetensors"}}'}, "shard_missing"),
        ({"model.safetensors.index.json": b'{"weight_map": {"w": "../../etc/passwd.safetensors"}}'}, "shard_missing"),
        ({"config.json": None}, "config_missing"),
        ({"config.json": b"[" * 100_000}, "config_unreadable"),
    ],
)  # fmt: skip
def test_what_must_not_be_loaded_is_refused_before_a_byte_of_weights(
    desk: Desk, hub: FakeHub, change: dict[str, bytes | None], code: str
) -> None:
    hub.files = {name: data for name, data in hub.files.items() if "safetensors" not in name}
    for name, data in change.items():
        hub.files.pop(name, None) if data is None else hub.files.update({name: data})
    with pytest.raises(BadRequest) as refused:
        desk.register()
    assert (refused.value.code, refused.value.param) == (code, "source")
    assert hub.count_weights() == 0
    assert models.find_model(desk.ctx, "reader") is None


def test_pickles_beside_safetensors_stay_where_they_are(desk: Desk, hub: FakeHub) -> None:
    hub.files |= {"pytorch_model.bin": b"pickle", "original/consolidated.00.pth": b"pickle", "../up.json": b"{}"}
    done = desk.fetch(desk.register())
    assert not [file for file in done.files if file["name"].endswith((".bin", ".pth", "up.json"))]
    assert not [one for one in hub.asked if ".bin" in one.path or ".pth" in one.path]


@pytest.mark.parametrize(("status", "code"), [(401, "hub_refused"), (403, "hub_refused"), (404, "hub_not_found")])
def test_a_hub_that_says_no_is_understood(desk: Desk, hub: FakeHub, status: int, code: str) -> None:
    hub.listing_status = status
    with pytest.raises(BadRequest) as refused:
        desk.register()
    assert refused.value.code == code
    hub.listing_status = 200
    made = desk.register()
    hub.statuses = [status] * 30
    desk.begin(made)
    assert getattr(desk.step(), "code", None) == code
    assert desk.read(made).state == "failed"


def test_a_hub_that_wants_fewer_requests_is_waited_for(desk: Desk, hub: FakeHub) -> None:
    hub.listing_status = 429
    with pytest.raises(Unavailable) as later:
        desk.register()
    assert later.value.code == "hub_busy"
    hub.listing_status = 200
    made = desk.register()
    hub.statuses = [429, 503, 200, 429]
    assert desk.fetch(made).state == "fetched"


def test_a_hub_that_stays_away_leaves_the_row_waiting_and_says_so(desk: Desk, hub: FakeHub) -> None:
    made = desk.register()
    hub.statuses = [503] * 5
    desk.begin(made)
    assert isinstance(desk.step(), FetchFailed)
    waits = desk.read(made)
    assert (waits.state, waits.error["code"]) == ("fetching", "hub_unreachable")


def test_a_slow_hub_is_read_over_several_requests(desk: Desk, hub: FakeHub) -> None:
    object.__setattr__(desk.ctx, "settings", desk.ctx.settings.model_copy(update={"hub_timeout_s": 0.5}))
    hub.files = make_model(4_000_000)
    made = desk.register()
    hub.slow = (0.05, 2**17)
    hub.asked.clear()
    assert desk.fetch(made).state == "fetched"
    assert len([one for one in hub.asked if SHARD in one.path]) > 1


def test_a_token_goes_to_the_hub_and_nowhere_else(desk: Desk, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    other = FakeElsewhere.start(hub)
    hub.elsewhere = other.url
    try:
        done = desk.fetch(desk.register())
    finally:
        other.stop()
    assert done.state == "fetched"
    assert {one.authorization for one in hub.asked} == {"Bearer hf_secret"}
    assert {one.authorization for one in other.asked} == {None}
    assert len(other.asked) >= len(done.files)


class FakeElsewhere:
    """Another host, which has the hub's files."""

    def __init__(self, hub: FakeHub) -> None:
        import threading
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        from tests.registry.conftest import FakeHub as Hub

        made = Hub(files=hub.files)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                made.answer(self)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.asked = made.asked
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @classmethod
    def start(cls, hub: FakeHub) -> FakeElsewhere:
        return cls(hub)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_a_redirect_to_a_private_place_is_not_followed(desk: Desk, hub: FakeHub) -> None:
    made = desk.register()
    hub.elsewhere = "http://10.0.0.7:8080"
    desk.begin(made)
    assert getattr(desk.step(), "code", None) == "hub_not_allowed"


def test_a_hub_in_a_network_that_nobody_named_is_not_asked(desk: Desk, hub: FakeHub) -> None:
    object.__setattr__(desk.ctx, "settings", desk.ctx.settings.model_copy(update={"hub_networks": ""}))
    with pytest.raises(BadRequest) as refused:
        desk.register()
    assert refused.value.code == "hub_not_allowed"
    assert hub.asked == []


def test_a_cancelled_fetch_ends_and_keeps_what_came(desk: Desk, hub: FakeHub) -> None:
    made = desk.register()
    desk.begin(made)
    claim = desk.claim()
    assert claim is not None
    hub.cuts = [1000]
    cancelled = registry.cancel_fetch(desk.ctx, desk.caller, "reader", COMMIT)
    assert (cancelled.state, cancelled.error) == ("registered", None)
    with desk.ctx.db.transaction() as tx:
        told = [event.event for event in events.list_events(tx, DEFAULT_TENANT, made.id)]
    assert told == ["registered", "fetching", "cancelled"]
    assert step.fetch_revision(desk.ctx, claim, lambda action: action(), lambda: True) is False
    assert desk.read(made).state == "registered"
    assert desk.fetch(made).state == "fetched"


def test_progress_is_told_while_it_goes(desk: Desk, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "NOTE_S", 0.0)
    made, seen = desk.register(), []
    desk.begin(made)

    def wanted() -> bool:
        seen.append(desk.read(made))
        return True

    assert desk.step(wanted) is True
    bytes_seen = [one.fetched_bytes for one in seen]
    assert bytes_seen == sorted(bytes_seen)
    assert len(set(bytes_seen)) > 3
    assert {one.progress["file"] for one in seen if one.progress} >= {SHARD}


def test_two_processes_never_write_one_revision(desk: Desk, hub: FakeHub) -> None:
    made = desk.register()
    desk.begin(made)
    place = desk.ctx.settings.models_dir / "reader" / COMMIT
    with step.Incoming(place):
        assert isinstance(desk.step(), Unavailable)
    assert desk.read(made).state == "fetching"


def test_the_verbs_need_their_scopes(desk: Desk) -> None:
    from dataclasses import replace

    made = desk.register()
    for scopes in ({"launch", "read", "admin"}, {"submit"}):
        other = replace(desk.caller, scopes=frozenset(scopes))
        for act in (
            lambda: registry.register(desk.ctx, other, desk.request(kind="huggingface", repo=REPO)),  # noqa: B023
            lambda: registry.fetch(desk.ctx, other, "reader", made.revision),  # noqa: B023
            lambda: registry.cancel_fetch(desk.ctx, other, "reader", made.revision),  # noqa: B023
            lambda: registry.prune(desk.ctx, other),  # noqa: B023
            lambda: registry.check_files(desk.ctx, other, "reader", made.revision),  # noqa: B023
        ):
            with pytest.raises(Forbidden, match="fetch"):
                act()
