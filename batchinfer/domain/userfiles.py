"""Files that users upload and that batches write, as OpenAI's Files API names them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from batchinfer.domain.fields import check_plain, read_int, read_object, read_text, read_word, refuse, refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Purposes that a user may give a file; `BATCH_OUTPUT` is ours to give.
BATCH, VISION, USER_DATA, BATCH_OUTPUT = "batch", "vision", "user_data", "batch_output"
PURPOSES = (BATCH, VISION, USER_DATA)
MAX_FILENAME_CHARS = 255
#: Bounds of `expires_after.seconds`, and what files of batches get where nobody says (OpenAI's 30 days).
LEAST_EXPIRY_S, LONGEST_EXPIRY_S = 3600, 2_592_000


@dataclass(frozen=True)
class UserFile:
    """A file that is there: not deleted, and its time not over. The bytes are `blob`. Times are aware UTC."""

    id: UUID
    tenant_id: UUID
    filename: str
    purpose: str
    size_bytes: int
    #: SHA-256, hexadecimal.
    blob: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class FileRequest:
    """What a user says of a file. `expires_s` is None where it is kept until it is deleted."""

    filename: str
    purpose: str
    expires_s: int | None


def parse_file_form(fields: Mapping[str, str], filename: str) -> FileRequest:
    """The fields beside the file of a form: `purpose`, `expires_after[anchor]` and `expires_after[seconds]`.

    Raises BadRequest with the name of the field.
    """
    refuse_unknown(fields, ("purpose", "expires_after[anchor]", "expires_after[seconds]"))
    after: dict[str, object] = {name[14:-1]: text for name, text in fields.items() if name.startswith("expires_after[")}
    seconds = after.get("seconds")
    if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) < 10:
        after["seconds"] = int(seconds)
    return parse_file_facts(filename, fields.get("purpose"), after or None)


def parse_file_facts(filename: object, purpose: object, expires_after: object) -> FileRequest:
    """What a file is called, what it is for and how long it is kept. Raises BadRequest with the name of the field."""
    if purpose is None:
        refuse("purpose", f"is missing. Say {', '.join(PURPOSES)}.", "missing_required_parameter")
    word = read_word(purpose, "purpose", PURPOSES)
    name = read_text(filename, "filename", max_chars=MAX_FILENAME_CHARS)
    check_plain(name, "filename")
    expires_s = None if expires_after is None else parse_expires_after(expires_after, "expires_after")
    return FileRequest(name, word, LONGEST_EXPIRY_S if word == BATCH and expires_s is None else expires_s)


def parse_expires_after(value: object, at: str) -> int:
    """Seconds from a file's making: `{"anchor": "created_at", "seconds": 3600 to 2592000}`. Raises BadRequest."""
    given = read_object(value, at)
    refuse_unknown(given, ("anchor", "seconds"), at)
    for name in ("anchor", "seconds"):
        if given.get(name) is None:
            refuse(f"{at}.{name}", "is missing.", "missing_required_parameter")
    read_word(given["anchor"], f"{at}.anchor", ("created_at",))
    return read_int(given["seconds"], f"{at}.seconds", LEAST_EXPIRY_S, LONGEST_EXPIRY_S)
