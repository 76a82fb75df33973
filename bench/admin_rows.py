"""A month of jobs for the bench of the admin pages: thirty days, each a partition, loaded by COPY."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.store.partitions import PARTITIONED, first_id

DAYS = 30
OTHER = UUID("00000000-0000-7000-8000-000000000002")
MODELS = (("reader", 0.70), ("reader-large", 0.25), ("tables", 0.049), ("stamps", 0.001))
CLASSES = (("normal", 0.60), ("batch", 0.39), ("interactive", 0.01))
ENDS = (("succeeded", 0.952), ("failed", 0.03), ("cancelled", 0.01), ("expired", 0.0079), ("quarantined", 0.0001))
LIVE = (("queued", 0.94), ("preparing", 0.05), ("running", 0.01))
#: Of the newest jobs so many have not ended.
LIVE_SHARE, MOST_LIVE = 0.02, 50_000
BATCH_LINES, DOCUMENT_PAGES = 5_000, 10
_WORDS = (
    "invoice", "total", "amount", "due", "vendor", "address", "page", "line", "item", "quantity", "price", "tax",
    "number", "date", "signature", "paid", "received", "transport", "delivery", "order", "reference", "account",
    "bank", "transfer", "currency", "discount", "balance", "customer", "supplier", "contract",
)  # fmt: skip
_JOBS = (
    "id", "tenant_id", "class", "model", "document_id", "page", "batch_id", "line", "custom_id", "prompt", "metadata",
    "final_state", "attempts", "error", "created_at", "started_at", "finished_at",
)  # fmt: skip
_RESULTS = ("job_id", "tenant_id", "attempt", "lease_id", "text", "finish_reason", "usage", "model", "revision",
            "engine", "created_at")  # fmt: skip
_QUEUE = ("id", "kind", "subject_id", "tenant_id", "model", "class", "rank", "state", "attempt", "leased_at",
          "created_at")  # fmt: skip


@dataclass
class Month:
    """What was loaded, and ids from it by which pages are asked for."""

    number: int
    now: datetime
    #: The jobs of the default tenant: some ids evenly over the month, oldest first.
    sampled: list[UUID] = field(default_factory=list)
    batches: list[UUID] = field(default_factory=list)
    documents: list[UUID] = field(default_factory=list)


@dataclass
class _Row:
    id: UUID
    tenant: UUID
    model: str
    job_class: str
    state: str
    at: datetime
    batch: UUID | None
    line: int | None
    document: UUID | None
    page: int | None
    metadata: dict[str, str]


def make_id(at: datetime, draw: random.Random) -> UUID:
    """A UUIDv7 of a moment."""
    return UUID(
        int=int(at.timestamp() * 1000) << 80 | 7 << 76 | draw.getrandbits(12) << 64 | 2 << 62 | draw.getrandbits(62)
    )


def make_days(url: str, now: datetime) -> None:
    """The partitions of the days before: the running system makes them day by day."""
    with psycopg.connect(url, autocommit=True) as connection:
        for back in range(DAYS, 1, -1):
            day = (now - timedelta(days=back)).date()
            low, high = first_id(day), first_id(day + timedelta(days=1))
            for table in PARTITIONED:
                name = f"{table}_{day:%Y%m%d}"
                bounds = f"FOR VALUES FROM ('{low}') TO ('{high}')"
                connection.execute(f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table} {bounds}".encode())


def load(url: str, number: int, now: datetime) -> Month:
    """Load `number` jobs with their results and queue rows. The same number gives the same rows but for their times."""
    month, draw = Month(number, now), random.Random(number)
    make_days(url, now)
    with psycopg.connect(url) as connection:
        connection.execute("SET synchronous_commit TO off")
        connection.execute("INSERT INTO tenants (id, name) VALUES (%s, 'others') ON CONFLICT DO NOTHING", [OTHER])
        rows = _make_rows(month, draw)
        while some := [row for _, row in zip(range(100_000), rows, strict=False)]:
            _copy(connection, "jobs", _JOBS, (_job(row, draw) for row in some))
            _copy(connection, "results", _RESULTS, (_result(row, draw) for row in some if row.state == "succeeded"))
            _copy(connection, "queue", _QUEUE, (_queued(row) for row in some if row.state in _LIVE))
            connection.commit()
        _add_owners(connection, month)
        _add_minutes(connection, now)
        connection.commit()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
    return month


_LIVE = {"preparing", "queued", "running"}


def _make_rows(month: Month, draw: random.Random) -> Iterator[_Row]:
    begin, step = month.now - timedelta(days=DAYS - 1), timedelta(days=DAYS - 1) / month.number
    live_from = month.number - min(MOST_LIVE, int(month.number * LIVE_SHARE))
    batch = document = begin_id = make_id(begin, draw)
    line = BATCH_LINES
    for place in range(month.number):
        at = begin + place * step
        job_class = _choose(CLASSES, draw)
        state = (
            _choose(ENDS, draw)
            if place < live_from
            else draw.choices(["queued", "preparing", "running"], [94, 5, 1])[0]
        )
        row = _Row(make_id(at, draw), OTHER if draw.random() < 0.1 else DEFAULT_TENANT, _choose(MODELS, draw),
                   job_class, state, at, None, None, None, None, {"shift": draw.choice(["day", "night"])})  # fmt: skip
        if place % 1000 == 0:
            row.metadata["needle"] = "yes"
        if job_class == "batch":
            if line >= BATCH_LINES:
                batch, line = make_id(at - timedelta(seconds=1), draw), 0
                month.batches.append(batch)
            line += 1
            row.tenant, row.batch, row.line = DEFAULT_TENANT, batch, line
        elif job_class == "normal" and place % 3 == 0:
            if place % (3 * DOCUMENT_PAGES) == 0 or document == begin_id:
                document = make_id(at - timedelta(seconds=1), draw)
                month.documents.append(document)
            row.tenant, row.document, row.page = DEFAULT_TENANT, document, place // 3 % DOCUMENT_PAGES + 1
        if place % max(1, month.number // 100) == 0:
            row.tenant = DEFAULT_TENANT
            month.sampled.append(row.id)
        yield row


def _choose(shares: Sequence[tuple[str, float]], draw: random.Random) -> str:
    left = draw.random()
    for name, share in shares:
        left -= share
        if left < 0:
            return name
    return shares[0][0]


def _job(row: _Row, draw: random.Random) -> tuple[Any, ...]:
    prompt = draw.choice(_PROMPTS).replace("0" * 64, row.id.hex * 2)
    ended = row.state not in _LIVE
    error = json.dumps({"message": "The page could not be read.", "code": "image_parse_error"})
    return (
        row.id, row.tenant, row.job_class, row.model, row.document, row.page, row.batch, row.line,
        f"page-{row.line}" if row.line else None, prompt, json.dumps(row.metadata),
        row.state if ended else None, int(ended), error if row.state == "failed" else None, row.at,
        row.at + timedelta(seconds=20) if ended else None, row.at + timedelta(seconds=26) if ended else None,
    )  # fmt: skip


def _result(row: _Row, draw: random.Random) -> tuple[Any, ...]:
    answer = draw.choice(_ANSWERS)
    usage = '{"prompt_tokens": 900, "completion_tokens": 80, "total_tokens": 980, "images": 1}'
    return (
        row.id,
        row.tenant,
        1,
        OTHER,
        answer,
        "stop",
        usage,
        row.model,
        "r1",
        "bench",
        row.at + timedelta(seconds=26),
    )


def _queued(row: _Row) -> tuple[Any, ...]:
    kind = "prepare" if row.state == "preparing" else "infer"
    running = row.state == "running"
    rank = ("interactive", "normal", "batch").index(row.job_class)
    return (row.id, kind, row.id, row.tenant, row.model, row.job_class, rank, "running" if running else "queued",
            int(running), row.at if running else None, row.at)  # fmt: skip


def _make_prompt(draw: random.Random) -> str:
    content = [{"type": "image", "index": 0}, {"type": "text", "text": " ".join(draw.choices(_WORDS, k=24))}]
    image = {"sha256": "0" * 64, "media_type": "image/png", "normal": None, "pages": False}
    messages = [{"role": "user", "content": content}]
    return json.dumps({"messages": messages, "images": [image], "max_tokens": 256, "sampling": {}})


def _make_answer(draw: random.Random) -> str:
    return json.dumps({name: " ".join(draw.choices(_WORDS, k=4)) for name in ("vendor", "items", "notes", "terms")})


_PROMPTS = [_make_prompt(random.Random(number)) for number in range(2000)]
_ANSWERS = [_make_answer(random.Random(number)) for number in range(2000)]


def _add_owners(connection: psycopg.Connection[Any], month: Month) -> None:
    documents = (
        (one, DEFAULT_TENANT, "normal", "reader", f"scan-{at}.pdf", "application/pdf", "{}", DOCUMENT_PAGES)
        for at, one in enumerate(month.documents)
    )
    names = ("id", "tenant_id", "class", "model", "filename", "media_type", "prompt", "pages")
    _copy(connection, "documents", names, documents)
    batches = (
        (one, DEFAULT_TENANT, "batch", "completed", "/v1/chat/completions", "24h", month.now, BATCH_LINES, BATCH_LINES)
        for one in month.batches
    )
    names = ("id", "tenant_id", "class", "status", "endpoint", "completion_window", "expires_at", "total", "completed")
    _copy(connection, "batches", names, batches)


def _add_minutes(connection: psycopg.Connection[Any], now: datetime) -> None:
    first = now.replace(second=0, microsecond=0) - timedelta(days=2)
    rows = (
        (DEFAULT_TENANT, model, first + timedelta(minutes=minute), shard, 60, 57, 2)
        for minute in range(2 * 24 * 60) for model, _ in MODELS for shard in range(4)
    )  # fmt: skip
    _copy(connection, "minutes", ("tenant_id", "model", "minute", "shard", "submitted", "succeeded", "failed"), rows)


def _copy(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[str], rows: Iterator[tuple[Any, ...]]
) -> None:
    names = ", ".join(f'"{name}"' for name in columns)
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN".encode()) as copy:
        for row in rows:  # no text here has a tab, a line end or a backslash
            copy.write("\t".join("\\N" if value is None else str(value) for value in row) + "\n")


def read_now() -> datetime:
    """The end of the month."""
    return datetime.now(UTC)
