"""`batchinfer jobs`: jobs and documents, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchinfer.cli.output import JSON, UNANSWERED, emit, say, show_text
from batchinfer.cli.remote import remote, show_time
from batchinfer.client.progress import make_plain
from batchinfer.domain.ids import DOCUMENT
from batchinfer.domain.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchinfer.client import Client, Document, Job
    from batchinfer.client.nouns import Problem

_IDS = click.argument("ids", nargs=-1, required=True, metavar="ID...")


@click.group()
def jobs() -> None:
    """Jobs, and documents, whose pages are jobs."""


@jobs.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only those in this state.")
@click.option("--model", help="Only those of this model.")
@click.option("--document", help="Only the pages of this document.")
@JSON
@remote
def list_jobs(
    client: Client, limit: int, state: str | None, model: str | None, document: str | None, as_json: bool
) -> None:
    """The newest jobs."""
    for job in client.jobs.list(status=state, model=model, document=document, limit=limit):
        if as_json:
            emit(job.as_dict())
        else:
            say(f"{job.id}  {job.status:<11}  {show_time(job.created_at)}  {make_plain(job.model)}")


@jobs.command("show")
@_IDS
@JSON
@remote
def show_jobs(client: Client, ids: Sequence[str], as_json: bool) -> None:
    """Jobs, or documents, and what they answered."""
    for thing_id in ids:
        _show(_find(client, thing_id), as_json=as_json)


@jobs.command("wait")
@_IDS
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds; without end if left out.")
@JSON
@remote
def wait_jobs(client: Client, ids: Sequence[str], timeout: float | None, as_json: bool) -> None:
    """Wait until all have ended, and show them; ends with 3 where one has no answer."""
    things = [_find(client, thing_id) for thing_id in ids]
    ended = [client.wait(thing, timeout) for thing in things]
    for thing in ended:
        _show(thing, as_json=as_json)
    if not all(thing.succeeded for thing in ended):
        raise SystemExit(UNANSWERED)


@jobs.command("attempts")
@click.argument("job_id")
@JSON
@remote
def list_attempts(client: Client, job_id: str, as_json: bool) -> None:
    """The ended tries of a job, and why each ended."""
    for attempt in client.jobs.list_attempts(job_id):
        if as_json:
            emit(attempt.as_dict())
        else:
            why = _show_problem(attempt.error) if attempt.error else ""
            worker = make_plain(attempt.worker or "-")
            say(f"{attempt.number:>3}  {attempt.outcome:<9}  {show_time(attempt.finished_at)}  {worker}  {why}")


@jobs.command("cancel")
@_IDS
@JSON
@remote
def cancel_jobs(client: Client, ids: Sequence[str], as_json: bool) -> None:
    """End jobs, or what has not ended of documents."""
    for thing_id in ids:
        noun = client.documents if thing_id.startswith(DOCUMENT) else client.jobs
        ended = noun.cancel(thing_id)
        if as_json:
            emit(ended.as_dict())
        else:
            say(f"{ended.id}  {ended.status}")


@jobs.command("release")
@_IDS
@JSON
@remote
def release_jobs(client: Client, ids: Sequence[str], as_json: bool) -> None:
    """Let quarantined jobs run once more, alone; `jobs list --state quarantined` shows them."""
    for job_id in ids:
        job = client.jobs.release(job_id)
        if as_json:
            emit(job.as_dict())
        else:
            say(f"Released: it is {job.status} again.")


def _find(client: Client, thing_id: str) -> Job | Document:
    return client.documents.get(thing_id) if thing_id.startswith(DOCUMENT) else client.jobs.get(thing_id)


def _show(thing: Job | Document, *, as_json: bool) -> None:
    if as_json:
        emit(thing.as_dict())
        return
    facts = thing.as_dict()
    shown = ("id", "status", "model", "filename", "pages", "page_counts", "jobs", "attempts", "crashes", "usage")
    for name in shown:
        if facts.get(name) is not None:
            say(f"{name:<11} {make_plain(str(facts[name]))}")
    if thing.error:
        say(f"{'error':<11} {_show_problem(thing.error)}")
    result = facts.get("result")
    if result:
        say(show_text(result["text"]))


def _show_problem(problem: Problem) -> str:
    return f"{problem.code}: {make_plain(problem.message)}"
