"""Whether an answer is what its prompt asks for, and how a page whose answer is refused is tried again.

A page's prompt carries under `quality` what its run wants: the checks, the ladder of further tries, on which rung it
stands (0 is the first try) and what stands for an answer once no rung is left. Every rung says how its try differs from
the first one, not from the one before it; so the first try's settings are kept beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.loops import has_loop
from batchinfer.domain.pipelines import Check, Fallback
from batchinfer.domain.schemas import find_violation
from batchinfer.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from batchinfer.domain.pipelines import Pipeline

_DRAWS = ("rotate", "dpi", "max_side")
_JSON = ("json_object", "json_schema")


def make_quality(pipeline: Pipeline, *, blank: bool = False) -> dict[str, Any]:
    """What a page's prompt carries under `quality`. `blank` says that nothing was seen on the page: an empty answer is
    then a right one."""
    return {
        "checks": [check.value for check in pipeline.checks],
        "ladder": [
            {name: value for name, value in vars(rung).items() if value is not None} for rung in pipeline.ladder
        ],
        "rung": 0,
        "fallback": pipeline.fallback.value,
        "blank": blank,
        "render": {
            name: value for name in ("dpi", "max_side", "lossless") if (value := getattr(pipeline.render, name))
        },
    }


@dataclass(frozen=True)
class Quality:
    """The same, read from a stored prompt."""

    checks: frozenset[Check]
    ladder: tuple[dict[str, Any], ...]
    #: 0: the first try; one more than there are rungs: the page's own text is read instead.
    rung: int
    fallback: Fallback
    blank: bool
    #: How the run draws its pages, as far as it says.
    render: dict[str, Any]
    #: Of the first try, kept from the first rung on: {"model", "sampling", "images"}.
    first: dict[str, Any] | None
    #: While its fallback is looked for: how the last answer was refused, and the document (32 hexadecimal digits).
    error: dict[str, Any] | None
    document: str | None

    @property
    def falls_back(self) -> bool:
        """Whether no model is to be asked any more."""
        return self.rung > len(self.ladder)


def read_quality(prompt: Mapping[str, Any]) -> Quality | None:
    """What a stored prompt wants of its answer; None for one of no run."""
    given = prompt.get("quality")
    if not isinstance(given, dict):
        return None
    return Quality(
        checks=frozenset(Check(word) for word in given["checks"]),
        ladder=tuple(given["ladder"]),
        rung=given["rung"],
        fallback=Fallback(given["fallback"]),
        blank=given["blank"],
        render=given.get("render") or {},
        first=given.get("first"),
        error=given.get("error"),
        document=given.get("document"),
    )


def find_fault(prompt: Mapping[str, Any], text: str, finish: str) -> Failure | None:
    """What is wrong with a whole answer, held against the checks of its prompt; None where it may stay.

    `finish` is stop or length. The most telling fault is named: a loop that was cut is a loop.
    """
    quality = read_quality(prompt)
    if quality is None:
        return None
    if Check.REPETITION in quality.checks and has_loop(text):
        return Failure(
            "The answer says the same over and over. Another temperature, prompt or model may read the page.",
            code="output_repeats",
        )
    if Check.LENGTH in quality.checks and finish == "length":
        return Failure("The answer was cut at max_tokens. Allow more tokens.", code="output_truncated")
    if Check.EMPTY in quality.checks and not quality.blank and not says_something(text):
        return Failure(
            "The answer is empty, and the page is not. Another prompt or model may read it.", code="output_empty"
        )
    return _find_wrong_form(prompt, text) if Check.SCHEMA in quality.checks else None


def says_something(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(character.isalnum() for character in text)


def find_schema(prompt: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema that a prompt's answer is to be of: {} for any JSON; None where it need not be JSON."""
    wanted = prompt.get("response_format") or {}
    if wanted.get("type") not in _JSON:
        return None
    schema: dict[str, Any] = wanted["json_schema"]["schema"] if wanted["type"] == "json_schema" else {}
    return schema


def _find_wrong_form(prompt: Mapping[str, Any], text: str) -> Failure | None:
    schema = find_schema(prompt)
    violation = None if schema is None else find_violation(schema, text)
    if violation is None:
        return None
    return Failure(
        f"The model's answer is not what response_format asks for: {violation} Try another prompt or model.",
        code="invalid_output",
    )


@dataclass(frozen=True)
class NextTry:
    """How a page whose answer was refused goes on: its new prompt, the deployment that is asked, and whether a CPU
    worker comes first: to draw its pictures anew, or to read the page's own text."""

    prompt: dict[str, Any]
    model: str
    prepares: bool


def climb(
    prompt: Mapping[str, Any], *, job_id: UUID, model: str, document_id: UUID | None, error: Mapping[str, Any]
) -> NextTry | None:
    """The next rung of a stored prompt whose answer was refused with `error`; None where nothing is left to try.

    The same job has the same tries each time: a rung that draws tokens has a seed of its own.
    """
    quality = read_quality(prompt)
    if quality is None or quality.falls_back:
        return None
    first = quality.first or {"model": model, "sampling": prompt["sampling"], "images": prompt["images"]}
    stored = {**prompt["quality"], "rung": quality.rung + 1, "first": first}
    if quality.rung == len(quality.ladder):
        return _fall_back(prompt, quality, stored, model=model, document_id=document_id, error=error)
    rung = quality.ladder[quality.rung]
    sampling = dict(first["sampling"])
    if "temperature" in rung:
        sampling |= {"temperature": rung["temperature"], "seed": make_seed(job_id, quality.rung + 1)}
    drawing = {name: rung[name] for name in _DRAWS if name in rung}
    images = _redraw(first["images"], quality.render | drawing, document_id) if drawing else first["images"]
    changed = {**prompt, "sampling": sampling, "images": images, "quality": stored}
    return NextTry(changed, rung.get("model", first["model"]), prepares=any(not image["normal"] for image in images))


def begin_again(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """A stored prompt as it was before its first try."""
    quality = read_quality(prompt)
    if quality is None or quality.first is None:
        return dict(prompt)
    stored = {name: value for name, value in prompt["quality"].items() if name not in ("first", "error", "document")}
    first = {name: quality.first[name] for name in ("sampling", "images")}
    return {**prompt, **first, "quality": stored | {"rung": 0}}


def find_documents(prompt: Mapping[str, Any]) -> list[str]:
    """The documents (32 hexadecimal digits each) whose pages a CPU worker has to make or to read for a prompt."""
    quality = read_quality(prompt)
    if quality is not None and quality.falls_back and quality.document is not None:
        return [quality.document]
    return sorted({image["document"] for image in prompt["images"] if needs_drawing(image)})


def needs_drawing(image: Mapping[str, Any]) -> bool:
    """Whether a picture is a page that is to be made of its document."""
    return isinstance(image.get("document"), str) and isinstance(image.get("page"), int) and not image.get("normal")


def make_seed(job_id: UUID, rung: int) -> int:
    """The seed of one rung of one job: of 31 bits, and always the same."""
    return int.from_bytes(hashlib.sha256(job_id.bytes + bytes([rung])).digest()[:4]) >> 1


def list_own_pages(images: Sequence[Mapping[str, Any]]) -> list[int]:
    """The pages of its document that a prompt shows, in order."""
    return [image["page"] for image in images if isinstance(image.get("page"), int)]


def _fall_back(
    prompt: Mapping[str, Any], quality: Quality, stored: dict[str, Any], *, model: str, document_id: UUID | None,
    error: Mapping[str, Any],
) -> NextTry | None:  # fmt: skip
    if quality.fallback is not Fallback.TEXT_LAYER or document_id is None or not list_own_pages(prompt["images"]):
        return None
    stored = stored | {"error": dict(error), "document": document_id.hex}
    return NextTry({**prompt, "quality": stored}, model, prepares=True)


def _redraw(
    images: Sequence[Mapping[str, Any]], drawing: Mapping[str, int], document_id: UUID | None
) -> list[dict[str, Any]]:
    """The pages among a prompt's pictures, to be drawn again; whatever is no page stays as it is."""
    if document_id is None:
        return [dict(image) for image in images]
    return [
        {**image, "document": document_id.hex, "render": dict(drawing), "normal": None}
        if isinstance(image.get("page"), int)
        else dict(image)
        for image in images
    ]
