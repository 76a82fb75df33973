"""`batchinfer templates`: prompts with variables, in versions, over HTTP. A template is named by its id or its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchinfer.cli.declarations import read_declarations
from batchinfer.cli.output import JSON, UNANSWERED, emit, remark, say, show_text
from batchinfer.cli.remote import remote, show_time
from batchinfer.cli.runs import YAML
from batchinfer.client.progress import make_plain

if TYPE_CHECKING:
    from batchinfer.client import Client, Job, Run

_NAME = click.argument("name", metavar="TEMPLATE")
#: Files that are tried are needed no longer than that.
_KEPT_S = 86_400


@click.group()
def templates() -> None:
    """Prompt templates."""


@templates.command("apply")
@YAML
@JSON
@remote
def apply_templates(client: Client, path: Path, as_json: bool) -> None:
    """Add versions to the templates of a YAML file that say something else now; create those that are not there."""
    for declaration in read_declarations(path):
        with declaration.naming_lines():
            template = client.templates.apply(declaration.value)
        if as_json:
            emit(template.as_dict())
        else:
            say(f"{template.id}  {template.applied}  version {template.version}  {make_plain(template.name)}")


@templates.command("list")
@JSON
@remote
def list_templates(client: Client, as_json: bool) -> None:
    """All templates."""
    for template in client.templates.list():
        if as_json:
            emit(template.as_dict())
        else:
            when = show_time(template.updated_at)
            say(f"{template.id}  version {template.version}  {when}  {make_plain(template.name)}")


@templates.command("show")
@_NAME
@JSON
@remote
def show_template(client: Client, name: str, as_json: bool) -> None:
    """A template with its versions, newest first."""
    template = client.templates.find(name)
    if as_json:
        emit(template.as_dict())
        return
    for version in template.versions:
        say(f"version {version.version}  {show_time(version.created_at)}  {make_plain(version.note or '')}".rstrip())
        for text in (version.system, version.prompt):
            if text is not None:
                say(show_text(text))


@templates.command("delete")
@_NAME
@JSON
@remote
def delete_template(client: Client, name: str, as_json: bool) -> None:
    """Let no run begin with it any more."""
    template = client.templates.find(name)
    client.templates.delete(template.id)
    if as_json:
        emit({"id": template.id, "deleted": True})
    else:
        say(f"{template.id}  deleted")


@templates.command("try")
@_NAME
@click.argument("paths", metavar="FILE...", nargs=-1, required=True,
                type=click.Path(path_type=Path, exists=True, dir_okay=False))  # fmt: skip
@click.option("--model", help="Which model; left out, one that is ready.")
@click.option("--version", type=click.IntRange(min=1), help="Which version; left out, the newest.")
@click.option("--pages", type=click.IntRange(1, 3), default=3, show_default=True, help="Of all files together.")
@JSON
@remote
def try_template(
    client: Client,
    name: str,
    paths: tuple[Path, ...],
    model: str | None,
    version: int | None,
    pages: int,
    as_json: bool,
) -> None:
    """Try it on the first pages of up to three files, and print the answers; ends with 3 where a page has none."""
    template = client.templates.find(name)
    files = [client.files.upload(path, "user_data", expires_s=_KEPT_S).id for path in paths]
    chosen = model or client.models.find_ready().id
    run = client.templates.try_pages(template.id, chosen, files, pages=pages, version=version)
    remark(f"{run.id} has begun.")
    ended = client.runs.wait(run.id)
    _show_pages(client, ended, as_json=as_json)
    if not ended.succeeded:
        raise SystemExit(UNANSWERED)


def _show_pages(client: Client, run: Run, *, as_json: bool) -> None:
    for document in client.runs.list_documents(run.id):
        for job in sorted(client.jobs.list(document=document.id), key=lambda job: job.page or 0):
            if as_json:
                emit({"filename": document.filename, **job.as_dict()})
            else:
                _show_page(document.filename or "-", job)
        if document.error is not None:
            remark(f"{make_plain(document.filename or '-')}: {make_plain(document.error.message)}")
    if run.cause is not None:
        remark(f"{run.cause.code}: {make_plain(run.cause.message)}")


def _show_page(filename: str, job: Job) -> None:
    say(f"== {make_plain(filename)} page {job.page}: {job.outcome or job.status}")
    if job.result is not None:
        say(show_text(job.result.text))
    elif job.error is not None:
        say(f"{job.error.code}: {make_plain(job.error.message)}")
