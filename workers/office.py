"""A document's file in a form whose pages can be drawn: an office document as PDF, any other as it is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchinfer.errors import BadDocument
from batchinfer.media.office import tell_office_file
from batchinfer.services.files import find_installed_office

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchinfer.settings import Settings


@contextmanager
def opened_pages(source: Path, target: Path, settings: Settings) -> Iterator[Path]:
    """Where the file with the pages of `source` lies while the block lasts: itself, or a PDF at `target`.

    Raises BadDocument (`unsupported_document_type`, `document_parse_error`), Failure (`sandbox_timeout`).
    """
    media_type = tell_office_file(source) if source.is_file() else None
    if media_type is None:
        yield source
        return
    office = find_installed_office(settings)
    if office is None:
        raise BadDocument(
            "This CPU worker cannot read office documents. Install LibreOffice on its host, or send a PDF.",
            code="unsupported_document_type",
        )
    try:
        office.convert(source, target, media_type)
        yield target
    finally:
        target.unlink(missing_ok=True)
