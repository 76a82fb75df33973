"""What is wanted of a model: how many replicas, where, and how they are run. Read at the door from decoded JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchinfer.domain.batches import parse_window
from batchinfer.domain.fields import (
    check_plain,
    join,
    read_flag,
    read_int,
    read_object,
    read_text,
    read_word,
    refuse,
    refuse_unknown,
    require,
)
from batchinfer.domain.goldens import parse_goldens
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.launches import DTYPES, QUANTISATIONS
from batchinfer.domain.prompts import MAX_MODEL_CHARS

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchinfer.domain.goldens import GoldenPrompt
    from batchinfer.domain.limits import Limits

ENGINES = ("auto", "static", "transformers", "fake", "remote", "vllm")
MAX_REPLICAS, MAX_SLOTS, MAX_MEMORY_MIB, MAX_PRIORITY = 64, 4096, 2**24, 1000
MAX_REVISION_CHARS, MAX_LABELS, MAX_LABEL_CHARS, MAX_OPTIONS_CHARS = 256, 16, 128, 16_000
#: 30 days, as the longest time that anything else may be given.
MAX_IDLE_S = 30 * 86_400
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,2})?")

#: What a deployment is where nobody says otherwise, by column.
DEFAULTS: dict[str, Any] = {
    "revision": None, "engine": "auto", "replicas": 1, "dtype": "auto", "quantisation": "none", "memory_mib": None,
    "slots": None, "class": "normal", "pinned": False, "idle_s": None, "priority": 0, "labels": {}, "options": {},
}  # fmt: skip
FIELDS = frozenset({"model", "device", "golden", *DEFAULTS})
#: What a running process was started with: where one of these changes, it is replaced.
STARTED_WITH = frozenset({"engine", "dtype", "quantisation", "memory_mib", "slots", "options"})
#: Names that others use, and ours for the same.
HINTS = {
    "name": "model", "model_name": "model", "replica": "replicas", "count": "replicas", "quantization": "quantisation",
    "idle": "idle_s", "idle_timeout": "idle_s", "memory": "memory_mib", "torch_dtype": "dtype",
    "engine_options": "options", "job_class": "class",
}  # fmt: skip


@dataclass(frozen=True)
class DeploymentSpec:
    """A wish as it was sent: one a (model, device). `given` has, by column, what it says; null gave the default."""

    model: str
    device: str
    given: dict[str, Any]
    #: Golden prompts to which `engine: auto` holds vLLM; None where it says nothing of them.
    golden: tuple[GoldenPrompt, ...] | None = None

    @property
    def whole(self) -> dict[str, Any]:
        """Every column, with the defaults of what it does not say."""
        return DEFAULTS | self.given


def parse_deployment(body: object, limits: Limits | None = None) -> DeploymentSpec:
    """A spec from decoded JSON; without `limits` none with golden prompts. Raises BadRequest, naming the field, and
    BadImage."""
    check_plain(body)
    given = read_object(body, "body")
    refuse_unknown(given, FIELDS if limits is not None else FIELDS - {"golden"}, hints=HINTS)
    model = read_text(require(given, "model", "Name a model that is registered."), "model", max_chars=MAX_MODEL_CHARS)
    device = given.get("device")
    values = {
        name: DEFAULTS[name] if given[name] is None else read(given[name], name)
        for name, read in _READERS.items()
        if name in given
    }
    golden = None
    if limits is not None and "golden" in given:
        golden = () if given["golden"] is None else parse_goldens(given["golden"], limits)
    return DeploymentSpec(model, "auto" if device is None else read_device(device, "device"), values, golden)


def read_device(value: object, at: str) -> str:
    """auto, cpu, cuda (any), or one of its numbers such as cuda:1."""
    word = read_text(value, at, max_chars=16)
    if not _DEVICE.fullmatch(word):
        refuse(at, "must be auto, cpu, cuda, or one device such as cuda:1.")
    return word


def read_revision(value: object, at: str) -> str:
    """A revision's name, as `batchinfer models revisions` lists it."""
    return read_text(value, at, max_chars=MAX_REVISION_CHARS)


def read_seconds(value: object, at: str) -> int:
    """A time in seconds, or as 30m, 8h, 7d; 30 days at the most."""
    if isinstance(value, str):
        return int(parse_window(value, at).total_seconds())
    return read_int(value, at, 1, MAX_IDLE_S)


def _read_labels(value: object, at: str) -> dict[str, str]:
    labels = read_object(value, at)
    if len(labels) > MAX_LABELS:
        refuse(at, f"has {len(labels):,} entries; the limit is {MAX_LABELS}.")
    for name, text in labels.items():
        read_text(name, at, max_chars=MAX_LABEL_CHARS)
        read_text(text, join(at, name), max_chars=MAX_LABEL_CHARS)
    return labels


def _read_options(value: object, at: str) -> dict[str, Any]:
    options = read_object(value, at)
    if len(json.dumps(options)) > MAX_OPTIONS_CHARS:
        refuse(at, f"is longer than {MAX_OPTIONS_CHARS:,} characters as JSON.")
    return options


def _word(words: tuple[str, ...]) -> Callable[[object, str], str]:
    return lambda value, at: read_word(value, at, words)


def _number(low: int, high: int) -> Callable[[object, str], int]:
    return lambda value, at: read_int(value, at, low, high)


_READERS: dict[str, Callable[[object, str], Any]] = {
    "revision": read_revision,
    "engine": _word(ENGINES),
    "replicas": _number(0, MAX_REPLICAS),
    "dtype": _word(DTYPES),
    "quantisation": _word(QUANTISATIONS),
    "memory_mib": _number(1, MAX_MEMORY_MIB),
    "slots": _number(1, MAX_SLOTS),
    "class": _word(tuple(str(job_class) for job_class in JobClass)),
    "pinned": read_flag,
    "idle_s": read_seconds,
    "priority": _number(-MAX_PRIORITY, MAX_PRIORITY),
    "labels": _read_labels,
    "options": _read_options,
}
