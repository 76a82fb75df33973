"""Prompt templates: texts with variables of file and page, filled in by Jinja's sandbox (immutable, nothing undefined).

A template is checked when it is declared: it parses, it names no unknown variable, and it can be filled in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchinfer.domain.fields import (
    check_plain,
    join,
    read_int,
    read_list,
    read_object,
    read_text,
    refuse,
    refuse_unknown,
    require,
)
from batchinfer.domain.sampling import parse_response_format
from batchinfer.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.domain.limits import Limits

#: What a template may name, with a value as an example of each.
VARIABLES: dict[str, Any] = {
    "filename": "invoice-0001.pdf",
    "path": "2026/11/invoice-0001.pdf",
    "uri": "s3://bucket/in/2026/11/invoice-0001.pdf",
    "page": 1,
    "page_count": 3,
    "pages": [1, 2],
    "date": "2026-11-21",
    "run": "nightly-invoices",
    "metadata": {"team": "accounts"},
    "answers": ["the answer to page 1", "the answer to page 2"],
}
_MOST_CHARS = 1_000_000

_environment = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
)  # fmt: skip
# A prompt needs no loops over a million numbers.
_environment.globals.clear()


def check_template(text: str, at: str) -> str:
    """The text, if it can be filled in with the variables there are. Raises BadRequest."""
    try:
        unknown = sorted(meta.find_undeclared_variables(_environment.parse(text)) - VARIABLES.keys())
    except TemplateSyntaxError as error:
        refuse(at, f"does not parse as a template at line {error.lineno}. Write {{{{ filename }}}} for a variable.",
               "invalid_template")  # fmt: skip
    except RecursionError:
        refuse(at, "is nested too deeply for a template. Make it flatter.", "invalid_template")
    if unknown:
        names = ", ".join(VARIABLES)
        refuse(at, f"names {unknown[0]!r}, which is no variable. There are: {names}.", "unknown_variable")
    try:
        fill_in(text, VARIABLES)
    except Failure:
        refuse(at, "cannot be filled in. Use variables, filters and conditions only.", "invalid_template")
    return text


def fill_in(text: str, values: Mapping[str, Any]) -> str:
    """The text with its variables filled in. Raises Failure (code template_failed)."""
    if "{" not in text:
        return text
    try:
        filled = _environment.from_string(text).render(**{**VARIABLES, **values})
    except (TemplateError, RecursionError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError):
        raise Failure(
            "The prompt's template could not be filled in for this page. Try it with `try` and mend it.",
            code="template_failed",
        ) from None
    if len(filled) > _MOST_CHARS:
        raise Failure("The prompt's template made a text that is too long. Shorten it.", code="template_failed")
    return filled


_TEXTS = ("prompt", "system", "response_format", "note")
_MAX_NAME_CHARS, _MAX_NOTE_CHARS = 64, 500
#: Pages that a template is tried on at most.
MAX_TRIED = 3
_TRY = ("model", "files", "version", "pages", "render", "generation")


@dataclass(frozen=True)
class TemplateText:
    """What a version of a template says. `note` is why there is this version."""

    prompt: str
    system: str | None = None
    response_format: dict[str, Any] | None = None
    note: str | None = None

    def says_the_same(self, other: TemplateText) -> bool:
        """Whether the two differ in their notes at most."""
        return (self.prompt, self.system, self.response_format) == (other.prompt, other.system, other.response_format)


def parse_template(body: object, limits: Limits) -> tuple[str, TemplateText]:
    """A name and its text from decoded JSON. Raises BadRequest."""
    given = read_object(body, "body")
    refuse_unknown(given, ("name", *_TEXTS))
    check_plain(given)
    name = read_text(require(given, "name", "Call it something."), "name", max_chars=_MAX_NAME_CHARS)
    return name, _parse_text(given, limits)


def parse_version(body: object, limits: Limits) -> TemplateText:
    """The text of a further version from decoded JSON. Raises BadRequest."""
    given = read_object(body, "body")
    refuse_unknown(given, _TEXTS)
    check_plain(given)
    return _parse_text(given, limits)


def _parse_text(given: Mapping[str, object], limits: Limits) -> TemplateText:
    said = require(given, "prompt", "Say what to do with a page.")
    prompt = check_template(read_text(said, "prompt", max_chars=limits.max_prompt_chars), "prompt")
    system, note = given.get("system"), given.get("note")
    left = max(limits.max_prompt_chars - len(prompt), 0)
    return TemplateText(
        prompt=prompt,
        system=None if system is None else check_template(read_text(system, "system", max_chars=left), "system"),
        response_format=parse_response_format(given.get("response_format")),
        note=None if note is None else read_text(note, "note", max_chars=_MAX_NOTE_CHARS),
    )


def parse_try(body: object) -> tuple[int | None, dict[str, Any]]:
    """Which version is tried (None: the newest), and what the run that tries it declares, its template left out.

    Up to three pages of up to three files. Raises BadRequest.
    """
    given = read_object(body, "body")
    refuse_unknown(given, _TRY)
    check_plain(given)
    version, files = given.get("version"), read_list(require(given, "files", "Upload a file first."), "files")
    pages = read_int(given.get("pages", MAX_TRIED), "pages", 1, MAX_TRIED)
    if not 1 <= len(files) <= pages:
        refuse("files", f"must have from 1 to {pages} entries: a page of each is tried at least.")
    names = [read_text(name, join("files", i), max_chars=64) for i, name in enumerate(files)]
    render = {**read_object(given.get("render") or {}, "render"), "pages": f"1-{pages // len(names)}"}
    model = require(given, "model", "GET /v1/models lists what is there.")
    pipeline = {"model": model, "class": "interactive", "render": render, "stop_after": None}
    if given.get("generation") is not None:
        pipeline["generation"] = given["generation"]
    number = None if version is None else read_int(version, "version", 1, 1_000_000)
    spec = {"source": {"files": names, "incremental": "off"}, "pipeline": pipeline, "sample": {"size": 0}}
    return number, {**spec, "window": "1h"}
