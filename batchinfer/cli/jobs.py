"""`batchinfer jobs`: list, show, release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape

from batchinfer.cli.local import HOME, context, operator
from batchinfer.cli.output import out, say

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def jobs() -> None:
    """Jobs."""


@jobs.command("list")
@HOME
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--state", help="Only those in this state, quarantined for example.")
def list_jobs(home: Path | None, limit: int, state: str | None) -> None:
    """The newest jobs."""
    from batchinfer.domain.ids import JOB, show_id
    from batchinfer.domain.jobs import JobState
    from batchinfer.services import jobs as service

    if state is not None and state not in list(JobState):
        raise click.BadParameter(f"one of {', '.join(JobState)}", param_hint="--state")
    wanted = JobState(state) if state is not None else None
    with context(home) as ctx:
        for job in service.list_jobs(ctx, operator(), state=wanted, limit=limit).data:
            created = job.created_at.isoformat(timespec="seconds")
            out.print(f"{show_id(JOB, job.id)}  {job.state:<11}  {created}  {escape(job.model)}")


@jobs.command("show")
@HOME
@click.argument("job_id")
def show_job(home: Path | None, job_id: str) -> None:
    """One job and what it answered."""
    from batchinfer.domain.ids import JOB, parse_id
    from batchinfer.services import jobs as service

    with context(home) as ctx:
        job = service.get_job(ctx, operator(), parse_id(JOB, job_id))
    facts = {"status": job.state, "model": job.model, "attempts": job.attempts, "crashes": job.crashes}
    facts |= {"usage": job.usage, "error": job.error}
    for name, value in facts.items():
        out.print(escape(f"{name:<9} {value}"))
    if job.result:
        out.print(escape(str(job.result["text"])))


@jobs.command("release")
@HOME
@click.argument("job_id")
def release_job(home: Path | None, job_id: str) -> None:
    """Let a quarantined job run once more, alone; `jobs list --state quarantined` shows them."""
    from batchinfer.domain.ids import JOB, parse_id
    from batchinfer.services import jobs as service

    with context(home) as ctx:
        job = service.release_job(ctx, operator(), parse_id(JOB, job_id))
    say(f"Released: it is {job.state} again.")
