"""Ids: UUIDv7 made in Python (so that Postgres 15 serves), shown with a prefix per noun."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from uuid_utils import uuid7

from batchinfer.errors import NotFound

JOB, DOCUMENT, BATCH, KEY, WORKER, EVENT, FILE = "job_", "doc_", "batch_", "key_", "wrk_", "evt_", "file-"
ENDPOINT, DELIVERY = "we_", "whd_"
#: A file that comes in parts, and one of them.
UPLOAD, UPLOAD_PART = "upload_", "part_"
SCHEDULE, RUN, TEMPLATE, SHARD, GOLDEN = "sched_", "run_", "tmpl_", "shard_", "gold_"
TENANT, ACT = "tenant_", "act_"
DEPLOYMENT, REPLICA = "dep_", "rep_"
#: An act on many jobs.
BULK = "bulk_"
#: A line of a batch, and the request that its answer names: the digits are the job's.
BATCH_LINE, REQUEST = "batch_req_", "req_"
#: A job under OpenAI's names: the digits are the job's.
COMPLETION, RESPONSE, MESSAGE = "chatcmpl-", "resp_", "msg_"
_NOUNS = {
    JOB: "job", DOCUMENT: "document", BATCH: "batch", KEY: "key", WORKER: "worker", EVENT: "event",
    RESPONSE: "response", FILE: "file", UPLOAD: "upload", UPLOAD_PART: "part", BATCH_LINE: "line",
    SCHEDULE: "schedule", RUN: "run", TEMPLATE: "template", SHARD: "shard", GOLDEN: "golden prompt",
    ENDPOINT: "webhook endpoint", DELIVERY: "delivery", TENANT: "tenant", ACT: "act",
    DEPLOYMENT: "deployment", REPLICA: "replica", BULK: "bulk act",
}  # fmt: skip

#: The one tenant of a fresh installation.
DEFAULT_TENANT = UUID("00000000-0000-7000-8000-000000000001")


def new_id() -> UUID:
    """A fresh UUIDv7: sorts by the millisecond it was made in."""
    return UUID(bytes=uuid7().bytes)


def show_id(prefix: str, value: UUID) -> str:
    """The id as users see it, for example `job_0192…` (prefix and 32 hexadecimal digits)."""
    return prefix + value.hex


def parse_id(prefix: str, text: str) -> UUID:
    """The id back from what a user sent. Raises NotFound: an id that cannot be is an id that does not exist."""
    digits = text.removeprefix(prefix)
    if text.startswith(prefix) and len(digits) == 32:
        try:
            return UUID(hex=digits)
        except ValueError:
            pass
    noun = _NOUNS[prefix]
    raise NotFound(
        f"No {noun} with this id. Ids of {noun}s look like {prefix}… and come with the answer to a submission."
    )


def read_time(value: UUID) -> datetime:
    """When a UUIDv7 was made, by the clock of its host, in UTC; to the millisecond."""
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)
