"""Numbers for pages: the queue counted, the minutes added up. Nothing here reads done jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from batchinfer.domain.jobs import JobClass
from batchinfer.store.snapshots import list_snapshots

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from batchinfer.store.leases import Worker
    from batchinfer.store.session import Transaction


@dataclass(frozen=True)
class Waiting:
    """How many rows of a kind, model and class wait and run. `oldest_s`: the age of the oldest that waits."""

    kind: str
    model: str
    job_class: JobClass
    waiting: int
    running: int
    oldest_s: float | None


@dataclass(frozen=True)
class Minute:
    """What happened in one minute, all models together."""

    minute: datetime
    submitted: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    quarantined: int
    retried: int
    lost: int
    prompt_tokens: int
    completion_tokens: int
    images: int
    #: Of those that succeeded: answers that were kept.
    reused: int = 0


@dataclass(frozen=True)
class LastHour:
    """What ended in the last hour (`failed`: expired and quarantined too), and the rates of the last minute or two."""

    succeeded: int
    failed: int
    images_per_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class Overview:
    """The numbers of the first page, of one tenant; workers are the installation's."""

    waiting: list[Waiting]
    #: Jobs in each live state.
    preparing: int
    queued: int
    running: int
    #: Documents whose pages are not all made.
    rendering: int
    #: Seconds; None where nothing waits.
    oldest_waiting_s: float | None
    #: Age of the oldest snapshot, which keeps the queue from being cleaned; None where there is none, or of no age.
    oldest_snapshot_s: float | None
    #: In the last hour: ended with a result, and ended with an error (failed, expired or quarantined).
    succeeded_last_hour: int
    failed_last_hour: int
    #: Over the last one to two minutes.
    images_per_s: float
    tokens_per_s: float
    jobs_per_s: float
    #: The last hour, oldest first; minutes without anything are left out.
    minutes: list[Minute]
    workers: list[Worker]


_QUEUE = text("""
    SELECT kind, model, class AS job_class, count(*) FILTER (WHERE state <> 'running') AS waiting,
           count(*) FILTER (WHERE state = 'running') AS running,
           CAST(extract(epoch FROM now() - min(created_at) FILTER (WHERE state <> 'running')) AS float) AS oldest_s
    FROM queue WHERE tenant_id = :tenant_id GROUP BY kind, model, class ORDER BY kind, model, min(rank)
""")
_MINUTES = text("""
    SELECT minute, CAST(sum(submitted) AS bigint) AS submitted, CAST(sum(succeeded) AS bigint) AS succeeded,
        CAST(sum(failed) AS bigint) AS failed, CAST(sum(cancelled) AS bigint) AS cancelled,
        CAST(sum(expired) AS bigint) AS expired, CAST(sum(quarantined) AS bigint) AS quarantined,
        CAST(sum(retried) AS bigint) AS retried, CAST(sum(lost) AS bigint) AS lost,
        CAST(sum(prompt_tokens) AS bigint) AS prompt_tokens,
        CAST(sum(completion_tokens) AS bigint) AS completion_tokens, CAST(sum(images) AS bigint) AS images,
        CAST(sum(reused) AS bigint) AS reused
    FROM minutes
    WHERE tenant_id = :tenant_id AND minute > now() - make_interval(mins => :minutes)
      AND model = coalesce(CAST(:model AS text), model)
    GROUP BY minute ORDER BY minute
""")
# This minute and the one before: at least 60 seconds.
_RATES = text("""
    SELECT CAST(coalesce(sum(images), 0) / s.seconds AS float) AS images_per_s,
           CAST(coalesce(sum(completion_tokens), 0) / s.seconds AS float) AS tokens_per_s,
           CAST(coalesce(sum(succeeded), 0) / s.seconds AS float) AS jobs_per_s
    FROM (SELECT date_trunc('minute', now()) - interval '1 minute' AS since,
                 extract(epoch FROM now() - date_trunc('minute', now())) + 60 AS seconds) AS s
    LEFT JOIN minutes m ON m.tenant_id = :tenant_id AND m.minute >= s.since
    GROUP BY s.seconds
""")


_HOUR = text("""
    SELECT CAST(coalesce(sum(succeeded), 0) AS bigint) AS succeeded,
           CAST(coalesce(sum(failed + expired + quarantined), 0) AS bigint) AS failed
    FROM minutes WHERE tenant_id = :tenant_id AND minute > now() - interval '1 hour'
""")
_SAMPLED = text("""
    SELECT at, model, CAST(waiting AS bigint) AS waiting, CAST(running AS bigint) AS running,
           oldest_s + CAST(extract(epoch FROM now() - at) AS float) AS oldest_s
    FROM queue_gauges WHERE span_s = 60 AND tenant_id = :tenant_id
      AND at = (SELECT max(at) FROM queue_gauges WHERE span_s = 60) ORDER BY model
""")


def read_last_hour(tx: Transaction, tenant_id: UUID) -> LastHour:
    """A tenant's last hour in four numbers."""
    ended = tx.execute(_HOUR, {"tenant_id": tenant_id}).one()
    rates = tx.execute(_RATES, {"tenant_id": tenant_id}).one()
    return LastHour(ended.succeeded, ended.failed, rates.images_per_s, rates.tokens_per_s)


def read_sampled_queue(tx: Transaction, tenant_id: UUID) -> tuple[datetime | None, list[Waiting]]:
    """A tenant's queue as it was seen at the last look, all classes together as normal, and when that was."""
    rows = tx.execute(_SAMPLED, {"tenant_id": tenant_id}).all()
    found = [Waiting("infer", row.model, JobClass.NORMAL, row.waiting, row.running, row.oldest_s) for row in rows]
    return (rows[0].at if rows else None), found


def count_queue(tx: Transaction, tenant_id: UUID) -> list[Waiting]:
    """A tenant's queue by kind, model and class."""
    rows = tx.execute(_QUEUE, {"tenant_id": tenant_id})
    return [Waiting(**{**row._mapping, "job_class": JobClass(row.job_class)}) for row in rows]


def list_minutes(tx: Transaction, tenant_id: UUID, *, minutes: int = 60, model: str | None = None) -> list[Minute]:
    """The last minutes, oldest first; those without anything are left out."""
    rows = tx.execute(_MINUTES, {"tenant_id": tenant_id, "minutes": minutes, "model": model})
    return [Minute(**row._mapping) for row in rows]


def read_overview(tx: Transaction, tenant_id: UUID, workers: list[Worker]) -> Overview:
    """The first page's numbers, in three small reads."""
    waiting = count_queue(tx, tenant_id)
    minutes = list_minutes(tx, tenant_id)
    rates = tx.execute(_RATES, {"tenant_id": tenant_id}).one()
    inference = [row for row in waiting if row.kind == "infer"]
    ages = [row.oldest_s for row in waiting if row.oldest_s is not None]
    return Overview(
        waiting=waiting,
        preparing=sum(row.waiting + row.running for row in waiting if row.kind == "prepare"),
        queued=sum(row.waiting for row in inference),
        running=sum(row.running for row in inference),
        rendering=sum(row.waiting + row.running for row in waiting if row.kind == "render"),
        oldest_waiting_s=max(ages, default=None),
        oldest_snapshot_s=max((held.age_s for held in list_snapshots(tx) if held.age_s is not None), default=None),
        succeeded_last_hour=sum(minute.succeeded for minute in minutes),
        failed_last_hour=sum(minute.failed + minute.expired + minute.quarantined for minute in minutes),
        images_per_s=rates.images_per_s,
        tokens_per_s=rates.tokens_per_s,
        jobs_per_s=rates.jobs_per_s,
        minutes=minutes,
        workers=workers,
    )
