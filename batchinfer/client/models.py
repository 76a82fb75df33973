"""Models: which there are, which is ready, and their revisions: made known, fetched, taken away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchinfer.client.nouns import LaunchPlan, Model, PrunedRevision, Revision
from batchinfer.errors import NotFound, Overrun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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

    def plan(
        self,
        name: str,
        *,
        device: str = "auto",
        slots: int | None = None,
        dtype: str = "auto",
        quantisation: str = "none",
        memory_mib: int | None = None,
        context_tokens: int | None = None,
    ) -> LaunchPlan:
        """What a launch of a model would take, beside what each device has. Raises NotFound, Conflict where nothing is
        known of its files, BadRequest where a budget of `memory_mib` holds not even one slot."""
        sizes = {"slots": slots, "memory_mib": memory_mib, "context_tokens": context_tokens}
        body = {"device": device, "dtype": dtype, "quantisation": quantisation, **sizes}
        given = {key: value for key, value in body.items() if value is not None}
        found = self._transport.ask("POST", f"/v1/models/{quote(name, safe='')}/plan", json=given)
        return LaunchPlan.model_validate(found)

    def find_ready(self) -> Model:
        """A model that a worker has ready. Raises NotFound where there is none."""
        for model in self.list():
            if model.status == "ready":
                return model
        raise NotFound("No model is ready. GET /v1/models tells why; name a `model` to submit all the same.")

    def register(self, name: str, source: Mapping[str, Any]) -> Revision:
        """Make a revision of a model known, without its weights; docs/models.md says what a source has. Twice is as
        once. Raises BadRequest, Unavailable (the source does not answer)."""
        body = {"name": name, "source": dict(source)}
        return Revision.model_validate(self._transport.ask("POST", "/v1/models", json=body))

    def revisions(self, name: str) -> tuple[Revision, ...]:
        """The revisions of a model, newest first. Raises NotFound."""
        answer = self._transport.ask("GET", f"/v1/models/{quote(name, safe='')}/revisions")
        return tuple(Revision.model_validate(one) for one in answer["data"])

    def get_revision(self, name: str, revision: str) -> Revision:
        """One revision of a model; its first digits are enough. Raises NotFound."""
        return Revision.model_validate(self._transport.ask("GET", _path(name, revision)))

    def fetch(self, name: str, revision: str) -> Revision:
        """Have its files fetched. Twice is as once. Raises NotFound."""
        return Revision.model_validate(self._transport.ask("POST", f"{_path(name, revision)}/fetch"))

    def verify(self, name: str, revision: str) -> Revision:
        """Have its files read again and held to their SHA-256; `wait_fetched` waits for that, too, and `checked_at` or
        `error` then say how it went. Raises NotFound, Conflict (they are not here)."""
        return Revision.model_validate(self._transport.ask("POST", f"{_path(name, revision)}/verify"))

    def cancel_fetch(self, name: str, revision: str) -> Revision:
        """End a fetch, or a verify; what has come is kept. Twice is as once. Raises NotFound."""
        return Revision.model_validate(self._transport.ask("POST", f"{_path(name, revision)}/cancel"))

    def wait_fetched(
        self,
        name: str,
        revision: str,
        timeout_s: float | None = None,
        *,
        tell: Callable[[Revision], None] = lambda _: None,
        poll_s: float = 1.0,
    ) -> Revision:
        """The revision once its fetch or verify has ended, however it did; `tell` hears how far it is. Raises
        Overrun."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not (found := self.get_revision(name, revision)).has_ended:
            tell(found)
            if until_s is not None and time.monotonic() >= until_s:
                raise Overrun(f"The revision is still being fetched or read after {timeout_s:g} seconds. Wait again.")
            time.sleep(poll_s)
        tell(found)
        return found

    def prune(
        self, name: str | None = None, revision: str | None = None, *, dry_run: bool = False
    ) -> tuple[PrunedRevision, ...]:
        """Take away the files of revisions that nobody needs, and say what goes and what stays. Raises NotFound."""
        body = {"model": name, "revision": revision, "dry_run": dry_run}
        answer = self._transport.ask("POST", "/v1/models/prune", json=body)
        return tuple(PrunedRevision.model_validate(one) for one in answer["data"])


def _path(name: str, revision: str) -> str:
    return f"/v1/models/{quote(name, safe='')}/revisions/{quote(revision, safe='')}"
