"""Events are written with what they tell of; each try to deliver one is noted, and an endpoint that fails is spared."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
import pytest

from batchinfer.domain.ids import BATCH, ENDPOINT, JOB, RESPONSE, new_id, show_id
from batchinfer.domain.prompts import Limits, parse_job
from batchinfer.domain.retries import RetryClass, classify_error
from batchinfer.domain.webhooks import (
    EVENT_TYPES,
    LEAST_FAILURES,
    LONGEST_PAUSE_S,
    SPARED_FAILURES,
    find_reach,
    parse_endpoint,
)
from batchinfer.errors import BadRequest, BatchinferError, Conflict, NotFound
from batchinfer.media.outward import SENTENCES, Reason
from batchinfer.services import deliveries, jobs, outbox, upkeep, webhooks, work
from batchinfer.store import batches, endings
from batchinfer.store.claims import DELIVER, EXPORT, PREPARE, READ, Ending

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "BJRU5ErkJggg=="
)
PICTURE = {"type": "image_url", "image_url": {"url": PNG}}


@pytest.fixture
def settings(settings):
    """Receivers are on this machine."""
    return settings.model_copy(
        update={"webhook_http": True, "webhook_networks": "127.0.0.0/8", "webhook_timeout_s": 5.0}
    )


@pytest.fixture
def make(bench, receiver):
    """An endpoint at the receiver that wants everything, unless told otherwise."""

    def make(*types, url=None, caller=None):
        body = {"name": "mine", "url": url or receiver.url, "event_types": list(types or EVENT_TYPES)}
        request = parse_endpoint(body, find_reach(bench.ctx.settings), whole=True)
        return webhooks.create_endpoint(bench.ctx, caller or bench.caller, request)[0]

    return make


def told(bench, endpoint, limit=100):
    """The deliveries to an endpoint, oldest first."""
    return deliveries.list_deliveries(bench.ctx, bench.caller, endpoint.id, limit=limit).data[::-1]


def types(bench, endpoint):
    return [one.delivery.payload["type"] for one in told(bench, endpoint)]


def look(bench, endpoint):
    return webhooks.get_endpoint(bench.ctx, bench.caller, endpoint.id)


def deliver(bench, lease=None, limit=100):
    """One round of a CPU worker: claim what is ready, try each once, write what came of it. Answers how many."""
    lease = lease or bench.open()
    claims = bench.claim(lease, limit, kinds=[DELIVER], model=None)
    for piece in work.load_claims(bench.ctx, claims):
        claim, delivery = piece.claim, piece.delivery
        try:
            timings = outbox.deliver(bench.ctx, delivery)
            assert outbox.finish_delivery(bench.ctx, lease, claim, delivery.endpoint_id, timings)
        except outbox.Postponed:
            assert outbox.postpone(bench.ctx, claim)
        except BatchinferError as error:
            permanent = classify_error(error) is RetryClass.PERMANENT
            retry = RetryClass.PERMANENT if permanent else RetryClass.DELIVERY
            timings = getattr(error, "timings", None)
            work.fail(bench.ctx, lease, [Ending(claim.id, claim.attempt, error.as_dict(), retry, timings)])
    return len(claims)


def cancel(bench):
    (job_id,) = bench.put()
    jobs.cancel_job(bench.ctx, bench.caller, job_id)
    return job_id


def test_the_end_of_a_job_is_told_under_both_its_names_by_whoever_ends_it(bench, make):
    endpoint, lease = make(), bench.open()
    done, failed, cut, late, gone = bench.put(5)
    held = {claim.id: claim for claim in bench.claim(lease)}
    work.complete_group(bench.ctx, lease, [bench.outcome(held[done])], [bench.ending(held[failed])])
    work.complete_group(bench.ctx, lease, [replace(bench.outcome(held[cut]), finish_reason="length")])
    bench.run("UPDATE queue SET expires_at = now() - interval '1 second' WHERE id = :id", id=late)
    assert upkeep.expire(bench.ctx) == 1
    jobs.cancel_job(bench.ctx, bench.caller, gone)
    events = [one.delivery.payload for one in told(bench, endpoint)]
    assert [(event["type"], event["data"]["id"]) for event in events] == [
        pair
        for job_id, state, word in [
            (done, "succeeded", "completed"), (failed, "failed", "failed"), (cut, "succeeded", "incomplete"),
            (late, "expired", "failed"), (gone, "cancelled", "cancelled"),
        ]
        for pair in [(f"job.{state}", show_id(JOB, job_id)), (f"response.{word}", show_id(RESPONSE, job_id))]
    ]  # fmt: skip
    assert len({event["id"] for event in events}) == len(events)
    assert all(event.keys() == {"id", "object", "created_at", "type", "data"} for event in events)
    assert all(event["object"] == "event" and abs(event["created_at"] - time.time()) < 600 for event in events)


def test_a_job_that_takes_over_an_answer_is_told_of_like_any_other(bench, make):
    endpoint, lease = make("job.succeeded", "response.incomplete"), bench.open()

    def submit(*parts):
        content = [*parts, {"type": "text", "text": "hello"}]
        body = {"model": "reader", "messages": [{"role": "user", "content": content}], "cache": "reuse"}
        return jobs.submit(bench.ctx, bench.caller, parse_job(body, Limits.of(bench.ctx.settings)))[0].id

    def answer():
        for claim in bench.claim(lease):
            work.complete_group(bench.ctx, lease, [replace(bench.outcome(claim), finish_reason="length")])

    def prepare():
        (claim,) = bench.claim(lease, kinds=[PREPARE], model=None)
        (piece,) = work.load_claims(bench.ctx, [claim])
        normal = {"sha256": "0" * 64, "media_type": "image/png", "width": 1, "height": 1}
        images = [{**image, "normal": normal} for image in piece.prompt["images"]]
        assert work.mark_prepared(bench.ctx, lease, claim, images)

    ids = [submit()]
    answer()
    ids += [submit(), submit(PICTURE)]
    prepare()
    answer()
    ids.append(submit(PICTURE))
    prepare()
    events = [one.delivery.payload for one in told(bench, endpoint)]
    assert [(event["type"], event["data"]["id"]) for event in events] == [
        pair for job_id in ids
        for pair in [("job.succeeded", show_id(JOB, job_id)), ("response.incomplete", show_id(RESPONSE, job_id))]
    ]  # fmt: skip


def test_a_quarantined_job_is_told_of(bench, make):
    endpoint = make("job.quarantined", "response.failed")
    bench.put()
    for _ in range(3):
        bench.make_due()
        lease = bench.open()
        assert bench.claim(lease)
        work.end_lease(bench.ctx, lease, "killed", clean=False)
    assert types(bench, endpoint) == ["job.quarantined", "response.failed"]


def test_an_event_is_there_or_not_with_what_it_tells_of(bench, make):
    endpoint = make()
    (job_id,) = bench.put()

    def roll_back():
        with bench.ctx.db.transaction() as tx:
            assert endings.cancel(tx, bench.caller.tenant_id, [job_id])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        roll_back()
    assert told(bench, endpoint) == []
    jobs.cancel_job(bench.ctx, bench.caller, job_id)
    assert types(bench, endpoint) == ["job.cancelled", "response.cancelled"]


def test_nobody_hears_of_what_he_did_not_ask_for_or_what_is_another_tenants(bench, make):
    stranger = replace(bench.caller, tenant_id=new_id())
    bench.run("INSERT INTO tenants (id, name) VALUES (:id, 'strangers')", id=stranger.tenant_id)
    mine, quiet, theirs = make("job.cancelled"), make("batch.completed"), make(caller=stranger)
    cancel(bench)
    assert types(bench, mine) == ["job.cancelled"]
    assert told(bench, quiet) == []
    assert deliveries.list_deliveries(bench.ctx, stranger, theirs.id).data == []
    for verb in (webhooks.get_endpoint, webhooks.enable_endpoint, webhooks.delete_endpoint):
        with pytest.raises(NotFound):
            verb(bench.ctx, stranger, mine.id)


def test_two_endpoints_hear_of_one_event_under_one_id(bench, make, receiver):
    make("job.cancelled"), make("job.cancelled")
    cancel(bench)
    assert deliver(bench) == 2
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1


def make_batch(bench, status="validating"):
    batch_id = new_id()
    bench.run(
        """INSERT INTO batches (id, tenant_id, endpoint, completion_window, input_file_id, status, expires_at)
           VALUES (:id, :tenant_id, '/v1/chat/completions', '24h', :id, :status, now() + interval '1 day')""",
        id=batch_id, tenant_id=bench.caller.tenant_id, status=status,
    )  # fmt: skip
    return batch_id


def test_the_end_of_a_batch_is_told_once_however_it_ends(bench, make):
    endpoint = make()
    ids = {status: make_batch(bench) for status in ("failed", "cancelled", "expired")}
    ids["completed"] = make_batch(bench, "finalizing")
    with bench.ctx.db.transaction() as tx:
        for _ in range(2):
            batches.refuse_batch(tx, ids["failed"], [])
            batches.cancel_batch(tx, ids["cancelled"])
            batches.expire_unread(tx, ids["expired"])
        batches.end_batch(tx, ids["completed"], batches.BatchState.COMPLETED, output_file_id=None, error_file_id=None)
    events = [one.delivery.payload for one in told(bench, endpoint)]
    assert {(event["type"], event["data"]["id"]) for event in events} == {
        (f"batch.{status}", show_id(BATCH, batch_id)) for status, batch_id in ids.items()
    }
    assert len(events) == 4


@pytest.mark.parametrize(("kind", "status"), [(READ, "validating"), (EXPORT, "finalizing")])
def test_a_batch_that_breaks_is_told_of(bench, make, kind, status):
    endpoint, batch_id, lease = make(), make_batch(bench, status), bench.open()
    bench.run(
        "INSERT INTO queue (id, kind, subject_id, tenant_id, model) VALUES (:id, :kind, :id, :tenant_id, :kind)",
        id=batch_id, kind=kind, tenant_id=bench.caller.tenant_id,
    )  # fmt: skip
    (claim,) = bench.claim(lease, kinds=[kind], model=None)
    work.fail(bench.ctx, lease, [bench.ending(claim)])
    assert types(bench, endpoint) == ["batch.failed"]


def test_what_expires_while_it_ends_is_told_once_and_never_as_a_success_after_its_time(bench, make):
    endpoint, lease = make("job.succeeded", "job.expired"), bench.open()
    ids = bench.put(40)
    claims = bench.claim(lease)
    bench.run("UPDATE queue SET expires_at = now() + interval '150 milliseconds'")
    with ThreadPoolExecutor(3) as pool:
        ended = [pool.submit(bench.complete, lease, [claim]) for claim in claims]
        expired = [pool.submit(upkeep.expire, bench.ctx) for _ in range(20)]
        assert all(future.result() is not None for future in [*ended, *expired])
    time.sleep(0.2)
    upkeep.expire(bench.ctx)
    said = {}
    for one in told(bench, endpoint):
        said.setdefault(one.delivery.subject_id, []).append(one.delivery.payload["type"])
    assert said == {job_id: [f"job.{bench.job(job_id).state}"] for job_id in ids}


def test_what_is_delivered_passes_the_sdk_s_check_and_tampering_does_not(bench, make, receiver):
    endpoint, job_id = make("response.cancelled"), cancel(bench)
    assert deliver(bench) == 1
    ((headers, body),) = receiver.taken
    client = openai.OpenAI(api_key="none", webhook_secret=endpoint.secret)
    event = client.webhooks.unwrap(body, headers)
    assert (event.type, event.data.id, event.id) == (
        "response.cancelled", show_id(RESPONSE, job_id), headers["webhook-id"],
    )  # fmt: skip
    assert headers["content-type"] == "application/json"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body.replace(b"cancelled", b"completed"), headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body, {**headers, "webhook-id": "evt_other"})
    (one,) = told(bench, endpoint)
    assert (one.delivery.final_state, one.tries[0].outcome, one.tries[0].timings["status"]) == (
        "succeeded", "succeeded", 200,
    )  # fmt: skip


def verify(taken, secret):
    headers, body = taken
    try:
        openai.OpenAI(api_key="none").webhooks.verify_signature(body, headers, secret=secret)
    except openai.InvalidWebhookSignatureError:
        return False
    return True


def test_after_a_rotation_both_secrets_sign_for_a_day_or_the_new_one_at_once(bench, make, receiver):
    first = make("job.cancelled")

    def send():
        cancel(bench)
        deliver(bench)
        return receiver.taken[-1]

    second = webhooks.rotate_secret(bench.ctx, bench.caller, first.id, keep_old=True)
    both = send()
    assert (verify(both, first.secret), verify(both, second.secret)) == (True, True)
    assert len(both[0]["webhook-signature"].split()) == 2
    bench.run("UPDATE webhook_endpoints SET old_secret_until = now() - interval '1 second'")
    late = send()
    assert (verify(late, first.secret), verify(late, second.secret)) == (False, True)
    third = webhooks.rotate_secret(bench.ctx, bench.caller, first.id, keep_old=False)
    last = send()
    assert (verify(last, second.secret), verify(last, third.secret)) == (False, True)
    acts = [row.action for row in bench.rows("audit", subject=show_id(ENDPOINT, first.id))]
    assert acts == ["webhook.create", "webhook.rotate", "webhook.rotate"]


def test_a_failed_try_is_repeated_with_the_same_id_and_a_new_signature(bench, make, receiver):
    endpoint = make("job.cancelled")
    receiver.statuses = [500, 302, 204]
    receiver.headers = {"Location": "http://169.254.169.254/latest/meta-data"}
    cancel(bench)
    for _ in range(3):
        assert deliver(bench) == 1
        bench.make_due()
    assert deliver(bench) == 0
    assert len(set(receiver.ids)) == 1
    assert len(receiver.taken) == 3
    assert all(verify(taken, endpoint.secret) for taken in receiver.taken)
    (one,) = told(bench, endpoint)
    assert [(attempt.outcome, attempt.timings["status"]) for attempt in one.tries] == [
        ("retry", 500), ("retry", 302), ("succeeded", 204),
    ]  # fmt: skip
    assert "Redirects are not followed" in one.tries[1].error["message"]
    assert (look(bench, endpoint).failures, look(bench, endpoint).failing_since) == (0, None)


def test_waits_between_tries_grow_with_jitter_and_end_after_a_day(bench, make, receiver):
    endpoint = make("job.cancelled")
    receiver.statuses = [500]
    cancel(bench)
    row = bench.row("queue", kind=DELIVER)
    assert (row.expires_at - row.created_at).total_seconds() == 24 * 3600
    waits = []
    for _ in range(6):
        bench.make_due()
        bench.run("UPDATE webhook_endpoints SET held_until = NULL, failures = 0")
        assert deliver(bench) == 1
        (one,) = told(bench, endpoint)
        bench.run("UPDATE queue SET created_at = now()")
        row = bench.row("queue", kind=DELIVER)
        waits.append((row.available_at - row.created_at).total_seconds())
    assert all(wait <= 5.0 * 2**number for number, wait in enumerate(waits))
    assert len(set(waits)) == 6
    bench.run("UPDATE queue SET expires_at = now() - interval '1 second'")
    assert upkeep.expire(bench.ctx) == 1
    (one,) = told(bench, endpoint)
    assert (one.delivery.final_state, len(one.tries)) == ("expired", 6)


def test_retry_after_holds_back_everything_for_that_endpoint(bench, make, receiver):
    endpoint = make("job.cancelled")
    receiver.statuses, receiver.headers = [503, 200], {"Retry-After": "600"}
    cancel(bench), cancel(bench)
    assert deliver(bench, limit=1) == 1
    assert deliver(bench) == 0, "the other one waits too"
    held = look(bench, endpoint)
    assert held.held
    assert held.status == "enabled"
    cancel(bench)
    assert deliver(bench) == 0, "and what happens meanwhile"
    bench.run("UPDATE webhook_endpoints SET held_until = now()")
    bench.make_due()
    assert deliver(bench) == 3
    assert len(receiver.taken) == 4


def test_failures_in_a_row_pause_an_endpoint_for_longer_each_time_and_a_success_ends_it(bench, make, receiver):
    endpoint, other = make("job.cancelled"), make("job.cancelled", url=receiver.url.replace("hook", "other"))
    receiver.statuses = [500]
    for _ in range(SPARED_FAILURES + 4):
        cancel(bench)
    bench.run("UPDATE queue q SET available_at = now() + interval '1 hour' FROM outbox o WHERE o.id = q.id "
              "AND o.endpoint_id = :id", id=other.id)  # fmt: skip
    assert deliver(bench, limit=SPARED_FAILURES) == SPARED_FAILURES
    assert not look(bench, endpoint).held
    pauses = []
    for _ in range(3):
        bench.run(
            "UPDATE webhook_endpoints SET held_until = now() - interval '1 second' WHERE id = :id", id=endpoint.id
        )
        bench.run("UPDATE queue q SET available_at = now() FROM outbox o WHERE o.id = q.id AND o.endpoint_id = :id",
                  id=endpoint.id)  # fmt: skip
        assert deliver(bench, limit=1) == 1
        assert deliver(bench) == 0, "nothing is tried during the pause"
        row = bench.row("webhook_endpoints", id=endpoint.id)
        pauses.append((row.held_until - row.failing_since).total_seconds())
    assert look(bench, endpoint).failures == SPARED_FAILURES + 3
    assert pauses[2] > 15, "10 to 20 and 20 to 40 seconds"
    assert max(pauses) < LONGEST_PAUSE_S
    assert look(bench, other).failures == 0, "another endpoint of the same host is another matter"
    receiver.statuses = [200]
    bench.run("UPDATE webhook_endpoints SET held_until = now() - interval '1 second' WHERE id = :id", id=endpoint.id)
    bench.run("UPDATE queue SET available_at = now() WHERE id IN (SELECT id FROM outbox WHERE endpoint_id = :id "
              "AND final_state IS NULL ORDER BY id LIMIT 1)", id=endpoint.id)  # fmt: skip
    assert deliver(bench, limit=1) == 1
    assert deliver(bench) == SPARED_FAILURES + 3, "one success lets all go that waited"
    assert look(bench, endpoint).failures == 0


def test_one_that_fails_for_long_is_disabled_with_its_reason_and_what_waits_is_delivered_once_enabled(
    bench, make, receiver
):
    endpoint = make("job.cancelled")
    receiver.statuses = [500]
    cancel(bench)
    bench.run(
        "UPDATE webhook_endpoints SET failures = :n, failing_since = now() - interval '23 hours'", n=LEAST_FAILURES
    )
    deliver(bench)
    assert look(bench, endpoint).status == "enabled", "not yet"
    bench.run("UPDATE webhook_endpoints SET held_until = NULL, failing_since = now() - interval '25 hours'")
    bench.make_due()
    deliver(bench)
    disabled = look(bench, endpoint)
    assert (disabled.status, disabled.disabled_reason, disabled.last_error["code"]) == (
        "disabled", "failing", "webhook_status",
    )  # fmt: skip
    assert [row.event for row in bench.rows("events", subject_id=endpoint.id)] == ["disabled"]
    cancel(bench)
    assert deliver(bench) == 0
    (first, _) = told(bench, endpoint)
    with pytest.raises(Conflict) as caught:
        deliveries.deliver_again(bench.ctx, bench.caller, endpoint.id, first.delivery.id)
    assert caught.value.code == "webhook_endpoint_disabled"
    receiver.statuses = [200]
    assert webhooks.enable_endpoint(bench.ctx, bench.caller, endpoint.id).status == "enabled"
    assert deliver(bench) == 2
    assert [one.delivery.final_state for one in told(bench, endpoint)] == ["succeeded"] * 2


def test_few_failures_over_a_long_time_do_not_disable(bench, make, receiver):
    endpoint = make("job.cancelled")
    receiver.statuses = [500]
    cancel(bench)
    bench.run("UPDATE webhook_endpoints SET failures = 1, failing_since = now() - interval '3 days'")
    deliver(bench)
    assert look(bench, endpoint).status == "enabled"


def test_410_disables_at_once(bench, make, receiver):
    endpoint = make("job.cancelled")
    receiver.statuses = [410]
    cancel(bench), cancel(bench)
    deliver(bench, limit=1)
    assert (look(bench, endpoint).status, look(bench, endpoint).disabled_reason) == ("disabled", "gone")
    states = sorted(str(one.delivery.final_state) for one in told(bench, endpoint))
    assert states == ["None", "failed"], "the other one waits, should it be enabled"


def test_a_claim_made_before_a_pause_is_given_back_untried(bench, make, receiver):
    endpoint, lease = make("job.cancelled"), bench.open()
    cancel(bench)
    (claim,) = bench.claim(lease, kinds=[DELIVER], model=None)
    (piece,) = work.load_claims(bench.ctx, [claim])
    bench.run("UPDATE webhook_endpoints SET held_until = now() + interval '1 hour'")
    with pytest.raises(outbox.Postponed):
        outbox.deliver(bench.ctx, piece.delivery)
    assert outbox.postpone(bench.ctx, claim)
    assert deliver(bench) == 0
    (one,) = told(bench, endpoint)
    assert one.delivery.next_at is not None
    assert (one.delivery.attempts, receiver.taken) == (0, [])


def test_a_delivery_is_repeated_under_its_id_at_its_owners_word(bench, make, receiver):
    endpoint = make("job.cancelled")
    receiver.statuses = [410, 200]
    cancel(bench)
    deliver(bench)
    webhooks.enable_endpoint(bench.ctx, bench.caller, endpoint.id)
    (one,) = told(bench, endpoint)
    assert one.delivery.final_state == "failed"
    for _ in range(2):
        deliveries.deliver_again(bench.ctx, bench.caller, endpoint.id, one.delivery.id)
        assert deliver(bench) == 1
    assert receiver.ids == [one.delivery.payload["id"]] * 3
    (again,) = told(bench, endpoint)
    assert [attempt.outcome for attempt in again.tries] == ["failed", "succeeded", "succeeded"]
    assert (again.delivery.attempts, again.delivery.final_state, again.delivery.error) == (3, "succeeded", None)


def test_one_that_waits_is_tried_now(bench, make, receiver):
    endpoint = make("job.cancelled")
    receiver.statuses = [500, 200]
    cancel(bench)
    deliver(bench)
    bench.run("UPDATE queue SET available_at = now() + interval '4 hours'")
    (one,) = told(bench, endpoint)
    assert deliver(bench) == 0
    deliveries.deliver_again(bench.ctx, bench.caller, endpoint.id, one.delivery.id)
    assert deliver(bench) == 1
    with pytest.raises(NotFound):
        deliveries.deliver_again(bench.ctx, bench.caller, endpoint.id, new_id())


def test_of_two_workers_one_delivers_and_a_zombie_s_word_counts_nothing(bench, make, receiver):
    make("job.cancelled")
    cancel(bench)
    dead, alive = bench.open("dead"), bench.open("alive")
    (old,) = bench.claim(dead, kinds=[DELIVER], model=None)
    assert bench.claim(alive, kinds=[DELIVER], model=None) == [], "what one holds no other can claim"
    bench.run("UPDATE leases SET heartbeat_at = now() - interval '1 hour' WHERE id = :id", id=dead)
    assert work.reap(bench.ctx) == 1
    bench.make_due()
    assert deliver(bench, alive) == 1
    assert not outbox.finish_delivery(bench.ctx, dead, old)
    assert len(receiver.taken) == 1


def test_a_deleted_endpoint_hears_nothing_more(bench, make, receiver):
    endpoint, lease = make("job.cancelled"), bench.open()
    cancel(bench), cancel(bench)
    (claim,) = bench.claim(lease, 1, kinds=[DELIVER], model=None)
    (piece,) = work.load_claims(bench.ctx, [claim])
    webhooks.delete_endpoint(bench.ctx, bench.caller, endpoint.id)
    with pytest.raises(BatchinferError, match="deleted"):
        outbox.deliver(bench.ctx, piece.delivery)
    assert (bench.rows("queue", kind=DELIVER), receiver.taken) == ([], [])
    assert {row.final_state for row in bench.rows("outbox")} == {"cancelled"}
    cancel(bench)
    assert len(bench.rows("outbox")) == 2


def test_the_setting_is_followed_by_endpoints_that_are_there(bench, make, settings):
    make()
    changed = replace(bench.ctx, settings=settings.model_copy(update={"delivery_hours": 1.0}))
    webhooks.keep_settings(changed)
    cancel(bench)
    row = bench.rows("queue", kind=DELIVER)[0]
    assert (row.expires_at - row.created_at).total_seconds() == 3600


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "x", "event_types": ["batch.completed"]}, "url"),
        ({"name": "", "url": "http://127.0.0.1:9/", "event_types": ["batch.completed"]}, "name"),
        ({"name": "x", "url": "http://127.0.0.1:9/", "event_types": []}, "event_types"),
        ({"name": "x", "url": "http://127.0.0.1:9/", "event_types": ["batch.begun"]}, "event_types.0"),
        ({"name": "x", "url": "http://169.254.169.254/", "event_types": ["batch.failed"]}, "url"),
        ({"name": "x", "url": "http://10.0.0.1/", "event_types": ["batch.failed"]}, "url"),
        ({"name": "x", "url": "ftp://example.com/", "event_types": ["batch.failed"]}, "url"),
        ({"name": "x", "url": "http://u:p@127.0.0.1/", "event_types": ["batch.failed"]}, "url"),
        ({"name": "x", "url": "http://127.0.0.1:9/", "event_types": ["batch.failed"], "secret": "mine"}, "secret"),
    ],
)
def test_what_is_no_endpoint_is_refused(bench, body, param):
    with pytest.raises(BadRequest) as caught:
        parse_endpoint(body, find_reach(bench.ctx.settings), whole=True)
    assert caught.value.param == param


def test_nothing_private_is_allowed_unless_a_setting_says_so(context):
    shut = find_reach(context.settings.model_copy(update={"webhook_http": False, "webhook_networks": ""}))
    for url in (
        "http://example.com",
        "https://127.0.0.1",
        "https://10.0.0.1",
        "https://[::1]",
        "https://example.com:22",
    ):
        with pytest.raises(BadRequest) as caught:
            parse_endpoint({"url": url}, shut, whole=False)
        assert caught.value.code == "url_not_allowed"


def test_a_name_that_leads_inside_is_not_asked(bench, make, receiver):
    endpoint = make("job.cancelled", url=receiver.url.replace("127.0.0.1", "inside.example"))
    asked = []

    def resolve(name):
        asked.append(name)
        return ["10.0.0.7"]

    bench.ctx.door._resolve = resolve
    cancel(bench)
    deliver(bench)
    (one,) = told(bench, endpoint)
    assert (one.tries[0].error["message"], asked, receiver.taken) == (SENTENCES[Reason.REFUSED], ["inside.example"], [])


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (lambda line: line.sendall(b"\x00 garbage\r\n\r\n"), Reason.PROTOCOL),
        (lambda line: line.settimeout(1), Reason.CUT),
        (lambda line: line.recv(1), Reason.TIMEOUT),
    ],
)
def test_a_receiver_that_answers_nothing_costs_its_time_and_is_tried_again(bench, make, receiver, behave, reason):
    bench.ctx = replace(bench.ctx, settings=bench.ctx.settings.model_copy(update={"webhook_timeout_s": 0.5}))
    endpoint = make("job.cancelled")
    receiver.behave = behave
    cancel(bench)
    assert deliver(bench) == 1
    (one,) = told(bench, endpoint)
    assert (one.tries[0].outcome, one.tries[0].error["code"]) == ("retry", "webhook_not_reached")
    assert one.tries[0].error["message"] == SENTENCES[reason]
    assert "status" not in one.tries[0].timings


def test_two_hundred_and_then_anything_is_taken(bench, make, receiver):
    endpoint, sent = make("job.cancelled"), [0]

    def flood(line):
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5368709120\r\n\r\n")
        for _ in range(5 * 2**10):
            sent[0] += line.send(b"x" * 2**20)

    receiver.behave = flood
    cancel(bench)
    deliver(bench)
    receiver.behave = lambda line: line.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nhalf")
    cancel(bench)
    deliver(bench)
    assert [one.delivery.final_state for one in told(bench, endpoint)] == ["succeeded"] * 2
    assert sent[0] < 200 * 2**20


def test_the_body_is_the_event_and_nothing_more(bench, make, receiver):
    make("job.cancelled")
    job_id = cancel(bench)
    deliver(bench)
    event = json.loads(receiver.taken[0][1])
    assert list(event) == ["id", "object", "created_at", "type", "data"]
    assert event["data"] == {"id": show_id(JOB, job_id)}
