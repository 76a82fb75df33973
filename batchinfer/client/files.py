"""Files: upload, list, download, delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batchinfer.client.nouns import File

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from batchinfer.client.transport import Transport

#: Most files of one page of the list.
_PAGE = 1000


class Files:
    """`client.files`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        path: str | os.PathLike[str],
        purpose: str = "batch",
        *,
        expires_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> File:
        """Keep a file of this machine under an id; it is read from the disk in pieces. Raises TooLarge."""
        fields = {"purpose": purpose}
        if expires_s is not None:
            fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(expires_s)}
        with Path(path).open("rb") as file:
            part = {"file": (Path(path).name, file)}
            made = self._transport.create("/v1/files", key=idempotency_key, data=fields, files=part)
        return File.model_validate(made)

    def get(self, file_id: str) -> File:
        """A file's name, length and purpose. Raises NotFound."""
        return File.model_validate(self._transport.ask("GET", f"/v1/files/{file_id}"))

    def list(self, *, purpose: str | None = None, after: str | None = None, limit: int | None = None) -> Iterator[File]:
        """Files, newest first."""
        query = {"purpose": purpose, "after": after}
        return map(File.model_validate, self._transport.list("/v1/files", query, limit, page=_PAGE))

    def download(self, file_id: str, to: str | os.PathLike[str]) -> int:
        """Write a file's bytes to `to`, which is replaced once all are there; answers how many. Raises NotFound."""
        return self._transport.download(f"/v1/files/{file_id}/content", Path(to))

    def delete(self, file_id: str) -> None:
        """Delete a file. A batch that was made of it goes on. Raises NotFound."""
        self._transport.ask("DELETE", f"/v1/files/{file_id}", again=False)
