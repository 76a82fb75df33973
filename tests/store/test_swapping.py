"""Hot swap, step by step, on rows that stand for replicas: no keeper and no engine is there."""

from __future__ import annotations

import base64
import io
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from batchinfer.domain.deployments import parse_deployment
from batchinfer.domain.goldens import parse_goldens
from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.domain.limits import Limits
from batchinfer.domain.swaps import SwapRequest, SwapState
from batchinfer.errors import BadImage, BatchinferError, Conflict, Forbidden, NotFound
from batchinfer.services import deployments, models, swapping
from batchinfer.services.context import Idempotency
from batchinfer.store import deployments as store
from batchinfer.store import revisions, sweeping

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.deployments import Standing
    from batchinfer.store.deployments import Deployment

B = SwapRequest("r2")


@pytest.fixture
def served(bench: Any) -> Standing:
    """A deployment of revision r1, with r2 fetched beside it."""
    save(bench, "r2")
    return deployments.launch(bench.ctx, bench.caller, parse_deployment({"model": "reader", "device": "cpu"}))[0]


def save(bench: Any, revision: str, state: str = "fetched") -> None:
    with bench.ctx.db.transaction() as tx:
        revisions.save_revision(
            tx, "reader", revision, source={}, path=f"/{revision}", state=state, facts={"of": revision}
        )


def place(bench: Any, deployment_id: UUID, revision: str, state: str, wanted: str) -> UUID:
    replica_id = new_id()
    bench.run(
        "INSERT INTO replicas (id, tenant_id, deployment_id, host, worker, model, revision, device, state, wanted)"
        " VALUES (:id, :tenant, :deployment, 'here', :worker, 'reader', :revision, 'cpu', :state, :wanted)",
        id=replica_id, tenant=DEFAULT_TENANT, deployment=deployment_id, revision=revision, state=state, wanted=wanted,
        worker=f"w-{replica_id.hex[-6:]}",
    )  # fmt: skip
    return replica_id


def turn(bench: Any, replica_id: UUID, state: str, error: str | None = None) -> None:
    ended = "now()" if state in ("failed", "stopped") else "NULL"
    bench.run(
        f"UPDATE replicas SET state = :state, error = CAST(:error AS jsonb), ended_at = {ended} WHERE id = :id",  # noqa: S608
        id=replica_id, state=state, error=error,
    )  # fmt: skip


def read(bench: Any, deployment_id: UUID) -> Deployment:
    return deployments.read_standing(bench.ctx, deployment_id).deployment


def advance(bench: Any, deployment_id: UUID) -> SwapState | None:
    with bench.ctx.db.transaction() as tx:
        found = store.find_deployment(tx, deployment_id)
        assert found is not None
        return swapping.advance(tx, found, [])


def wanted(bench: Any) -> dict[UUID, str]:
    return {row.id: row.wanted for row in bench.rows("replicas")}


def events(bench: Any) -> list[str]:
    return [row.event for row in sorted(bench.rows("events", subject="deployment"), key=lambda row: row.id)]


def test_a_swap_loads_tests_and_switches_in_one_step(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    old = place(bench, one, "r1", "ready", "serve")
    begun, replayed = swapping.begin_swap(bench.ctx, bench.caller, one, B)
    assert (begun.status, replayed, begun.deployment.revision) == ("swapping", False, "r1")
    assert (begun.deployment.next_revision, begun.deployment.swap["by"]) == ("r2", "tests")
    assert advance(bench, one) is None
    new = place(bench, one, "r2", "planned", "stand_by")
    assert advance(bench, one) is None
    turn(bench, new, "verifying")
    assert advance(bench, one) is SwapState.TESTING
    assert read(bench, one).revision == "r1"
    turn(bench, new, "standing_by")
    assert advance(bench, one) is SwapState.SWITCHED
    after = read(bench, one)
    assert (after.revision, after.previous_revision, after.next_revision) == ("r2", "r1", None)
    assert (after.path, after.swap["state"], after.swap["from"]) == ("/r2", "switched", "r1")
    assert wanted(bench) == {old: "drain", new: "serve"}
    model = models.get_model(bench.ctx, bench.caller, "reader")
    assert (model.revision, model.path, model.facts) == ("r2", "/r2", {"of": "r2"})
    assert advance(bench, one) is None
    assert events(bench) == ["launched", "swap_started", "swap_testing", "switched"]


def test_a_revision_that_fails_is_drained_and_the_old_one_serves(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    old = place(bench, one, "r1", "ready", "serve")
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    good, bad = (place(bench, one, "r2", state, "stand_by") for state in ("standing_by", "verifying"))
    turn(bench, bad, "failed", '{"code": "golden_failed", "message": "It answers 0 of 1 rightly."}')
    assert advance(bench, one) is SwapState.FAILED
    after = read(bench, one)
    assert (after.revision, after.previous_revision, after.next_revision) == ("r1", None, None)
    assert (after.swap["state"], after.swap["error"]["code"]) == ("failed", "golden_failed")
    assert (wanted(bench)[old], wanted(bench)[good]) == ("serve", "drain")
    assert models.get_model(bench.ctx, bench.caller, "reader").revision == "r1"
    # The next try begins with a clean slate: the failed replica is older than it.
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    assert advance(bench, one) is None
    place(bench, one, "r2", "standing_by", "stand_by")
    assert advance(bench, one) is SwapState.SWITCHED


def test_a_replica_that_ended_in_order_is_waited_for_again(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    first = place(bench, one, "r2", "verifying", "stand_by")
    assert advance(bench, one) is SwapState.TESTING
    turn(bench, first, "stopped")
    assert advance(bench, one) is SwapState.LOADING
    place(bench, one, "r2", "standing_by", "stand_by")
    assert advance(bench, one) is SwapState.SWITCHED


def test_a_replica_that_is_to_go_is_not_called_back_by_the_switch(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    leaving = place(bench, one, "r2", "standing_by", "drain")
    staying = place(bench, one, "r2", "standing_by", "stand_by")
    assert advance(bench, one) is SwapState.SWITCHED
    assert wanted(bench) == {leaving: "drain", staying: "serve"}


def test_of_two_operators_one_wins_and_the_other_hears_who_and_since_when(bench: Any, served: Standing) -> None:
    save(bench, "r3")
    barrier, ended = threading.Barrier(2), []

    def swap(name: str, revision: str) -> None:
        operator = replace(bench.caller, name=name)
        barrier.wait(30)
        try:
            swapping.begin_swap(bench.ctx, operator, served.deployment.id, SwapRequest(revision))
            ended.append((name, None))
        except Conflict as error:
            ended.append((name, error))

    threads = [threading.Thread(target=swap, args=pair) for pair in (("ann", "r2"), ("bob", "r3"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ((winner, _),) = [one for one in ended if one[1] is None]
    ((_, refusal),) = [one for one in ended if one[1] is not None]
    assert refusal.code == "swap_in_progress"
    assert winner in refusal.message
    assert "since 20" in refusal.message
    assert read(bench, served.deployment.id).swap["by"] == winner
    with pytest.raises(Conflict, match=winner):
        swapping.rollback(bench.ctx, bench.caller, served.deployment.id)


def test_a_rollback_is_a_swap_to_the_revision_before(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    with pytest.raises(Conflict) as caught:
        swapping.rollback(bench.ctx, bench.caller, one)
    assert caught.value.code == "no_previous_revision"
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    second = place(bench, one, "r2", "standing_by", "stand_by")
    advance(bench, one)
    turn(bench, second, "ready")
    swapping.rollback(bench.ctx, bench.caller, one, SwapRequest("", drain_first=True))
    begun = read(bench, one)
    assert (begun.next_revision, begun.swap["rollback"], begun.swap["drain_first"]) == ("r1", True, True)
    first = place(bench, one, "r1", "standing_by", "stand_by")
    assert advance(bench, one) is SwapState.ROLLED_BACK
    after = read(bench, one)
    assert (after.revision, after.previous_revision, after.swap["state"]) == ("r1", "r2", "rolled_back")
    assert wanted(bench) == {first: "serve", second: "drain"}
    assert models.get_model(bench.ctx, bench.caller, "reader").revision == "r1"
    assert events(bench)[-2:] == ["rollback_started", "rolled_back"]


def test_what_cannot_be_swapped(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    save(bench, "half", "fetching")
    save(bench, "gone", "verified")
    bench.run("UPDATE model_revisions SET pruned_at = now() WHERE revision = 'gone'")
    for revision, kind, code in (
        ("r1", Conflict, "revision_served"), ("r9", NotFound, "revision_not_found"),
        ("half", Conflict, "revision_not_fetched"), ("gone", Conflict, "revision_not_fetched"),
    ):  # fmt: skip
        with pytest.raises(BatchinferError) as caught:
            swapping.begin_swap(bench.ctx, bench.caller, one, SwapRequest(revision))
        assert (type(caught.value), caught.value.code) == (kind, code)
    reader = replace(bench.caller, scopes=frozenset({"read"}))
    for act in (
        lambda: swapping.begin_swap(bench.ctx, reader, one, B),
        lambda: swapping.rollback(bench.ctx, reader, one),
    ):
        with pytest.raises(Forbidden):
            act()
    deployments.stop(bench.ctx, bench.caller, one)
    with pytest.raises(Conflict) as stopped:
        swapping.begin_swap(bench.ctx, bench.caller, one, B)
    assert stopped.value.code == "deployment_stopped"
    assert bench.rows("audit", action="deployment.swap") == []


def test_a_cancelled_swap_drains_the_new_one_alone(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    old = place(bench, one, "r1", "ready", "serve")
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    new = place(bench, one, "r2", "loading", "stand_by")
    cancelled = deployments.cancel_load(bench.ctx, bench.caller, one).deployment
    assert (cancelled.next_revision, cancelled.swap["state"], cancelled.replicas) == (None, "cancelled", 1)
    assert wanted(bench) == {old: "serve", new: "drain"}
    assert advance(bench, one) is None
    assert events(bench)[-1] == "swap_cancelled"


def test_a_swap_has_failed_when_its_time_is_over_and_the_old_one_serves(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    old = place(bench, one, "r1", "ready", "serve")
    swapping.begin_swap(bench.ctx, bench.caller, one, replace(B, within_s=600))
    new = place(bench, one, "r2", "loading", "stand_by")
    assert advance(bench, one) is None
    long_ago = "swap || jsonb_build_object('since', now() - interval '601 seconds')"
    bench.run(f"UPDATE deployments SET swap = {long_ago} WHERE id = :id", id=one)  # noqa: S608
    assert advance(bench, one) is SwapState.FAILED
    after = read(bench, one)
    assert (after.revision, after.next_revision, after.swap["error"]["code"]) == ("r1", None, "swap_overdue")
    assert wanted(bench) == {old: "serve", new: "drain"}
    assert events(bench)[-1] == "swap_failed"


def test_a_deployment_that_is_stopped_under_a_swap_switches_no_more(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    new = place(bench, one, "r2", "standing_by", "stand_by")
    stopped = deployments.stop(bench.ctx, bench.caller, one).deployment
    assert (stopped.swap["state"], stopped.next_revision) == ("cancelled", None)
    assert advance(bench, one) is None
    assert wanted(bench) == {new: "drain"}


def test_many_placements_at_once_switch_once(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    old = place(bench, one, "r1", "ready", "serve")
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    new = place(bench, one, "r2", "standing_by", "stand_by")
    stale = read(bench, one)  # both read it before either takes a step
    barrier, steps = threading.Barrier(2), []

    def step() -> None:
        with bench.ctx.db.transaction() as tx:
            barrier.wait(30)
            steps.append(swapping.advance(tx, stale))

    threads = [threading.Thread(target=step) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, steps)) == ["None", "switched"]
    after = read(bench, one)
    assert (after.revision, after.previous_revision) == ("r2", "r1")
    assert wanted(bench) == {old: "drain", new: "serve"}
    assert events(bench).count("switched") == 1


def test_a_switch_that_breaks_off_changes_nothing(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    old = place(bench, one, "r1", "ready", "serve")
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    new = place(bench, one, "r2", "standing_by", "stand_by")
    bench.run("ALTER TABLE events ADD CONSTRAINT never CHECK (event <> 'switched') NOT VALID")
    with pytest.raises(Exception, match="never"):
        advance(bench, one)
    assert (read(bench, one).revision, read(bench, one).next_revision) == ("r1", "r2")
    assert models.get_model(bench.ctx, bench.caller, "reader").revision == "r1"
    assert wanted(bench) == {old: "serve", new: "stand_by"}


def test_the_model_follows_its_most_urgent_deployment_and_others_keep_what_they_serve(
    bench: Any, served: Standing
) -> None:
    other = deployments.launch(
        bench.ctx, bench.caller, parse_deployment({"model": "reader", "device": "cuda", "priority": -1})
    )[0].deployment.id
    one = served.deployment.id
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    place(bench, one, "r2", "standing_by", "stand_by")
    advance(bench, one)
    assert read(bench, one).revision == "r2"
    assert (read(bench, other).revision, read(bench, other).own_revision) == ("r1", "r1")
    save(bench, "r3")
    swapping.begin_swap(bench.ctx, bench.caller, other, SwapRequest("r3"))
    place(bench, other, "r3", "standing_by", "stand_by")
    assert advance(bench, other) is SwapState.SWITCHED
    assert read(bench, other).revision == "r3"
    assert models.get_model(bench.ctx, bench.caller, "reader").revision == "r2"


def test_a_restart_that_registers_the_model_again_undoes_no_swap(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    first = models.get_model(bench.ctx, bench.caller, "reader").id
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    place(bench, one, "r2", "standing_by", "stand_by")
    advance(bench, one)
    assert models.register_model(bench.ctx, "reader", "/nowhere", "r1", {}) == first
    models.ensure_deployment(bench.ctx, "reader", device="cpu")
    assert (read(bench, one).revision, read(bench, one).path) == ("r2", "/r2")
    assert models.get_model(bench.ctx, bench.caller, "reader").revision == "r2"


def test_a_deployment_without_replicas_switches_at_once(bench: Any, served: Standing) -> None:
    one = served.deployment.id
    deployments.ensure(bench.ctx, bench.caller, parse_deployment({"model": "reader", "device": "cpu", "replicas": 0}))
    swapping.begin_swap(bench.ctx, bench.caller, one, B)
    assert advance(bench, one) is SwapState.SWITCHED


def test_a_swap_wakes_and_mends_what_it_swaps(bench: Any, served: Standing) -> None:
    bench.run("UPDATE deployments SET asleep = true, failures = 5, next_try_at = now() + interval '5 min'")
    swapping.begin_swap(bench.ctx, bench.caller, served.deployment.id, B)
    begun = read(bench, served.deployment.id)
    assert (begun.asleep, begun.failures, begun.next_try_at) == (False, 0, None)


def test_a_swap_with_a_key_is_replayed(bench: Any, served: Standing) -> None:
    key = Idempotency("POST", "/v1/deployments/x/swap", "k", b"1" * 32)
    first = swapping.begin_swap(bench.ctx, bench.caller, served.deployment.id, B, key)
    again = swapping.begin_swap(bench.ctx, bench.caller, served.deployment.id, B, key)
    assert (first[1], again[1]) == (False, True)
    assert len(bench.rows("audit", action="deployment.swap")) == 1


def test_golden_prompts_are_kept_with_the_swap_where_every_host_finds_them(bench: Any, served: Standing) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    lines = [{"prompt": "Read.", "image": url, "expect": "x"}, {"prompt": "Say.", "expect": {"contains": "y"}}]
    limits, one = Limits.of(bench.ctx.settings), served.deployment.id
    request = SwapRequest("r2", parse_goldens(lines, limits))
    swapping.begin_swap(bench.ctx, bench.caller, one, request)
    kept = read(bench, one).swap
    (sha256,) = kept["golden"][0]["pictures"]
    assert bench.ctx.blobs.read(DEFAULT_TENANT, sha256) == file.getvalue()
    assert bench.row("blobs", sha256=sha256).media_type == "image/png"
    assert (kept["goldens"], kept["golden"][1]["expected"]) == (2, ["y"])
    deployments.cancel_load(bench.ctx, bench.caller, one)
    assert "golden" not in read(bench, one).swap
    again = SwapRequest("r2", parse_goldens([{"prompt": "x", "image": sha256, "expect": "y"}], limits))
    swapping.begin_swap(bench.ctx, bench.caller, one, again)
    assert read(bench, one).swap["golden"][0]["pictures"] == [sha256]
    assert list_swept(bench) == []
    place(bench, one, "r2", "standing_by", "stand_by")
    assert advance(bench, one) is SwapState.SWITCHED
    assert "golden" not in read(bench, one).swap
    assert bench.row("deployments", id=one).golden[0]["pictures"] == [sha256]
    swapping.rollback(bench.ctx, bench.caller, one)
    place(bench, one, "r1", "standing_by", "stand_by")
    assert advance(bench, one) is SwapState.ROLLED_BACK
    assert bench.row("deployments", id=one).golden[0]["pictures"] == [sha256], "a rollback brings none of its own"
    assert list_swept(bench) == []
    deployments.stop(bench.ctx, bench.caller, one)
    assert list_swept(bench) == [sha256]


def list_swept(bench: Any) -> list[str]:
    """The blobs that upkeep would remove, were all of them old."""
    bench.run("UPDATE blobs SET used_at = now() - interval '9 days'")
    with bench.ctx.db.transaction() as tx:
        old = datetime.now(UTC) - timedelta(days=1)
        return [one.sha256 for one in sweeping.hold_orphans(tx, before=old, plain_before=old, limit=10)]


def test_a_golden_picture_that_is_none_begins_no_swap(bench: Any, served: Standing) -> None:
    limits, one = Limits.of(bench.ctx.settings), served.deployment.id
    text = f"data:image/png;base64,{base64.b64encode(b'no picture').decode()}"
    for picture, code in ((text, "unsupported_image_media_type"), ("a" * 64, "picture_not_kept")):
        golden = parse_goldens([{"prompt": "x", "image": picture, "expect": "y"}], limits)
        with pytest.raises((BadImage, NotFound)) as caught:
            swapping.begin_swap(bench.ctx, bench.caller, one, SwapRequest("r2", golden))
        assert (caught.value.code, caught.value.param) == (code, "golden.0.image")
    assert read(bench, one).next_revision is None
