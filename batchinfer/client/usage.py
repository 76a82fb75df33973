"""What results used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.client.nouns import UsageReport

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from batchinfer.client.transport import Transport


class Usage:
    """`client.usage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(
        self,
        *,
        group_by: Iterable[str] = ("day",),
        since: date | None = None,
        until: date | None = None,
        model: str | None = None,
        key: str | None = None,
    ) -> UsageReport:
        """Usage of whole days of UTC, of the last 30 unless said otherwise, added up by some of day, model, key and
        schedule. Raises BadRequest."""
        query = {"group_by": ",".join(group_by), "from": since, "to": until, "model": model, "key": key}
        asked = {name: str(value) for name, value in query.items() if value is not None}
        return UsageReport.model_validate(self._transport.ask("GET", "/v1/usage", params=asked))
