"""What one request may ask for. Made from the settings once, passed to the parsers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.fetching import find_fetch_rules

if TYPE_CHECKING:
    from batchinfer.domain.fetching import FetchRules
    from batchinfer.settings import Settings


@dataclass(frozen=True)
class Limits:
    """The limits that the parsers of `prompts` hold a request to."""

    #: max_tokens of a request that names none, and the largest it may name.
    default_max_tokens: int
    max_tokens: int
    #: All texts of all messages together.
    max_prompt_chars: int
    #: Pictures and documents of one request.
    max_images: int
    max_body_bytes: int
    #: From where addresses may be fetched; None: from nowhere.
    fetch: FetchRules | None = None

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits that the settings set; the default never lies over the largest."""
        return cls(
            default_max_tokens=min(settings.default_max_tokens, settings.max_tokens),
            max_tokens=settings.max_tokens,
            max_prompt_chars=settings.max_prompt_chars,
            max_images=settings.max_images,
            max_body_bytes=settings.max_body_bytes,
            fetch=find_fetch_rules(settings),
        )
