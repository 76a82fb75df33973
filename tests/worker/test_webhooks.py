"""Real CPU workers deliver webhooks: killed in the middle, two at once, and to receivers that hang."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.jobs import JobState
from batchinfer.domain.webhooks import find_reach, parse_endpoint
from batchinfer.services import deliveries, jobs, webhooks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from batchinfer.settings import Settings

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "BJRU5ErkJggg=="
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Receivers are on this machine, and may take their time."""
    changes = {"webhook_http": True, "webhook_networks": "127.0.0.0/8", "webhook_timeout_s": 30.0}
    return settings.model_copy(update=changes)


@pytest.fixture
def endpoint(work: Any, receiver: Any) -> UUID:
    """An endpoint at the receiver that hears of jobs that are cancelled."""
    body = {"name": "mine", "url": receiver.url, "event_types": ["job.cancelled"]}
    request = parse_endpoint(body, find_reach(work.ctx.settings), whole=True)
    return webhooks.create_endpoint(work.ctx, work.caller, request)[0].id


@pytest.fixture
def hung(receiver: Any) -> Iterator[threading.Event]:
    """The receiver answers nobody until this is set."""
    free = threading.Event()
    receiver.behave = lambda line: free.wait(60) and line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    yield free
    free.set()


def cancel(work: Any) -> UUID:
    job_id: UUID = work.submit()
    jobs.cancel_job(work.ctx, work.caller, job_id)
    return job_id


def told(work: Any, endpoint: UUID) -> list[Any]:
    return deliveries.list_deliveries(work.ctx, work.caller, endpoint, limit=100).data


@pytest.mark.parametrize("lease_ttl_s", [3.0])
def test_a_worker_that_is_killed_while_it_delivers_is_followed_by_another_with_the_same_id(
    work: Any, launcher: Any, until: Any, endpoint: UUID, receiver: Any, hung: threading.Event
) -> None:
    cancel(work)
    first = launcher.start_cpu("--processes", "1", name="cpu-0")
    until(lambda: receiver.taken, "the receiver has the event, and says nothing")
    first.kill()
    receiver.behave = None
    hung.set()
    launcher.start_cpu("--processes", "1", name="cpu-1")
    until(lambda: len(receiver.taken) == 2, "it is delivered again")
    (one,) = until(
        lambda: [one for one in told(work, endpoint) if one.delivery.final_state], "the second delivery is written"
    )
    assert receiver.ids == [one.delivery.payload["id"]] * 2
    assert [attempt.outcome for attempt in one.tries] == ["lost", "succeeded"]
    assert one.delivery.attempts == 1, "a lost worker is no try of the receiver's"


def test_two_workers_deliver_each_event_once(
    work: Any, launcher: Any, until: Any, endpoint: UUID, receiver: Any
) -> None:
    for number in range(2):
        launcher.start_cpu("--processes", "1", name=f"cpu-{number}")
    for _ in range(30):
        cancel(work)
    until(lambda: all(one.delivery.final_state for one in told(work, endpoint)), "all are delivered")
    events = [one.delivery.payload["id"] for one in told(work, endpoint)]
    assert len(events) == 30
    assert sorted(receiver.ids) == sorted(events)


def test_receivers_that_hang_do_not_keep_pictures_waiting(
    work: Any, launcher: Any, until: Any, endpoint: UUID, receiver: Any, hung: threading.Event
) -> None:
    for _ in range(12):
        cancel(work)
    launcher.start_cpu("--processes", "1")
    until(lambda: len(receiver.taken) == 8, "as many are under way as may be")
    job_id = work.submit([{"type": "image_url", "image_url": {"url": PNG}}, {"type": "text", "text": "read"}])
    assert work.state(job_id) is JobState.PREPARING
    until(lambda: work.state(job_id) is JobState.QUEUED, "its picture is prepared beside them")
    assert len(receiver.taken) == 8
    assert not hung.is_set()
    hung.set()
    until(lambda: len(receiver.taken) == 12, "the others have their turn")
