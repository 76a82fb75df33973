"""A user's verbs for prompt templates: create, apply, a new version, get, list, delete, try."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.domain.ids import TEMPLATE, new_id, show_id
from batchinfer.domain.limits import Limits
from batchinfer.domain.runs import MAX_NAME_CHARS
from batchinfer.domain.templates import parse_template, parse_try, parse_version
from batchinfer.errors import Conflict, NotFound
from batchinfer.services import runs
from batchinfer.services.context import Page
from batchinfer.services.replay import Replayed, find_replay, take_key
from batchinfer.store import templates as store

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.domain.runs import Run
    from batchinfer.domain.templates import TemplateText
    from batchinfer.services.context import Caller, Context, Idempotency
    from batchinfer.store.session import Transaction
    from batchinfer.store.templates import Template, TemplateVersion

#: A template with its versions, newest first.
Told = tuple["Template", "list[TemplateVersion]"]


def create_template(
    ctx: Context, caller: Caller, body: object, idempotency: Idempotency | None = None
) -> tuple[Told, bool]:
    """Keep a template, as version 1. Answers it, and whether it is a replay.

    Raises BadRequest (codes invalid_template, unknown_variable), Conflict (code template_exists), KeyReused.
    """
    caller.require("submit")
    with ctx.db.transaction() as tx:
        found = find_replay(tx, caller, idempotency)
    if found is not None:
        return get_own(ctx, caller, found.resource_id), True
    (name, said), template_id = parse_template(body, Limits.of(ctx.settings)), new_id()
    try:
        with ctx.db.transaction() as tx:
            take_key(ctx, tx, caller, idempotency, "template", template_id)
            _insert(tx, caller, template_id, name, said)
    except Replayed as replay:
        return get_own(ctx, caller, replay.found.resource_id), True
    return get_own(ctx, caller, template_id), False


def _insert(tx: Transaction, caller: Caller, template_id: UUID, name: str, said: TemplateText) -> None:
    if not store.insert_template(tx, template_id, caller.tenant_id, name):
        raise Conflict(
            f"There is a template named '{name}' already. Add a version to it, or apply the text to it.",
            code="template_exists",
            param="name",
        )
    store.add_version(tx, caller.tenant_id, template_id, 1, said, actor=caller.actor)


def apply_template(ctx: Context, caller: Caller, body: object) -> tuple[Told, str]:
    """Create the template of this name, or add a version to it where its newest says something else. Twice is as once.

    Answers it, and what was done: created, changed or unchanged. Raises BadRequest.
    """
    caller.require("submit")
    name, said = parse_template(body, Limits.of(ctx.settings))
    with ctx.db.transaction() as tx:
        held = store.lock_named(tx, caller.tenant_id, name)
        if held is None:
            template_id, done = new_id(), "created"
            _insert(tx, caller, template_id, name, said)
        else:
            template_id, done = held.id, "changed" if _add(tx, caller, held, said) else "unchanged"
    return get_own(ctx, caller, template_id), done


def add_version(ctx: Context, caller: Caller, template_id: UUID, body: object) -> Told:
    """Another text, as the newest version; the same text again makes none. Raises NotFound, BadRequest."""
    caller.require("submit")
    said = parse_version(body, Limits.of(ctx.settings))
    with ctx.db.transaction() as tx:
        _add(tx, caller, _require(store.lock_template(tx, caller.tenant_id, template_id)), said)
    return get_own(ctx, caller, template_id)


def _add(tx: Transaction, caller: Caller, held: Template, said: TemplateText) -> bool:
    newest = store.find_version(tx, caller.tenant_id, held.name)
    if newest is not None and newest.text.says_the_same(said):
        return False
    store.add_version(tx, caller.tenant_id, held.id, held.version + 1, said, actor=caller.actor)
    return True


def get_own(ctx: Context, caller: Caller, template_id: UUID) -> Told:
    """The caller's template, whatever its scopes. Raises NotFound."""
    with ctx.db.transaction() as tx:
        found = _require(store.find_template(tx, caller.tenant_id, template_id))
        return found, store.list_versions(tx, caller.tenant_id, template_id)


def get_template(ctx: Context, caller: Caller, template_id: UUID) -> Told:
    """The template with its versions. Raises NotFound."""
    caller.require("read")
    return get_own(ctx, caller, template_id)


def list_templates(ctx: Context, caller: Caller, *, after: UUID | None = None, limit: int = 20) -> Page[Template]:
    """Templates, newest first, beginning below the id `after`."""
    caller.require("read")
    with ctx.db.transaction() as tx:
        found = store.list_templates(tx, caller.tenant_id, after=after, limit=limit + 1)
    return Page.cut(found, limit, backwards=False)


def delete_template(ctx: Context, caller: Caller, template_id: UUID) -> None:
    """Let no run begin with it any more; those that have begun keep their text. Raises NotFound."""
    caller.require("submit")
    with ctx.db.transaction() as tx:
        if not store.delete_template(tx, caller.tenant_id, template_id):
            raise _make_missing()


def try_template(
    ctx: Context, caller: Caller, template_id: UUID, body: object, idempotency: Idempotency | None = None
) -> tuple[Run, bool]:
    """A run of the class interactive over the first pages, three at most, of files that were uploaded: exactly what a
    night would do with them. Answers it, and whether it is a replay.

    Raises NotFound, BadRequest, KeyReused, Busy.
    """
    caller.require("submit")
    template, _ = get_own(ctx, caller, template_id)
    version, spec = parse_try(body)
    named = {"name": template.name, "version": version or template.version}
    spec["pipeline"] = {**spec["pipeline"], "template": named}
    spec |= {"name": f"try {template.name}"[:MAX_NAME_CHARS]}
    spec["metadata"] = {"template": show_id(TEMPLATE, template_id), "version": str(named["version"])}
    return runs.declare_run(ctx, caller, spec, idempotency)


def _require(template: Template | None) -> Template:
    if template is None:
        raise _make_missing()
    return template


def _make_missing() -> NotFound:
    return NotFound("No template with this id. It may have been deleted.", code="template_not_found")
