"""How a run reads its documents: which model and prompt, how pages are made, what is checked and what is tried again.

Everything here that shapes an answer is in the run's recipe; two runs with the same recipe may share answers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchinfer.domain import page_ranges, sampling
from batchinfer.domain.fields import (
    join,
    read_flag,
    read_int,
    read_list,
    read_number,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
    require,
)
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.prompts import MAX_MODEL_CHARS
from batchinfer.domain.reuse import Reuse, parse_cache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchinfer.domain.limits import Limits

#: Another one where the same pipeline would have to mean another answer.
_VERSION = 1
MAX_RUNGS = 8
MAX_DPI, MAX_SIDE = 600, 8192
_FIELDS = (
    "model", "class", "prompt", "system", "template", "mode", "pages_per_prompt", "merge_prompt", "render", "max_pages",
    "generation", "checks", "ladder", "fallback", "blank", "max_failed_share", "stop_after", "cache", "confidence",
)  # fmt: skip


class Mode(StrEnum):
    """What becomes a prompt."""

    #: Each page.
    PER_PAGE = "per_page"
    #: Some pages after each other, `pages_per_prompt` at most.
    GROUPED = "grouped"
    #: Each page; then all their answers, with `merge_prompt`.
    MERGED = "merged"


class Fallback(StrEnum):
    """What stands for a page that the model could not read."""

    NONE = "none"
    #: The text that the PDF itself carries; such a page is flagged.
    TEXT_LAYER = "text_layer"


class Blank(StrEnum):
    """What is done with a page on which nothing is."""

    #: It ends as blank, and no model sees it.
    SKIP = "skip"
    #: The model is asked all the same.
    RUN = "run"


class Check(StrEnum):
    """What an answer is held against."""

    #: The JSON schema of `response_format`.
    SCHEMA = "schema"
    #: It was not cut at max_tokens.
    LENGTH = "length"
    #: It does not say the same over and over.
    REPETITION = "repetition"
    #: It says something: the page is not blank.
    EMPTY = "empty"


@dataclass(frozen=True)
class Render:
    """How pages become pictures. None takes the installation's setting; `pages` is a range such as `1-3,7-`."""

    dpi: int | None = None
    max_side: int | None = None
    pages: str | None = None
    lossless: bool = False


@dataclass(frozen=True)
class Rung:
    """One more try of a page whose answer was refused: what is different this time."""

    temperature: float | None = None
    #: Degrees clockwise: 90, 180 or 270.
    rotate: int | None = None
    dpi: int | None = None
    max_side: int | None = None
    #: Another deployment, such as one of a larger model.
    model: str | None = None

    @property
    def draws(self) -> bool:
        """Whether the page has to be made anew."""
        return self.rotate is not None or self.dpi is not None or self.max_side is not None


#: Warmer tries, as olmOCR retries pages (TEMPERATURE_BY_ATTEMPT in olmocr/pipeline.py), fewer of them.
DEFAULT_LADDER = (Rung(temperature=0.2), Rung(temperature=0.5), Rung(temperature=0.8))


@dataclass(frozen=True)
class StopAfter:
    """A run pauses itself when more than `share` of any `pages` finished ones after each other failed."""

    share: float = 0.2
    pages: int = 500


@dataclass(frozen=True)
class Pipeline:
    """What a run does with its documents. `prompt` and `system` are templates (domain/templates.py)."""

    model: str
    job_class: JobClass
    #: None: the version of a stored template that `template` names.
    prompt: str | None
    system: str | None
    #: {"name", "version"}; version None takes the newest when the run starts.
    template: dict[str, Any] | None
    mode: Mode
    pages_per_prompt: int
    merge_prompt: str | None
    render: Render
    max_pages: int | None
    sampling: dict[str, Any]
    max_tokens: int
    stop: tuple[str, ...]
    response_format: dict[str, Any] | None
    checks: tuple[Check, ...]
    ladder: tuple[Rung, ...]
    fallback: Fallback
    blank: Blank
    #: A document with a larger share of failed pages has failed.
    max_failed_share: float
    stop_after: StopAfter | None
    cache: Reuse
    #: Whether logprobs are kept, and become a confidence per field.
    confidence: bool


def parse_pipeline(body: object, limits: Limits, at: str = "pipeline") -> Pipeline:
    """A pipeline from decoded JSON. Raises BadRequest with the dotted path of the field."""
    given = read_object(body, at)
    refuse_unknown(given, _FIELDS, at)
    model = read_text(
        require(given, "model", "GET /v1/models lists what is there.", at), join(at, "model"), max_chars=MAX_MODEL_CHARS
    )
    mode = Mode(read_word(given.get("mode", "per_page"), join(at, "mode"), list(Mode)))
    generation = read_object(given.get("generation") or {}, join(at, "generation"))
    refuse_unknown(generation, sampling.FIELDS - {"logprobs"}, join(at, "generation"))
    drawn = sampling.parse_sampling(generation)
    confidence = read_flag(given.get("confidence", False), join(at, "confidence"))
    prompt, system, template = _parse_prompt(given, limits, at)
    max_pages = given.get("max_pages")
    return Pipeline(
        model=model,
        job_class=JobClass(read_word(given.get("class", "batch"), join(at, "class"), list(JobClass))),
        prompt=prompt,
        system=system,
        template=template,
        mode=mode,
        pages_per_prompt=_parse_group(given, mode, limits, at),
        merge_prompt=_parse_merge(given, mode, limits, at),
        render=_parse_render(given.get("render"), join(at, "render")),
        max_pages=None if max_pages is None else read_int(max_pages, join(at, "max_pages"), 1, 100_000),
        sampling=drawn | {"logprobs": confidence},
        max_tokens=sampling.parse_max_tokens(generation, limits),
        stop=sampling.parse_stop(generation.get("stop")),
        response_format=sampling.parse_response_format(generation.get("response_format")),
        checks=_parse_checks(given.get("checks"), join(at, "checks")),
        ladder=_parse_ladder(given.get("ladder"), join(at, "ladder")),
        fallback=Fallback(read_word(given.get("fallback", "text_layer"), join(at, "fallback"), list(Fallback))),
        blank=Blank(read_word(given.get("blank", "skip"), join(at, "blank"), list(Blank))),
        max_failed_share=read_number(given.get("max_failed_share", 0.02), join(at, "max_failed_share"), 0.0, 1.0),
        stop_after=_parse_stop_after(given, join(at, "stop_after")),
        cache=parse_cache(given.get("cache"), join(at, "cache")) or Reuse.REUSE,
        confidence=confidence,
    )


def _parse_prompt(
    given: Mapping[str, object], limits: Limits, at: str
) -> tuple[str | None, str | None, dict[str, Any] | None]:
    named, said = given.get("template"), given.get("prompt")
    if (named is None) == (said is None):
        refuse(join(at, "prompt"), "or `template` must be there, one of the two. Say what to do with a page.",
               "missing_required_parameter")  # fmt: skip
    system = given.get("system")
    if named is None:
        text = read_text(said, join(at, "prompt"), max_chars=limits.max_prompt_chars)
        left = max(limits.max_prompt_chars - len(text), 0)
        return text, None if system is None else read_text(system, join(at, "system"), max_chars=left), None
    if system is not None:
        refuse(join(at, "system"), "is part of the template that `template` names. Leave it out.")
    where = join(at, "template")
    if isinstance(named, str):
        return None, None, {"name": read_text(named, where, max_chars=64), "version": None}
    found = read_object(named, where)
    refuse_unknown(found, ("name", "version"), where)
    name = read_text(require(found, "name", "Name a template.", where), join(where, "name"), max_chars=64)
    version = found.get("version")
    number = None if version is None else read_int(version, join(where, "version"), 1, 1_000_000)
    return None, None, {"name": name, "version": number}


def _parse_group(given: Mapping[str, object], mode: Mode, limits: Limits, at: str) -> int:
    said = given.get("pages_per_prompt")
    where = join(at, "pages_per_prompt")
    if mode is not Mode.GROUPED:
        if said is not None:
            refuse(where, "is for mode grouped. Leave it out, or say that mode.")
        return 1
    return min(4, limits.max_images) if said is None else read_int(said, where, 1, limits.max_images)


def _parse_merge(given: Mapping[str, object], mode: Mode, limits: Limits, at: str) -> str | None:
    said = given.get("merge_prompt")
    where = join(at, "merge_prompt")
    if mode is not Mode.MERGED:
        if said is not None:
            refuse(where, "is for mode merged. Leave it out, or say that mode.")
        return None
    return read_text(
        require(given, "merge_prompt", "Say what to do with the answers of all pages.", at), where,
        max_chars=limits.max_prompt_chars,
    )  # fmt: skip


def _parse_render(value: object, at: str) -> Render:
    if value is None:
        return Render()
    given = read_object(value, at)
    refuse_unknown(given, ("dpi", "max_side", "pages", "lossless"), at)
    dpi, side, pages = given.get("dpi"), given.get("max_side"), given.get("pages")
    return Render(
        dpi=None if dpi is None else read_int(dpi, join(at, "dpi"), 36, MAX_DPI),
        max_side=None if side is None else read_int(side, join(at, "max_side"), 32, MAX_SIDE),
        pages=None if pages is None else page_ranges.check_pages(pages, join(at, "pages")),
        lossless=read_flag(given.get("lossless", False), join(at, "lossless")),
    )


def _parse_checks(value: object, at: str) -> tuple[Check, ...]:
    if value is None:
        return tuple(Check)
    words = read_list(value, at)
    return tuple(sorted({Check(read_word(word, join(at, i), list(Check))) for i, word in enumerate(words)}))


def _parse_ladder(value: object, at: str) -> tuple[Rung, ...]:
    if value is None:
        return DEFAULT_LADDER
    rungs = read_list(value, at)
    if len(rungs) > MAX_RUNGS:
        refuse(at, f"has {len(rungs):,} rungs; the limit is {MAX_RUNGS}.")
    return tuple(_parse_rung(rung, join(at, i)) for i, rung in enumerate(rungs))


def _parse_rung(value: object, at: str) -> Rung:
    given = read_object(value, at)
    refuse_unknown(given, ("temperature", "rotate", "dpi", "max_side", "model"), at)
    if not given:
        refuse(at, "changes nothing. Say a temperature, rotate, dpi, max_side or model.")
    turn, dpi, side, warm, model = (given.get(name) for name in ("rotate", "dpi", "max_side", "temperature", "model"))
    if turn is not None and read_int(turn, join(at, "rotate"), 90, 270) % 90:
        refuse(join(at, "rotate"), "must be 90, 180 or 270, degrees clockwise.")
    return Rung(
        temperature=None if warm is None else read_number(warm, join(at, "temperature"), 0.0, 2.0),
        rotate=None if turn is None else read_int(turn, join(at, "rotate"), 90, 270),
        dpi=None if dpi is None else read_int(dpi, join(at, "dpi"), 36, MAX_DPI),
        max_side=None if side is None else read_int(side, join(at, "max_side"), 32, MAX_SIDE),
        model=None if model is None else read_text(model, join(at, "model"), max_chars=MAX_MODEL_CHARS),
    )


def _parse_stop_after(given: Mapping[str, object], at: str) -> StopAfter | None:
    if "stop_after" not in given:
        return StopAfter()
    if given["stop_after"] is None:
        return None
    found = read_object(given["stop_after"], at)
    refuse_unknown(found, ("share", "pages"), at)
    share = read_number(found.get("share", StopAfter.share), join(at, "share"), 0.0, 1.0)
    return StopAfter(share, read_int(found.get("pages", StopAfter.pages), join(at, "pages"), 1, 100_000))


def make_recipe(pipeline: Pipeline, *, revision: str, prompt: str, system: str | None) -> str:
    """The hash of everything that shapes the answers of a run, as 64 hexadecimal digits.

    `revision` is the model's, `prompt` and `system` the texts as they were resolved from a template.
    """
    render = pipeline.render
    whole = {
        "version": _VERSION, "model": pipeline.model, "revision": revision, "prompt": prompt, "system": system,
        "mode": pipeline.mode, "pages_per_prompt": pipeline.pages_per_prompt, "merge_prompt": pipeline.merge_prompt,
        "render": [render.dpi, render.max_side, render.pages, render.lossless], "max_pages": pipeline.max_pages,
        "sampling": pipeline.sampling, "max_tokens": pipeline.max_tokens, "stop": list(pipeline.stop),
        "response_format": pipeline.response_format, "checks": list(pipeline.checks),
        "ladder": [vars(rung) for rung in pipeline.ladder], "fallback": pipeline.fallback, "blank": pipeline.blank,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
