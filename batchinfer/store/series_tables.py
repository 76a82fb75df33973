"""Tables of the series behind the charts: minutes and hours of what happened, gauges of how it stood."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Double, Index, Integer, SmallInteger, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY

from batchinfer.store.columns import metadata, tenant_column, version_column

COUNTERS = (
    "submitted", "succeeded", "failed", "cancelled", "expired", "quarantined", "retried", "lost",
    "prompt_tokens", "completion_tokens", "images", "reused",
    #: Microseconds in prefill and decoding, of all jobs that ended; and the device's own, shared among them.
    "row_us", "device_us",
)  # fmt: skip
#: How many jobs that a worker ended had waited and had run for so long, by the buckets of `domain.histograms`; empty
#: where there was none.
HISTOGRAMS = ("waits", "runs")


def _counters() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False, server_default="0") for name in COUNTERS]


def _histograms() -> list[Column[list[int]]]:
    return [Column(name, ARRAY(Integer), nullable=False, server_default=text("'{}'")) for name in HISTOGRAMS]


minutes = Table(
    "minutes", metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("minute", DateTime(timezone=True), primary_key=True),
    #: Sessions that count at once count in different rows, or each would wait for the other's commit; readers add up.
    Column("shard", SmallInteger, primary_key=True, server_default="0"),
    *_counters(), *_histograms(),
    version_column(),
    Index("ix_minutes_minute", "minute"),
)  # fmt: skip

#: The same by the hour, kept longer. Made of whole hours of the minutes by upkeep.
hours = Table(
    "hours", metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("hour", DateTime(timezone=True), primary_key=True),
    *_counters(), *_histograms(),
    version_column(),
    Index("ix_hours_hour", "hour"),
)  # fmt: skip

#: How many jobs waited and ran as a minute began (span_s 60), or on average in an hour (3600).
queue_gauges = Table(
    "queue_gauges", metadata,
    Column("span_s", Integer, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), primary_key=True),
    #: The nil UUID and no model: it was looked, which a minute without a queue would not tell.
    Column("tenant_id", Uuid, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("waiting", Double, nullable=False), Column("running", Double, nullable=False),
    #: Age of the oldest that waited, and of an hour the greatest; NULL where none did.
    Column("oldest_s", Double),
    version_column(),
)  # fmt: skip

#: The same of devices: what they have, what replicas hold of it, and the part of the time in which they computed.
device_gauges = Table(
    "device_gauges", metadata,
    Column("span_s", Integer, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), primary_key=True),
    Column("host", Text, primary_key=True), Column("device", Text, primary_key=True),
    Column("total_mib", Double), Column("used_mib", Double, nullable=False), Column("busy", Double, nullable=False),
    #: With all processes on it, as its host measured; NULL where nobody could.
    Column("taken_mib", Double), Column("use", Double),
    version_column(),
)  # fmt: skip

#: Lines of a batch that ended in a minute, raised together with the batch's own counts. `failed`: expired ones too.
batch_minutes = Table(
    "batch_minutes", metadata,
    Column("batch_id", Uuid, primary_key=True),
    Column("minute", DateTime(timezone=True), primary_key=True),
    tenant_column(), version_column(),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in ("completed", "failed")),
)  # fmt: skip
