"""Folders where they lie, ModelScope, and buckets; what `models verify` reads again; and what `models prune` leaves."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.errors import BadRequest, Conflict, NotFound
from batchinfer.services import models, registry
from batchinfer.store import deployments, fleet
from tests.registry.conftest import COMMIT, REPO, make_model, make_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.registry.conftest import Desk, FakeHub

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, as somebody copied it here."""
    made = tmp_path / "copied" / "reader"
    made.mkdir(parents=True)
    for name, data in make_model().items():
        (made / name).write_bytes(data)
    return made


def test_a_folder_stays_where_it_is_and_is_read_once(local: Desk, folder: Path) -> None:
    made = local.register(kind="folder", path=str(folder))
    assert (made.state, len(made.revision)) == ("registered", 16)
    done = local.fetch(made)
    assert (done.state, done.path) == ("fetched", str(folder))
    assert {one["name"]: one["sha256"] for one in done.files} == {
        one["name"]: hashlib.sha256((folder / one["name"]).read_bytes()).hexdigest() for one in done.files}  # fmt: skip
    assert local.register(kind="folder", path=str(folder)).id == made.id
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes() + b" ")
    assert local.register(kind="folder", path=str(folder)).revision != made.revision


def test_over_http_only_named_folders_may_be_registered(desk: Desk, folder: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        desk.register(kind="folder", path=str(folder))
    assert refused.value.code == "source_not_allowed"
    named = desk.ctx.settings.model_copy(update={"source_folders": str(folder.parent)})
    object.__setattr__(desk.ctx, "settings", named)
    assert desk.register(kind="folder", path=str(folder)).state == "registered"


def test_a_folder_that_changes_before_it_is_read_fails(local: Desk, folder: Path) -> None:
    made = local.register(kind="folder", path=str(folder))
    local.begin(made)
    (folder / SHARD).write_bytes(b"short")
    assert getattr(local.step(), "code", None) == "model_changed"
    assert local.read(made).state == "failed"


@pytest.mark.parametrize("change", ["bytes", "gone", "short", "more"])
def test_a_folder_that_changes_after_it_was_verified_is_found(local: Desk, folder: Path, change: str) -> None:
    (folder / "model.safetensors.index.json").unlink()
    done = local.fetch(local.register(kind="folder", path=str(folder)))
    checked = registry.check_files(local.ctx, local.caller, "reader", done.revision)
    verified = registry.mark_verified(local.ctx, local.caller, checked)
    assert (verified.state, verified.error) == ("verified", None)
    assert verified.verified_at is not None
    data = (folder / SHARD).read_bytes()
    if change == "bytes":
        (folder / SHARD).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif change == "gone":
        (folder / SHARD).unlink()
    elif change == "short":
        (folder / SHARD).write_bytes(data[:-1])
    else:
        (folder / "model-extra.safetensors").write_bytes(make_weights(10))
    with pytest.raises(Conflict) as found:
        registry.check_files(local.ctx, local.caller, "reader", done.revision)
    assert found.value.code == "model_changed"
    failed = local.read(done)
    assert (failed.state, failed.error["code"]) == ("failed", "model_changed")


def test_what_up_made_known_is_listed_when_it_is_verified(local: Desk, folder: Path) -> None:
    models.register_model(local.ctx, "reader", str(folder), "r1")
    checked = registry.check_files(local.ctx, local.caller, "reader", "r1")
    assert all(one["sha256"] for one in checked.files)
    assert registry.mark_verified(local.ctx, local.caller, checked).state == "verified"


def test_what_is_not_here_is_not_verified(desk: Desk) -> None:
    made = desk.register()
    with pytest.raises(Conflict) as refused:
        registry.check_files(desk.ctx, desk.caller, "reader", made.revision)
    assert refused.value.code == "revision_not_fetched"
    with pytest.raises(NotFound) as unknown:
        registry.get_revision(desk.ctx, desk.caller, "reader", "ffffff")
    assert unknown.value.code == "revision_not_found"
    assert registry.get_revision(desk.ctx, desk.caller, "reader", COMMIT[:7]).id == made.id


def test_modelscope_is_pinned_by_its_files(desk: Desk, hub: FakeHub) -> None:
    made = desk.register(kind="modelscope", repo=REPO)
    assert len(made.revision) == 40
    done = desk.fetch(made)
    assert done.state == "fetched"
    assert done.facts["licence"] == "apache-2.0"
    assert desk.register(kind="modelscope", repo=REPO).revision == made.revision
    hub.files["config.json"] += b" "
    assert desk.register(kind="modelscope", repo=REPO).revision != made.revision


def place_deployment(desk: Desk, **columns: Any) -> None:
    """Want the model, with these revisions."""
    with desk.ctx.db.transaction() as tx:
        deployments.ensure_deployment(tx, model="reader", engine="auto", device="auto", replicas=1)
        for name, value in columns.items():
            tx.execute(text(f"UPDATE deployments SET {name} = :value"), {"value": value})  # noqa: S608


def test_prune_takes_only_what_nobody_needs(desk: Desk, hub: FakeHub) -> None:
    done = []
    for seed in range(6):
        hub.files["model-00002-of-00002.safetensors"] = make_weights(1000, seed=50 + seed)
        done.append(desk.fetch(desk.register(kind="modelscope", repo=REPO)))
    first, served, coming, former, loaded, free = (one.revision for one in done)
    place_deployment(desk, revision=served, next_revision=coming, previous_revision=former)
    with desk.ctx.db.transaction() as tx:
        fleet.save_replica(tx, worker="model0@x", model="reader", device="cpu", state="ready", revision=loaded)
    said = registry.prune(desk.ctx, desk.caller, dry_run=True)
    assert {one.revision: one.kept for one in said} == {
        first: "default", served: "served", coming: "swapped_in", former: "rolled_back_to", loaded: "loaded",
        free: None,
    }  # fmt: skip
    assert all(Path(one.path).is_dir() for one in done)
    sizes = {one.revision: one.size_bytes for one in done}
    assert {one.revision: one.size_bytes for one in said} == sizes
    gone = [one for one in registry.prune(desk.ctx, desk.caller, model="reader") if one.kept is None]
    assert [one.revision for one in gone] == [free]
    assert not Path(done[-1].path).exists()
    assert [Path(one.path).is_dir() for one in done[:-1]] == [True] * 5
    pruned = desk.read(done[-1])
    assert (pruned.state, pruned.path, pruned.fetched_bytes) == ("registered", "", 0)
    assert pruned.pruned_at is not None
    assert registry.prune(desk.ctx, desk.caller, model="reader", revision=first)[0].kept is None
    assert registry.prune(desk.ctx, desk.caller, model="reader", revision=served)[0].kept == "served"
    assert Path(done[1].path).is_dir()
    assert desk.fetch(done[-1]).state == "fetched"


def test_prune_leaves_what_is_being_fetched_and_takes_what_was_left_half(desk: Desk, hub: FakeHub) -> None:
    made = desk.register()
    place = desk.ctx.settings.models_dir / "reader" / f"{COMMIT}.part"
    place.mkdir(parents=True)
    (place / "config.json").write_bytes(b"x" * 77)
    desk.begin(made)
    (said,) = registry.prune(desk.ctx, desk.caller, model="reader", revision=COMMIT)
    assert (said.kept, said.size_bytes) == ("fetching", 77)
    registry.cancel_fetch(desk.ctx, desk.caller, "reader", COMMIT)
    (gone,) = registry.prune(desk.ctx, desk.caller, model="reader", revision=COMMIT)
    assert gone.kept is None
    assert not place.exists()


def test_prune_never_touches_a_folder_that_lies_elsewhere(local: Desk, folder: Path) -> None:
    done = local.fetch(local.register(kind="folder", path=str(folder)))
    assert registry.prune(local.ctx, local.caller, model="reader", revision=done.revision) == []
    assert (folder / SHARD).is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_said(desk: Desk) -> None:
    desk.ctx.settings.home.mkdir(parents=True)
    desk.ctx.settings.home.chmod(stat.S_IRUSR | stat.S_IXUSR)
    made = desk.register()
    desk.begin(made)
    assert getattr(desk.step(), "code", None) == "disk_full"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, desk: Desk) -> Iterator[Any]:
    """A real server of S3's kind on this machine, with the model in it."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server.start()
    host, port = server.get_host_and_port()
    update = {"s3_endpoint_url": f"http://{host}:{port}", "source_buckets": "s3://models/*"}
    object.__setattr__(desk.ctx, "settings", desk.ctx.settings.model_copy(update=update))
    fs = s3fs.S3FileSystem(endpoint_url=update["s3_endpoint_url"], skip_instance_cache=True)
    fs.call_s3("create_bucket", Bucket="models")
    for name, data in make_model().items():
        fs.call_s3("put_object", Bucket="models", Key=f"reader/{name}", Body=data)
    yield fs
    server.stop()


@pytest.mark.long
def test_a_bucket_is_fetched_and_gone_on_with(bucket: Any, desk: Desk) -> None:
    with pytest.raises(BadRequest) as refused:
        desk.register(kind="bucket", uri="s3://others/reader")
    assert refused.value.code == "source_not_allowed"
    made = desk.register(kind="bucket", uri="s3://models/reader")
    assert made.facts["licence"] == "apache-2.0"
    place = desk.ctx.settings.models_dir / "reader" / f"{made.revision}.part"
    place.mkdir(parents=True)
    (place / f"{SHARD}.part").write_bytes(make_model()[SHARD][:1000])
    done = desk.fetch(made)
    assert done.state == "fetched"
    for name, data in make_model().items():
        if not name.endswith(".py"):
            assert (Path(done.path) / name).read_bytes() == data
    assert all(one["sha256"] for one in done.files)


@pytest.mark.long
def test_a_bucket_that_changed_since_it_was_listed_is_refused(bucket: Any, desk: Desk) -> None:
    made = desk.register(kind="bucket", uri="s3://models/reader")
    bucket.call_s3("put_object", Bucket="models", Key=f"reader/{SHARD}", Body=b"others")
    desk.begin(made)
    assert getattr(desk.step(), "code", None) == "model_file_mismatch"


def test_names_that_would_be_taken_for_something_else_are_refused(desk: Desk) -> None:
    for name in ("../up", "a/b/c", "a/../b", ".hidden", "x/revisions", "fetch", "0" * 40, "a.part", "a b", "a\0b", ""):
        with pytest.raises(BadRequest):
            desk.register(name)
    assert desk.register("Acme/reader-2.1_b").model == "Acme/reader-2.1_b"
    local = replace(desk)
    assert [one.name for one in models.list_models(local.ctx, local.caller)] == ["Acme/reader-2.1_b"]
