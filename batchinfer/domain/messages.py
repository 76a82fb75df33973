"""Messages as OpenAI writes them, made canonical: texts, and places that count into a list of uploads."""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchinfer.domain.fetching import SCHEMES, parse_fetch_url
from batchinfer.domain.fields import (
    join,
    read_list,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
    require,
    show,
)
from batchinfer.domain.ids import FILE, parse_id
from batchinfer.errors import BadImage, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from batchinfer.domain.limits import Limits

ROLES = ("system", "user", "assistant")
PARTS = ("text", "image_url", "file")
DETAILS = ("auto", "low", "high", "original")
MAX_MESSAGES, MAX_PARTS, MAX_FILENAME_CHARS = 256, 1024, 255


@dataclass(frozen=True)
class Stored:
    """Bytes that lie in the blob store: their SHA-256 (hexadecimal), their number and, by the first of them, kind."""

    sha256: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True)
class Upload:
    """A file as a user sent it, unopened: its bytes, the id of a file that is kept, or an address to fetch.

    `param` is the dotted path that errors about it name.
    """

    data: bytes
    filename: str | None
    param: str
    file_id: UUID | None = None
    #: As it was sent; what it leads to is known once a CPU worker has fetched it.
    url: str | None = None
    #: Where the bytes of `file_id` lie, once it was looked up.
    stored: Stored | None = None


@dataclass
class _Reading:
    """What the messages read so far hold, against the limits."""

    limits: Limits
    uploads: list[Upload] = field(default_factory=list)
    chars: int = 0
    parts: int = 0
    asks: bool = False

    def add_text(self, text: str, at: str, role: str) -> dict[str, Any]:
        self.chars += len(text)
        if self.chars > self.limits.max_prompt_chars:
            refuse(
                at,
                f"makes the texts longer than {self.limits.max_prompt_chars:,} characters.",
                "prompt_too_long",
            )
        self.asks |= role == "user" and bool(text.strip())
        return {"type": "text", "text": text}

    def add_upload(self, upload: Upload) -> dict[str, Any]:
        check_upload_count(len(self.uploads) + 1, upload.param, self.limits)
        if not upload.data and upload.file_id is None and upload.url is None:
            refuse_empty(upload.param)
        self.uploads.append(upload)
        self.asks = True
        return {"type": "image", "index": len(self.uploads) - 1}


def parse_messages(value: object, limits: Limits) -> tuple[tuple[dict[str, Any], ...], tuple[Upload, ...]]:
    """Canonical messages, and the uploads that their image parts count into. Raises BadRequest, BadImage."""
    messages = read_list(value, "messages")
    if not 1 <= len(messages) <= MAX_MESSAGES:
        refuse("messages", f"must have from 1 to {MAX_MESSAGES} entries.")
    reading = _Reading(limits)
    canonical = tuple(_parse_message(message, join("messages", i), reading) for i, message in enumerate(messages))
    if not reading.asks:
        refuse(
            "messages",
            "ask nothing: send a user message with a text or a picture.",
            "missing_required_parameter",
        )
    return canonical, tuple(reading.uploads)


def _parse_message(value: object, at: str, reading: _Reading) -> dict[str, Any]:
    message = read_object(value, at)
    refuse_unknown(message, {"role", "content"}, at)
    role = read_word(require(message, "role", "Say system, user or assistant.", at), join(at, "role"), ROLES)
    where = join(at, "content")
    content = require(message, "content", "Send a text or a list of parts.", at)
    if isinstance(content, str):
        return {"role": role, "content": [reading.add_text(content, where, role)]}
    if not isinstance(content, list):
        refuse(where, "must be a text or a list of parts.", "invalid_type")
    reading.parts += len(content)
    if not content or reading.parts > MAX_PARTS:
        refuse(where, f"must have a part, and all messages together at most {MAX_PARTS}.")
    return {
        "role": role,
        "content": [_parse_part(part, join(where, i), role, reading) for i, part in enumerate(content)],
    }


def _parse_part(value: object, at: str, role: str, reading: _Reading) -> dict[str, Any]:
    part = read_object(value, at)
    kind = read_word(require(part, "type", "Say text, image_url or file.", at), join(at, "type"), PARTS)
    refuse_unknown(part, {"type", kind}, at)
    inner, where = require(part, kind, _REMEDIES[kind], at), join(at, kind)
    if kind == "text":
        text = read_text(inner, where, max_chars=reading.limits.max_prompt_chars, allow_empty=True)
        return reading.add_text(text, where, role)
    if role != "user":
        refuse(where, "may stand in a user message only.")
    parse = _parse_image_url if kind == "image_url" else _parse_file
    upload = parse(inner, where, reading.limits)
    return reading.add_upload(upload)


_REMEDIES = {
    "text": "Send the text.",
    "image_url": 'Send {"url": "data:image/png;base64,..."}.',
    "file": 'Send {"filename": "...", "file_data": "data:application/pdf;base64,..."} or {"file_id": "file-..."}.',
}


def _parse_image_url(value: object, at: str, limits: Limits) -> Upload:
    image = read_object(value, at)
    refuse_unknown(image, {"url", "detail"}, at)
    if image.get("detail") is not None:
        read_word(image["detail"], join(at, "detail"), DETAILS)
    where = join(at, "url")
    url = require(image, "url", "Send a data URL: data:image/png;base64,...", at)
    return _read_source(url, None, where, limits)


def _parse_file(value: object, at: str, limits: Limits) -> Upload:
    file = read_object(value, at)
    refuse_unknown(file, {"filename", *_SOURCES}, at)
    named = [source for source in _SOURCES if file.get(source) is not None]
    if len(named) > 1:
        refuse(join(at, named[1]), f"stands beside `{named[0]}`. Send one of them.")
    name = file.get("filename")
    if name is not None:
        read_text(name, join(at, "filename"), max_chars=MAX_FILENAME_CHARS)
    if named == ["file_id"]:
        return _read_file_id(file["file_id"], name, join(at, "file_id"))
    source = "file_url" if named == ["file_url"] else "file_data"
    data = require(file, source, "Send a data URL: data:application/pdf;base64,...", at)
    return _read_source(data, name, join(at, source), limits)


#: Members of a file part that say where its bytes are; one of them.
_SOURCES = ("file_data", "file_id", "file_url")


def _read_source(value: object, name: str | None, at: str, limits: Limits) -> Upload:
    """A data URL, or an address that may be fetched."""
    if isinstance(value, str) and value[:6].lower().startswith(SCHEMES):
        return Upload(b"", name, at, url=str(parse_fetch_url(value, limits.fetch, param=at)))
    return Upload(decode_data_url(value, at), name, at)


def _read_file_id(value: object, name: str | None, at: str) -> Upload:
    try:
        file_id = parse_id(FILE, read_text(value, at, max_chars=64))
    except NotFound:
        raise make_no_file(at) from None
    return Upload(b"", name, at, file_id=file_id)


def make_no_file(at: str) -> NotFound:
    """The error for a file id that names none of the user's files."""
    return NotFound(
        f"`{at}` names no file of yours. It may have been deleted, or its time is over. Upload it again.",
        code="file_not_found", param=at,
    )  # fmt: skip


def expand_places(
    messages: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Messages of a stored prompt whose places count into its `images`.

    A document that stands for its pages was one upload and is several pictures: each says in `upload` which it was.
    """
    if not any("upload" in image for image in images):
        return list(messages)
    pictures: dict[int, list[dict[str, Any]]] = {}
    for index, image in enumerate(images):
        pictures.setdefault(image["upload"], []).append({"type": "image", "index": index})
    return [
        {**message, "content": [found for part in message["content"] for found in _expand(part, pictures)]}
        for message in messages
    ]


def _expand(part: Mapping[str, Any], pictures: Mapping[int, list[dict[str, Any]]]) -> Sequence[Mapping[str, Any]]:
    return pictures[part["index"]] if part["type"] == "image" else [part]


def decode_data_url(value: object, at: str) -> bytes:
    """The bytes of a data URL. What it says of their type is not believed: the first bytes decide later.

    Raises BadImage `invalid_image_url`, `invalid_base64_image` or `empty_image_file`.
    """
    if not isinstance(value, str):
        refuse(at, "must be a text: data:image/png;base64,...", "invalid_type")
    head, comma, payload = value.partition(",")
    if not value[:5].lower() == "data:" or not comma or not head[:256].lower().endswith(";base64"):
        raise BadImage(
            f"`{at}` must be a data URL with base64, data:image/png;base64,..., not `{show(value)[:24]}`.",
            code="invalid_image_url", param=at,
        )  # fmt: skip
    try:
        data = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:  # binascii.Error is one; a character outside ASCII raises the plain one
        raise BadImage(
            f"`{at}` holds what is not base64. Use A-Z a-z 0-9 + / with padding, without line breaks.",
            code="invalid_base64_image", param=at,
        ) from None  # fmt: skip
    return data or refuse_empty(at)


def refuse_empty(at: str) -> bytes:
    """Raise BadImage `empty_image_file`: no bytes at all."""
    raise BadImage(f"`{at}` is empty: 0 bytes. Send the whole file.", code="empty_image_file", param=at)


def check_upload_count(count: int, at: str, limits: Limits) -> None:
    """Refuse more files than a request may bring. Raises BadImage `too_many_images`."""
    if count > limits.max_images:
        raise BadImage(
            f"`{at}` is one file too many: a request may bring {limits.max_images}. Send several jobs.",
            code="too_many_images", param=at,
        )  # fmt: skip
