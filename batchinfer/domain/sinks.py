"""Where the results of a run go. Without a sink they are a JSONL file of ours, as a batch's output is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchinfer.settings import Settings

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
    found = tuple(_parse_sink(sink, join(at, i)) for i, sink in enumerate(sinks))
    for i, sink in enumerate(found):
        if any((sink.type, sink.uri) == (other.type, other.uri) for other in found[:i]):
            refuse(join(at, i), "is another one's equal: one would write over the other. Leave it out.")
    return found


def _parse_sink(body: object, at: str) -> Sink:
    given = read_object(body, at)
    refuse_unknown(given, ("type", "uri", "documents_per_shard"), at)
    kind = SinkType(read_word(require(given, "type", "Say jsonl.", at), join(at, "type"), list(SinkType)))
    uri, number = given.get("uri"), given.get("documents_per_shard", SHARD_DOCUMENTS)
    where = join(at, "uri")
    if kind is SinkType.WEBHOOK and uri is not None:
        refuse(where, "is not for webhooks: they go to the endpoints of POST /v1/webhook_endpoints. Leave it out.")
    if kind is SinkType.MARKDOWN and uri is None:
        refuse(where, "must be there for markdown: a folder or bucket.", "missing_required_parameter")
    return Sink(
        kind,
        None if uri is None else _parse_uri(read_text(uri, where, max_chars=2048), where),
        read_int(number, join(at, "documents_per_shard"), 1, 100_000),
    )


def _parse_uri(text: str, at: str) -> str:
    """A whole path or a URL without tricks, with no slash at its end; `file://` becomes the path."""
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if any(not char.isprintable() for char in text) or ".." in text.replace("\\", "/").split("/"):
        refuse(at, "must have no `..` and nothing that cannot be printed in it.")
    parts = urlsplit(text)
    local = text.startswith("/") and not text.startswith("//")
    if not local and (not parts.scheme or not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment):
        refuse(at, "must be a whole path, as /srv/results, or a bucket, as s3://name/folder, without a key in it.")
    return text.rstrip("/") or "/"


def find_documents_per_shard(sinks: Sequence[Sink]) -> int:
    """Documents of one shard: it is the same for all sinks of a run, the smallest of what they say."""
    return min(sink.documents_per_shard for sink in sinks)


def is_local(uri: str) -> bool:
    """Whether it is a folder of a host, not of a bucket."""
    return uri.startswith("/")


def check_allowed(sinks: Sequence[Sink], settings: Settings, at: str = "sinks") -> None:
    """Go on only if the operator lets results be written there. Raises BadRequest (code sink_not_allowed)."""
    for i, sink in enumerate(sinks):
        if sink.uri is not None and not is_allowed(sink.uri, settings):
            name = "sink_folders" if is_local(sink.uri) else "sink_buckets"
            sentence = f"is not among the places that the operator allows. The setting {name} lists them."
            refuse(join(join(at, i), "uri"), sentence, "sink_not_allowed")


def is_allowed(uri: str, settings: Settings) -> bool:
    """Whether it is one of the places that the settings name, or below one."""
    places = settings.sink_folders if is_local(uri) else settings.sink_buckets
    allowed = [place.strip().rstrip("/") for place in places.split(",") if place.strip()]
    return any(uri == place or uri.startswith(f"{place}/") for place in allowed)
