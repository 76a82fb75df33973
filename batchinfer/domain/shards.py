"""What is written of a run's documents and pages, row by row: the same bytes for the same rows, however often."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchinfer.domain.ids import DOCUMENT, JOB, show_id
from batchinfer.domain.runs import PageOutcome

if TYPE_CHECKING:
    from uuid import UUID

#: Answers that are JSON where the run asked for JSON.
_JSON_FORMATS = frozenset({"json_object", "json_schema"})
#: Columns of tables; those of the answer's fields come behind `outcome`.
COLUMNS = (
    "document_id", "number", "document", "uri", "sha256", "page", "outcome", "text", "model", "revision", "engine",
    "prompt_tokens", "completion_tokens", "attempts", "error_code", "error_message", "job_id",
)  # fmt: skip
_FIELDS_BEHIND = COLUMNS.index("outcome") + 1
#: What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection"), with the wide forms.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class ShardDocument:
    """A closed or skipped document of a run. Its pages are those of `source_id`: of itself, or of the earlier document
    that nothing has changed since."""

    id: UUID
    source_id: UUID
    closed_number: int
    number: int
    name: str
    uri: str | None
    sha256: str | None
    pages: int | None
    outcome: str | None
    error: dict[str, Any] | None

    @property
    def unchanged(self) -> bool:
        """Whether an earlier run read it."""
        return self.source_id != self.id


@dataclass(frozen=True)
class ShardPage:
    """How a page ended. `page` is None for the answer of a whole document (mode merged), and where a document has
    failed before it had pages: then there is no job either."""

    page: int | None
    outcome: PageOutcome
    job_id: UUID | None = None
    text: str | None = None
    model: str | None = None
    revision: str | None = None
    engine: str | None = None
    versions: dict[str, str] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    error: dict[str, Any] | None = None
    confidence: Any = None


def wants_json(response_format: dict[str, Any] | None) -> bool:
    """Whether answers are JSON."""
    return (response_format or {}).get("type") in _JSON_FORMATS


def list_fields(response_format: dict[str, Any] | None) -> tuple[str, ...]:
    """The top fields of the answers' schema, in its order; none where there is none."""
    form = response_format or {}
    schema = (form.get("json_schema") or {}).get("schema") or form.get("schema") or {}
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return tuple(properties) if isinstance(properties, dict) else ()


def read_answer(text: str | None) -> Any:
    """The answer as JSON; None where it is none."""
    try:
        return json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        return None


def show_line(document: ShardDocument, page: ShardPage, *, as_json: bool) -> dict[str, Any]:
    """A line of a JSONL sink."""
    return {
        "document": {
            "id": show_id(DOCUMENT, document.id), "number": document.number, "name": document.name,
            "uri": document.uri, "sha256": document.sha256, "pages": document.pages,
            "unchanged_since": show_id(DOCUMENT, document.source_id) if document.unchanged else None,
        },
        "page": page.page,
        "outcome": page.outcome.value,
        "text": page.text,
        "json": read_answer(page.text) if as_json else None,
        "confidence": page.confidence,
        "model": page.model,
        "revision": page.revision,
        "engine": page.engine,
        "versions": page.versions,
        "usage": page.usage,
        "attempts": page.attempts,
        "error": page.error,
        "job_id": show_id(JOB, page.job_id) if page.job_id else None,
    }  # fmt: skip


def encode_line(line: dict[str, Any]) -> bytes:
    """A line of JSON; half a surrogate pair, which JSON may hold, cannot be written."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def name_columns(fields: tuple[str, ...]) -> list[str]:
    """The head of a table; a field of the answer that is called as one of ours is `answer_…`."""
    named: list[str] = []
    for name in fields:
        column = name
        while column in COLUMNS or column in named or (column != name and column in fields):
            column = f"answer_{column}"
        named.append(column)
    return [*COLUMNS[:_FIELDS_BEHIND], *named, *COLUMNS[_FIELDS_BEHIND:]]


def show_cells(document: ShardDocument, page: ShardPage, fields: tuple[str, ...]) -> list[Any]:
    """A row of a table: texts, numbers and None."""
    answer = read_answer(page.text) if fields else None
    answer = answer if isinstance(answer, dict) else {}
    error = page.error or {}
    return [
        show_id(DOCUMENT, document.id), document.number, document.name, document.uri, document.sha256, page.page,
        page.outcome.value, *(_flatten(answer.get(name)) for name in fields), page.text, page.model, page.revision,
        page.engine, page.usage.get("prompt_tokens"), page.usage.get("completion_tokens"), page.attempts,
        error.get("code"), error.get("message"), show_id(JOB, page.job_id) if page.job_id else None,
    ]  # fmt: skip


def _flatten(value: Any) -> Any:
    plain = value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
    return value if plain else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def guard_cell(value: Any) -> Any:
    """A cell that no spreadsheet runs: a text that begins as a formula gets a quote before it. Numbers stay."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


_REMARKS = {
    PageOutcome.FALLBACK: "The model gave no answer that could be used. This is the text that the file itself carries.",
    PageOutcome.BLANK: "Nothing is on this page.",
}


def show_markdown_head(document: ShardDocument) -> str:
    """What a Markdown file begins with. Its values are JSON, which YAML reads too."""
    pairs = {
        "document": document.name, "uri": document.uri, "sha256": document.sha256,
        "id": show_id(DOCUMENT, document.id), "outcome": "unchanged" if document.unchanged else document.outcome,
    }  # fmt: skip
    lines = "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in pairs.items())
    return f"---\n{lines}---\n"


def show_markdown(page: ShardPage) -> str:
    """A page in a Markdown file; one that failed is never as one on which nothing is."""
    title = "\n<!-- whole document -->\n\n" if page.page is None else f"\n<!-- page {page.page} -->\n\n"
    if page.outcome is PageOutcome.FAILED:
        error = page.error or {}
        told = " ".join(str(error.get("message") or "").split())
        return f"{title}> **This page failed** ({error.get('code') or 'failed'}): {told}\n"
    remark = _REMARKS.get(page.outcome)
    return title + (f"> {remark}\n\n" if remark else "") + (f"{page.text.rstrip()}\n" if page.text else "")
