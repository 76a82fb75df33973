"""What is known of an answer beside its text: whether it is of its schema, how sure the model was, what changed."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from batchinfer.admin.answers import read_tree
from batchinfer.domain.confidence import find_confidence
from batchinfer.domain.quality import find_schema
from batchinfer.domain.schemas import find_violation, list_wrong_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.admin.answers import Node
    from batchinfer.domain.confidence import Confidence
    from batchinfer.domain.jobs import Job

#: Below it a field is marked as one to look at.
UNSURE = 0.9
#: Longer answers are not compared: the time for it grows with the square of their lines.
_MOST_LINES, _MOST_CHARS = 800, 60_000


@dataclass(frozen=True)
class Judgement:
    """`violation` says why an answer is not of its schema, None where it is; `checked` is False without a schema.

    By dotted path: the rules that fields break, and how sure the model was of them.
    """

    checked: bool = False
    #: The schema's name, where it has one.
    schema_name: str = ""
    violation: str | None = None
    wrong: dict[str, str] = field(default_factory=dict)
    sure: dict[str, Confidence] = field(default_factory=dict)
    tree: Node | None = None

    @property
    def missing(self) -> list[str]:
        """Fields that the schema asks for and that are not there."""
        return [path for path, rule in self.wrong.items() if rule == "required"]

    @property
    def least(self) -> tuple[str, Confidence] | None:
        """The field of which the model was least sure."""
        return min(self.sure.items(), key=lambda item: item[1].mean, default=None)


def judge(job: Job) -> Judgement:
    """Hold a job's answer against its schema, and its fields against their tokens."""
    result = job.result or {}
    text = result.get("text")
    if text is None:
        return Judgement()
    sure = find_confidence(text, result.get("logprobs")) or {}
    schema = find_schema(job.prompt)
    if schema is None:
        return Judgement(sure=sure, tree=read_tree(text))
    wrong = {found.path: found.rule for found in reversed(list_wrong_fields(schema, text))}
    name = ((job.prompt.get("response_format") or {}).get("json_schema") or {}).get("name") or ""
    return Judgement(
        True, str(name), find_violation(schema, text), dict(reversed(wrong.items())), sure, read_tree(text)
    )


@dataclass(frozen=True)
class Line:
    """A line of a comparison: of both, of the earlier answer alone, or of the later one; gap stands for many."""

    kind: Literal["both", "old", "new", "gap"]
    text: str


def compare(old: str, new: str) -> list[Line] | None:
    """The lines in which two answers differ, with two around; JSON is laid out first. [] where they are the same.

    None where they are too long to be compared on a page.
    """
    before, after = _lay_out(old), _lay_out(new)
    if max(len(before), len(after)) > _MOST_LINES or max(len(old), len(new)) > _MOST_CHARS:
        return None
    kinds: Mapping[str, Any] = {" ": "both", "-": "old", "+": "new", "@": "gap"}
    told = list(difflib.unified_diff(before, after, n=2, lineterm=""))[2:]
    lines = [Line(kinds[line[0]], "" if line[0] == "@" else line[1:]) for line in told]
    return lines[1:] if lines and lines[0].kind == "gap" else lines


def _lay_out(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text.splitlines()
    if not isinstance(value, dict | list):
        return text.splitlines()
    return json.dumps(value, indent=2, ensure_ascii=False).splitlines()
