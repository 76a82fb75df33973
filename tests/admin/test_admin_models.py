"""The Models pages as a browser without JavaScript gets them: plan, launch, change, swap, files, a try."""

from __future__ import annotations

import html
import io
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.ids import DEPLOYMENT, show_id
from batchinfer.domain.replicas import ReplicaState as S
from batchinfer.services import deployments, device_use, keys, registry, swapping
from batchinfer.store import audit

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

HOSTILE = "<script>alert(1)</script>\u202egnp"


@pytest.fixture
def reader(context: Context, sign_in: Callable[[str], FlaskClient], api_key: str) -> FlaskClient:
    """A browser whose key may only read."""
    return sign_in(keys.create_key(context, "looking", ["read"])[1])


def flat(page: Any) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.text)))


def at(deployment_id: UUID, verb: str = "") -> str:
    return f"/admin/deployments/{show_id(DEPLOYMENT, deployment_id)}{'/' + verb if verb else ''}"


def acts(context: Context) -> list[str]:
    with context.db.transaction() as tx:
        listed = audit.list_acts(tx, None, audit.Wanted(), after=None, limit=50)
    return [stored.act.action for stored in listed if stored.act.action.partition(".")[0] not in {"key", "pages"}]


def test_an_empty_installation_says_the_next_step(client: FlaskClient, reader: FlaskClient, fleet: Any) -> None:
    page = flat(client.get("/admin/models"))
    assert "No model is deployed. Register a model first" in page
    assert "No model is known yet." in page
    assert "batchinfer up starts one" in page
    fleet.know()
    page = client.get("/admin/models")
    assert "No model is deployed. Plan one: reader" in flat(page)
    assert 'href="/admin/plan?model=reader"' in page.text
    assert "A key with the scope 'launch' can plan one." in flat(reader.get("/admin/models"))


def test_the_list_has_wishes_replicas_and_devices(client: FlaskClient, fleet: Any) -> None:
    fleet.know(licence="MIT")
    fleet.open()
    fleet.launch(slots=4, replicas=2)
    first, second = fleet.place()
    fleet.bring_up(first)
    fleet.fail(second, "The weights are cut short. Fetch the model again.")
    page = client.get("/admin/models")
    text = flat(page)
    assert "1 of 2 ready" in text
    assert "model0@box" in text
    assert re.search(r"planned [\d.]+ s", text)
    assert "start 2.10 s" in text
    assert "23 weights" in text
    assert "507" in text
    assert "load_failed The weights are cut short. Fetch the model again." in text
    assert "Next try" in text
    assert "MIT" in text
    assert re.search(r"[\d,]+ of 24,152 MiB free", text)
    assert "System and other processes kept for them 2,415 MiB" in text
    assert '<svg class="memory" role="img"' in page.text


def test_the_bar_grows_with_a_launch_and_shrinks_with_a_stop(client: FlaskClient, fleet: Any) -> None:
    def free() -> int:
        found = re.search(r"([\d,]+) of 24,152 MiB free", flat(client.get("/admin/models")))
        assert found is not None
        return int(found[1].replace(",", ""))

    fleet.know()
    fleet.open()
    empty = free()
    assert empty == 24_152 - 2415
    deployment = fleet.launch(slots=4)
    (replica,) = fleet.place()
    held = empty - free()
    assert held > 1000
    fleet.bring_up(replica, memory_mib=900)
    (use,) = device_use.list_devices(fleet.context, fleet.caller)
    (share,) = use.shares
    assert (share.measured_mib, use.free_mib) == (900, free())
    assert share.mib > 900, "what its work adds is still kept for it"
    client.post(at(deployment, "stop"))
    fleet.move(replica.id, S.DRAINING, S.STOPPED)
    assert free() == empty


def test_a_plan_says_what_it_takes_and_a_launch_follows(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    fleet.open()
    page = client.get("/admin/plan?model=reader&device=cpu&slots=4&class=batch&idle_s=30m&labels=&pinned=on")
    text = flat(page)
    assert "It fits." in text
    assert "4 rows at once" in text
    assert "Weights float32 23" in text
    assert "MiB a slot" in text
    assert "this launch" in text
    assert 'fill="url(#device1-hatch)"' in page.text
    assert acts(context) == []
    sent = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
    assert sent["slots"] == "4"
    answer = client.post("/admin/plan", data=sent)
    assert answer.status_code == 303
    (standing,) = deployments.list_deployments(context, fleet.caller)
    held = standing.deployment
    assert (held.slots, held.device, held.idle_s, held.pinned, held.job_class) == (4, "cpu", 1800, True, "batch")
    assert acts(context) == ["deployment.launch"]
    again = client.post("/admin/plan", data=sent)
    assert again.status_code == 409
    assert 'id="wrong-model"' in again.text


def test_a_plan_that_does_not_fit_says_why_and_what_would(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    fleet.know("other")
    fleet.open(total_mib=4000)
    other = fleet.launch("other")
    fleet.bring_up(*fleet.place())
    page = client.get("/admin/plan?model=reader&device=cpu&slots=64")
    text = flat(page)
    assert "It does not fit." in text
    assert "MiB are missing" in text
    assert "Stop model0@box (other," in text
    assert f'href="{at(other)}"' in page.text
    assert '<button type="submit" class="primary">Launch</button>' not in page.text
    smaller = html.unescape(re.findall(r'href="(/admin/plan\?[^"]*slots=\d+[^"]*)"', page.text)[0])
    assert "It fits." in flat(client.get(smaller))
    refused = client.post("/admin/plan", data={"model": "reader", "device": "cpu", "slots": "64"})
    assert refused.status_code == 409
    assert "no_memory" in refused.text


def test_what_is_wrong_stands_beside_its_field(client: FlaskClient, fleet: Any) -> None:
    fleet.know()
    fleet.open()
    for wrong in ("slots=many", "slots=0", "memory_mib=5", "options=[1]", "options={", "labels=gpu", "idle_s=soon",
                  "device=tpu", "context_tokens=x", "replicas=1000", "revision=r9", f"dtype={HOSTILE}"):  # fmt: skip
        page = client.get(f"/admin/plan?model=reader&{wrong}")
        field = wrong.split("=")[0]
        assert page.status_code in (400, 404), wrong
        assert f'aria-invalid="true" aria-describedby="wrong-{field}"' in page.text, wrong
        assert f'id="wrong-{field}"' in page.text, wrong
        assert "<script>alert" not in page.text


def test_a_launch_is_followed_by_its_steps_and_can_be_cancelled(
    client: FlaskClient, fleet: Any, context: Context
) -> None:
    fleet.know()
    fleet.open()
    deployment = fleet.launch()
    (replica,) = fleet.place()
    fleet.move(replica.id, S.LOADING)
    page = client.get(at(deployment))
    assert re.search(r'<li class="done" >\s*planned', page.text)
    assert re.search(r'<li class="now" aria-current="step">\s*loading', page.text)
    assert re.search(r'<li class="todo" >\s*ready', page.text)
    assert "Cancel the launch" in page.text
    question = client.get(at(deployment, "cancel"))
    assert "What is loading ends." in question.text
    assert client.post(at(deployment, "cancel")).status_code == 303
    fleet.move(replica.id, S.STOPPED)
    page = flat(client.get(at(deployment)))
    assert "no replica is wanted" in page
    assert "Load one replica" in page
    assert client.post(at(deployment, "start")).status_code == 303
    assert deployments.read_standing(context, deployment).deployment.replicas == 1
    assert acts(context)[:2] == ["deployment.ensure", "deployment.cancel"]


def test_a_failed_load_shows_its_remedy_and_is_tried_again(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    fleet.open()
    deployment = fleet.launch()
    fleet.fail(fleet.place()[0], f"It broke. {HOSTILE}")
    page = client.get(at(deployment))
    assert "<script>alert" not in page.text
    assert "U+202E" in page.text
    assert "Failed once." in flat(page)
    assert client.post(at(deployment, "resume")).status_code == 303
    assert deployments.read_standing(context, deployment).deployment.failures == 0


def test_a_change_is_what_ensure_offers(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    fleet.open(gpu="none")
    deployment = fleet.launch(labels={"gpu": "none"}, options={"context_tokens": 512, "x": 1}, pinned=True)
    page = client.get(at(deployment, "change"))
    assert 'name="context_tokens" value="512"' in page.text
    assert ">gpu=none</textarea>" in page.text
    assert html.unescape(page.text).count('{"x": 1}') == 1
    form = {"replicas": "2", "engine": "auto", "dtype": "auto", "quantisation": "none", "class": "normal",
            "labels": "gpu=none", "options": '{"x": 1}', "context_tokens": "512", "slots": "4"}  # fmt: skip
    wrong = client.post(at(deployment, "change"), data={**form, "slots": "-1"})
    assert wrong.status_code == 400
    assert 'id="wrong-slots"' in wrong.text
    assert client.post(at(deployment, "change"), data=form).status_code == 303
    held = deployments.read_standing(context, deployment).deployment
    assert (held.replicas, held.slots, held.pinned) == (2, 4, False)
    assert (held.labels, held.options) == ({"gpu": "none"}, {"x": 1, "context_tokens": 512})
    client.post(at(deployment, "stop"))
    stale = client.post(at(deployment, "change"), data=form)
    assert stale.status_code == 409, "a stopped one is not launched again by a form that was left open"
    assert deployments.list_deployments(context, fleet.caller) == []


def test_stop_asks_first_and_a_stale_form_is_no_fault(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    deployment = fleet.launch()
    assert "Stop reader on cpu?" in flat(client.get(at(deployment, "stop")))
    assert client.post(at(deployment, "stop")).status_code == 303
    assert "Plan it again" in client.get(at(deployment)).text
    for verb in ("cancel", "resume", "start", "swap", "rollback"):
        assert client.post(at(deployment, verb)).status_code == 409, verb
    assert client.get("/admin/deployments/dep_1").status_code == 404
    assert acts(context)[0] == "deployment.stop"


def test_a_swap_says_whether_both_fit_and_its_prompts_are_read(
    client: FlaskClient, fleet: Any, context: Context
) -> None:
    fleet.know()
    fleet.add_revision("reader", "r2")
    fleet.open()
    deployment = fleet.launch()
    fleet.bring_up(*fleet.place())
    assert 'value="r2"' in client.get(at(deployment, "swap")).text
    assert "Both fit: nobody waits." in client.get(at(deployment, "swap") + "?revision=r2").text
    fleet.open("box", total_mib=3000)
    page = client.get(at(deployment, "swap") + "?revision=r2").text
    assert "the old one must drain first" in page
    assert re.search(r'name="drain_first" checked', page)
    bad = {"{": "line 1", '{"prompt": "Say 4."}': "expect", '{"prompt": "x", "image": "a.png"}': "data URL"}
    for golden, said in bad.items():
        wrong = client.post(at(deployment, "swap"), data={"revision": "r2", "golden": golden})
        assert wrong.status_code == 400
        assert 'id="wrong-golden"' in wrong.text
        assert said in flat(wrong)
    lines = b'{"prompt": "Say 4.", "expect": "4"}\n{"prompt": "Say 5.", "expect": "5"}\n'
    form = {"revision": "r2", "golden_file": (io.BytesIO(lines), "golden.jsonl")}
    assert client.post(at(deployment, "swap"), data=form).status_code == 303
    page = flat(client.get(at(deployment)))
    assert "2 golden prompts must be answered rightly first." in page
    assert "Cancel the swap" in page
    second = client.post(at(deployment, "swap"), data={"revision": "r2"})
    assert second.status_code == 409
    assert "swap_in_progress" in second.text
    assert "Cancel the swap?" in flat(client.get(at(deployment, "cancel")))
    client.post(at(deployment, "cancel"))
    assert "cancelled" in flat(client.get(at(deployment)))
    assert acts(context)[:2] == ["deployment.cancel", "deployment.swap"]


def test_a_switch_can_be_rolled_back(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    fleet.add_revision("reader", "r2")
    fleet.open()
    deployment = fleet.launch()
    fleet.bring_up(*fleet.place())
    client.post(at(deployment, "swap"), data={"revision": "r2"})
    (replica,) = fleet.place()
    fleet.move(replica.id, S.LOADING, S.VERIFYING, S.STANDING_BY)
    with context.db.transaction() as tx:
        assert swapping.advance(tx, deployments.lock(tx, deployment)) == "switched"
    assert "Roll back" in client.get(at(deployment)).text
    page = client.get(at(deployment, "rollback"))
    assert "Golden prompts" not in page.text
    assert client.post(at(deployment, "rollback")).status_code == 303
    held = deployments.read_standing(context, deployment).deployment
    assert (held.revision, held.next_revision) == ("r2", "r1")
    assert acts(context)[0] == "deployment.rollback"


def test_files_are_fetched_followed_and_ended(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.list_fetching("org/large", "abcdef123456", 400)
    page = client.get("/admin/models/org/large")
    assert "fetching" in page.text
    assert "0 of 400 MiB" in flat(page)
    assert "apache-2.0" in client.get("/admin/models").text
    asked = "?model=org/large&revision=abcdef123456"
    assert client.post(f"/admin/cancel-fetch{asked}").status_code == 303
    assert registry.get_revision(context, fleet.caller, "org/large", "abcdef123456").state == "registered"
    assert client.post(f"/admin/fetch{asked}").status_code == 303
    assert client.post("/admin/fetch?model=org/large&revision=ffffff").status_code == 404
    assert client.get("/admin/models/nobody").status_code == 404
    assert acts(context)[:2] == ["model.fetch", "model.cancel_fetch"]


def test_a_folder_is_registered_and_what_is_wrong_stands_beside_its_field(
    client: FlaskClient, context: Context, fleet: Any
) -> None:
    folder = fleet.folder
    form = {"name": "reader", "kind": "folder", "place": str(folder), "revision": ""}
    for changed, field in (({"name": "../x"}, "name"), ({"place": "relative"}, "place"), ({"kind": "ftp"}, "kind"),
                           ({"place": ""}, "place"), ({"kind": "huggingface", "place": "no"}, "place")):  # fmt: skip
        wrong = client.post("/admin/register", data={**form, **changed})
        assert wrong.status_code in (400, 503), changed
        assert f'aria-describedby="wrong-{field}"' in wrong.text, changed
        assert str(folder.parent) not in wrong.text.replace(str(folder), "")
    home = context.settings.home / "models"
    home.mkdir(parents=True, exist_ok=True)

    shutil.copytree(folder, home / "mine")
    made = client.post("/admin/register", data={**form, "place": str(home / "mine")})
    assert made.headers["Location"] == "/admin/models/reader"
    assert "Fetch" in client.get("/admin/models/reader").text
    (kept,) = registry.list_revisions(context, fleet.caller, "reader")
    asked = f"?model=reader&revision={kept.revision}"
    assert client.post(f"/admin/verify{asked}").status_code == 409  # nothing is here yet to be read
    assert acts(context) == ["model.register"]


def test_files_are_read_again_at_a_press(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    (kept,) = registry.list_revisions(context, fleet.caller, "reader")
    assert "Verify" in client.get("/admin/models/reader").text
    assert client.post(f"/admin/verify?model=reader&revision={kept.revision}").status_code == 303
    assert "being read again" in client.get("/admin/models/reader").text
    assert acts(context)[0] == "model.verify"


def test_pruning_says_first_what_it_frees(client: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    assert "Nothing of it is on the disk." in client.get("/admin/prune?model=reader").text
    fleet.add_revision("reader", "r2")
    place = context.settings.home / "models" / "reader" / "r2"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"0" * (3 * 2**20))
    page = flat(client.get("/admin/prune?model=reader"))
    assert "Take away 1 revision: 3 MiB" in page
    assert place.exists()
    done = client.post("/admin/prune?model=reader")
    assert done.status_code == 303
    assert not place.exists()
    assert "3 MiB were freed." in client.get("/admin/models/reader").text
    assert acts(context) == ["model.prune"]


def test_a_try_is_an_ordinary_urgent_job(client: FlaskClient, fleet: Any, context: Context) -> None:
    from PIL import Image

    fleet.know()
    picture = io.BytesIO()
    Image.new("RGB", (40, 40), "white").save(picture, "PNG")
    page = client.get("/admin/try?model=reader")
    assert '<option value="reader" selected>' in page.text
    empty = client.post("/admin/try", data={"model": "reader", "prompt": ""})
    assert empty.status_code == 400
    assert 'id="wrong-prompt"' in empty.text
    form = {"model": "reader", "prompt": "Read it.", "file": (io.BytesIO(picture.getvalue()), "page.png")}
    made = client.post("/admin/try", data=form)
    assert made.status_code == 303, made.text
    job = client.get(made.headers["Location"])
    assert "interactive" in job.text
    assert "Read it." in job.text
    assert client.post("/admin/try", data={"model": "nobody", "prompt": "x"}).status_code == 404


def test_a_key_that_only_reads_sees_no_button(reader: FlaskClient, fleet: Any, context: Context) -> None:
    fleet.know()
    fleet.add_revision("reader", "r2")
    fleet.open()
    deployment = fleet.launch()
    fleet.bring_up(*fleet.place())
    count = len(acts(context))
    paths = ["/admin/models", "/admin/models/reader", at(deployment), "/admin/plan?model=reader", "/admin/workers"]
    for path in paths:
        page = reader.get(path)
        assert page.status_code == 200, path
        main = page.text.split("<main")[1]
        assert 'method="post"' not in main, path
        assert "data-dialog" not in main, path
    for path in (at(deployment, "stop"), at(deployment, "cancel"), at(deployment, "resume"), at(deployment, "change"),
                 at(deployment, "swap"), at(deployment, "rollback"), "/admin/plan", "/admin/register", "/admin/try",
                 "/admin/fetch?model=reader&revision=r2", "/admin/cancel-fetch?model=reader&revision=r2",
                 "/admin/prune", "/admin/hosts/box/drain", "/admin/hosts/box/resume"):  # fmt: skip
        data = {"model": "reader", "prompt": "x"}
        assert reader.post(path, data=data).status_code == 403, path
    assert len(acts(context)) == count


def test_a_fragment_that_did_not_change_answers_204(client: FlaskClient, fleet: Any) -> None:
    fleet.know()
    fleet.open()
    fleet.bring_up(fleet_replica(fleet))
    poll = {"HX-Request": "true"}
    seen = re.search(r'name="seen" value="(\w+)"', client.get("/admin/models").text)
    assert seen is not None
    assert client.get(f"/admin/models?seen={seen[1]}", headers=poll).status_code == 204


def fleet_replica(fleet: Any) -> Any:
    fleet.launch()
    return fleet.place()[0]
