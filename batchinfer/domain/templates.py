"""Prompt templates: texts with variables of file and page, filled in by Jinja's sandbox (immutable, nothing undefined).

A template is checked when it is declared: it parses, it names no unknown variable, and it can be filled in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchinfer.domain.fields import refuse
from batchinfer.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

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
