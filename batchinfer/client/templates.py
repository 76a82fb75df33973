"""Prompt templates: apply a text, look at versions, try one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.client.nouns import Run, Template
from batchinfer.domain.ids import TEMPLATE
from batchinfer.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchinfer.client.transport import Transport


class Templates:
    """`client.templates`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, declared: Mapping[str, Any], *, idempotency_key: str | None = None) -> Template:
        """Keep a template, as version 1. Raises BadRequest, Conflict (the name is taken)."""
        made = self._transport.create("/v1/templates", key=idempotency_key, json=dict(declared))
        return Template.model_validate(made)

    def apply(self, declared: Mapping[str, Any]) -> Template:
        """Create the template of this name, or add a version where its newest says something else. Twice is as once."""
        return Template.model_validate(self._transport.ask("POST", "/v1/templates/apply", json=dict(declared)))

    def get(self, template_id: str) -> Template:
        """A template with its versions. Raises NotFound."""
        return Template.model_validate(self._transport.ask("GET", f"/v1/templates/{template_id}"))

    def find(self, name: str) -> Template:
        """A template with its versions, by its id or its name. Raises NotFound."""
        if name.startswith(TEMPLATE):
            return self.get(name)
        for template in self.list():
            if template.name == name:
                return self.get(template.id)
        raise NotFound(f"There is no template named '{name}'. List them to see those there are.")

    def list(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Template]:
        """Templates, newest first, without their texts."""
        return map(Template.model_validate, self._transport.list("/v1/templates", {"after": after}, limit))

    def add_version(self, template_id: str, **said: Any) -> Template:
        """Add a version; the text of the newest again makes none. Raises NotFound, BadRequest."""
        return Template.model_validate(self._transport.ask("POST", f"/v1/templates/{template_id}/versions", json=said))

    def delete(self, template_id: str) -> None:
        """Let no run begin with it any more. Raises NotFound."""
        self._transport.ask("DELETE", f"/v1/templates/{template_id}", again=False)

    def try_pages(
        self,
        template_id: str,
        model: str,
        files: Sequence[str],
        *,
        idempotency_key: str | None = None,
        **more: Any,
    ) -> Run:
        """A run over the first pages, three at most, of uploaded files (their ids); `more` are version, pages, render
        and generation. Raises NotFound, BadRequest."""
        body = {"model": model, "files": list(files), **more}
        path = f"/v1/templates/{template_id}/try"
        return Run.model_validate(self._transport.create(path, key=idempotency_key, json=body))
