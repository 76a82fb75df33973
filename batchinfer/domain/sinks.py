"""Where the results of a run go. Without a sink they are a JSONL file of ours, as a batch's output is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from batchinfer.domain.fields import (
    join,
    read_int,
    read_list,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
    require,
)

MAX_SINKS = 8
#: Documents of one sealed shard where nobody says.
SHARD_DOCUMENTS = 500


class SinkType(StrEnum):
    """What is written."""

    JSONL = "jsonl"
    MARKDOWN = "markdown"
    CSV = "csv"
    PARQUET = "parquet"
    WEBHOOK = "webhook"


@dataclass(frozen=True)
class Sink:
    """`uri` is a folder for fsspec, in which the run makes a folder of its own; None for webhooks and for our store."""

    type: SinkType
    uri: str | None = None
    documents_per_shard: int = SHARD_DOCUMENTS


def parse_sinks(value: object, at: str = "sinks") -> tuple[Sink, ...]:
    """Sinks from decoded JSON. Raises BadRequest with the dotted path of the field."""
    if value is None:
        return (Sink(SinkType.JSONL),)
    sinks = read_list(value, at)
    if not 1 <= len(sinks) <= MAX_SINKS:
        refuse(at, f"must have from 1 to {MAX_SINKS} entries.")
    return tuple(_parse_sink(sink, join(at, i)) for i, sink in enumerate(sinks))


def _parse_sink(body: object, at: str) -> Sink:
    given = read_object(body, at)
    refuse_unknown(given, ("type", "uri", "documents_per_shard"), at)
    kind = SinkType(read_word(require(given, "type", "Say jsonl.", at), join(at, "type"), list(SinkType)))
    uri, number = given.get("uri"), given.get("documents_per_shard", SHARD_DOCUMENTS)
    return Sink(
        kind,
        None if uri is None else read_text(uri, join(at, "uri"), max_chars=2048),
        read_int(number, join(at, "documents_per_shard"), 1, 100_000),
    )
