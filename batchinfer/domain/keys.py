"""What an operator asks for who makes a key or a tenant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchinfer.domain.fields import (
    check_plain,
    read_int,
    read_list,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
    require,
)

#: What a key may do, each word a scope.
SCOPES = ("submit", "read", "cancel", "fetch", "launch", "admin")
#: Seconds for which a key that is replaced goes on, unless told otherwise.
OVERLAP_S = 7 * 86_400
KEY_FIELDS = frozenset({"name", "scopes", "expires_in", "requests_per_minute", "tenant"})
TENANT_FIELDS = frozenset({"name", "max_jobs", "weight"})
RETENTION_FIELDS = frozenset({"tenant", "keep_days"})
MOST_DAYS = 36_500
NAME_CHARS, MOST_REQUESTS, LONGEST_S = 100, 1_000_000, 10 * 365 * 86_400
MOST_JOBS, MOST_WEIGHT = 2**53, 1000


@dataclass(frozen=True)
class KeyRequest:
    """A key to make. `tenant` None: the caller's own; `requests_per_minute` None takes the setting."""

    name: str
    scopes: frozenset[str]
    expires_in_s: int | None = None
    requests_per_minute: int | None = None
    tenant: str | None = None


@dataclass(frozen=True)
class TenantRequest:
    """A tenant to make; `max_jobs` None takes the setting."""

    name: str
    max_jobs: int | None = None
    weight: int = 1


def parse_key(body: object) -> KeyRequest:
    """The body of a request for a key. Raises BadRequest."""
    given = _open(body, KEY_FIELDS)
    name = _read_name(given)
    words = read_list(require(given, "scopes", f"Some of {', '.join(SCOPES)}."), "scopes")
    if not words or len(words) > len(SCOPES):
        refuse("scopes", f"must name some of {', '.join(SCOPES)}, each once.")
    return KeyRequest(
        name,
        frozenset(read_word(word, f"scopes.{number}", SCOPES) for number, word in enumerate(words)),
        read_int(given["expires_in"], "expires_in", 1, LONGEST_S) if "expires_in" in given else None,
        read_int(given["requests_per_minute"], "requests_per_minute", 1, MOST_REQUESTS)
        if "requests_per_minute" in given
        else None,
        read_text(given["tenant"], "tenant", max_chars=NAME_CHARS) if "tenant" in given else None,
    )


def parse_rotation(body: object) -> int:
    """The body of a request to replace a key: seconds for which the old one goes on. Raises BadRequest."""
    given = _open(body, frozenset({"overlap"}))
    return read_int(given["overlap"], "overlap", 0, LONGEST_S) if "overlap" in given else OVERLAP_S


def parse_tenant(body: object) -> TenantRequest:
    """The body of a request for a tenant. Raises BadRequest."""
    given = _open(body, TENANT_FIELDS)
    return TenantRequest(
        _read_name(given),
        read_int(given["max_jobs"], "max_jobs", 0, MOST_JOBS) if "max_jobs" in given else None,
        read_int(given["weight"], "weight", 1, MOST_WEIGHT) if "weight" in given else 1,
    )


def parse_retention(body: object) -> tuple[str | None, int | None]:
    """The tenant, None for the asker's own, and the days that its jobs are kept: 0 for ever, None as the setting says.

    Raises BadRequest.
    """
    given = _open(body, RETENTION_FIELDS)
    return (
        read_text(given["tenant"], "tenant", max_chars=NAME_CHARS) if "tenant" in given else None,
        read_int(given["keep_days"], "keep_days", 0, MOST_DAYS) if "keep_days" in given else None,
    )


def _read_name(given: dict[str, Any]) -> str:
    name = read_text(require(given, "name", "A name tells people what it is for."), "name", max_chars=NAME_CHARS)
    if not name.isprintable() or not name.strip():
        refuse("name", "must be printable text.")
    return name


def _open(body: object, fields: frozenset[str]) -> dict[str, Any]:
    """The fields that are given; null is as left out."""
    check_plain(body)
    given = read_object(body, "body")
    refuse_unknown(given, fields)
    return {name: value for name, value in given.items() if value is not None}
