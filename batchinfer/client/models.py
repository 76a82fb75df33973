"""Models: which there are, and which is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from batchinfer.client.nouns import Model
from batchinfer.errors import NotFound

if TYPE_CHECKING:
    from batchinfer.client.transport import Transport


class Models:
    """`client.models`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, name: str) -> Model:
        """A model; its name may hold slashes. Raises NotFound."""
        return Model.model_validate(self._transport.ask("GET", f"/v1/models/{quote(name, safe='')}"))

    def list(self) -> tuple[Model, ...]:
        """Every model."""
        return tuple(Model.model_validate(model) for model in self._transport.ask("GET", "/v1/models")["data"])

    def find_ready(self) -> Model:
        """A model that a worker has ready. Raises NotFound where there is none."""
        for model in self.list():
            if model.status == "ready":
                return model
        raise NotFound("No model is ready. GET /v1/models tells why; name a `model` to submit all the same.")
