"""Revisions of models: their states, where their files come from, and how both are named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from batchinfer.domain.fields import check_plain, read_flag, read_object, read_text, read_word, refuse, refuse_unknown
from batchinfer.domain.fields import require as require_field


class RevisionState(StrEnum):
    """Where the files of a revision are."""

    #: Known, and not here; what an earlier fetch brought may lie aside.
    REGISTERED = "registered"
    #: A CPU worker brings them, or will.
    FETCHING = "fetching"
    #: All of them are here, each as long as it was listed and with the SHA-256 that was listed.
    FETCHED = "fetched"
    #: The same, read once more, and the self-test of an engine passed.
    VERIFIED = "verified"
    #: They could not be fetched, or are not what they were.
    FAILED = "failed"


_S = RevisionState
#: Verb -> from where, to where. Guarded once more in SQL.
TRANSITIONS: dict[str, tuple[frozenset[RevisionState], RevisionState]] = {
    "fetch": (frozenset({_S.REGISTERED, _S.FAILED}), _S.FETCHING),
    "cancel": (frozenset({_S.FETCHING}), _S.REGISTERED),
    "arrive": (frozenset({_S.FETCHING}), _S.FETCHED),
    "verify": (frozenset({_S.FETCHED, _S.VERIFIED}), _S.VERIFIED),
    "fail": (frozenset({_S.FETCHING, _S.FETCHED, _S.VERIFIED}), _S.FAILED),
    "prune": (frozenset({_S.REGISTERED, _S.FETCHED, _S.VERIFIED, _S.FAILED}), _S.REGISTERED),
}


def list_sources(verb: str) -> list[str]:
    """The states that a verb may leave, for a statement."""
    return sorted(TRANSITIONS[verb][0])


class SourceKind(StrEnum):
    """Where a model's files come from."""

    #: A folder of the service's own machine, which stays where it is.
    FOLDER = "folder"
    HUGGING_FACE = "huggingface"
    MODELSCOPE = "modelscope"
    #: A folder in a bucket, through fsspec.
    BUCKET = "bucket"


@dataclass(frozen=True)
class ModelSource:
    """A place with the files of a model: `at` is a path, a repository or an address by `kind`. `revision` is what was
    asked for of a hub: a hash, or a branch or tag that is resolved to one."""

    kind: SourceKind
    at: str
    revision: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As it is stored and shown."""
        asked = {"asked": self.revision} if self.revision else {}
        return {"kind": self.kind.value, _PLACES[self.kind]: self.at, **asked}

    @classmethod
    def of(cls, stored: dict[str, Any]) -> ModelSource:
        """The source that was stored."""
        kind = SourceKind(stored["kind"])
        return cls(kind, stored.get(_PLACES[kind], ""), stored.get("asked"))


#: The field of a source that says where it is.
_PLACES = {
    SourceKind.FOLDER: "path", SourceKind.HUGGING_FACE: "repo", SourceKind.MODELSCOPE: "repo",
    SourceKind.BUCKET: "uri",
}  # fmt: skip
_HUBS = (SourceKind.HUGGING_FACE, SourceKind.MODELSCOPE)
#: What a hub calls its first branch.
_BRANCHES = {SourceKind.HUGGING_FACE: "main", SourceKind.MODELSCOPE: "master"}

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(rf"{_PART}(/{_PART})?")
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_HASH_LIKE = re.compile(r"[0-9a-f]{12,64}")
#: Parts of a name that would be taken for parts of a route, or for folders of ours.
_TAKEN = frozenset({"revisions", "fetch", "verify", "cancel", "prune"})
NAME_CHARS, PLACE_CHARS = 192, 1024


@dataclass(frozen=True)
class RegisterRequest:
    """A model to make known."""

    name: str
    source: ModelSource


@dataclass(frozen=True)
class PruneRequest:
    """What is to be taken away: of all models, of one, or one revision of it."""

    model: str | None
    revision: str | None
    dry_run: bool


def parse_register(body: object) -> RegisterRequest:
    """The body of a request that makes a model known. Raises BadRequest."""
    given = _open(body, frozenset({"name", "source"}))
    name = read_name(require_field(given, "name", "Jobs ask for the model by it."), "name")
    remedy = 'Say where its files are: {"kind": "huggingface", "repo": "Qwen/Qwen2-VL-2B-Instruct"} for example.'
    return RegisterRequest(name, _parse_source(require_field(given, "source", remedy)))


def parse_prune(body: object) -> PruneRequest:
    """The body of a request to take files away. Raises BadRequest."""
    given = _open(body, frozenset({"model", "revision", "dry_run"}))
    model = read_text(given["model"], "model", max_chars=NAME_CHARS) if "model" in given else None
    revision = read_text(given["revision"], "revision", max_chars=64) if "revision" in given else None
    if revision is not None and model is None:
        refuse("revision", "is of a model. Name it in `model`.")
    return PruneRequest(model, revision, read_flag(given.get("dry_run", False), "dry_run"))


def read_name(value: object, at: str) -> str:
    """The name of a model, which becomes the name of a folder. Raises BadRequest."""
    name = read_text(value, at, max_chars=NAME_CHARS)
    if not _NAME.fullmatch(name) or name.endswith((".part", ".lock", ".pruned")):
        refuse(at, "must be one or two parts with a slash between, each of letters, digits, `.`, `_` and `-` and "
               "beginning with a letter or digit.")  # fmt: skip
    for part in name.split("/"):
        if part in _TAKEN or _HASH_LIKE.fullmatch(part):
            refuse(at, f"holds `{part}`, which would be taken for something else. Choose another name.")
    return name


def _parse_source(value: object) -> ModelSource:
    given = read_object(value, "source")
    kind = SourceKind(read_word(require_field(given, "kind", _KINDS, "source"), "source.kind", SourceKind))
    place = _PLACES[kind]
    allowed = {"kind", place} | ({"revision"} if kind in _HUBS else set())
    refuse_unknown(given, allowed, "source")
    at = read_text(require_field(given, place, f"It says where a {kind} is.", "source"), f"source.{place}",
                   max_chars=PLACE_CHARS)  # fmt: skip
    if kind is SourceKind.FOLDER and (not at.startswith("/") or ".." in at.split("/")):
        refuse(f"source.{place}", "must be an absolute path such as /data/models/reader.")
    if kind not in _HUBS:
        return ModelSource(kind, at)
    if not _NAME.fullmatch(at):
        refuse(f"source.{place}", "must be a repository as its hub names it, as Qwen/Qwen2-VL-2B-Instruct.")
    revision = given.get("revision")
    asked = _BRANCHES[kind] if revision is None else read_text(revision, "source.revision", max_chars=200)
    if not _BRANCH.fullmatch(asked) or ".." in asked:
        refuse("source.revision", "must be a commit's hash, a branch or a tag.")
    return ModelSource(kind, at, asked)


_KINDS = f"One of {', '.join(SourceKind)}."


def _open(body: object, fields: frozenset[str]) -> dict[str, Any]:
    """The fields that are given; null is as left out."""
    check_plain(body)
    given = read_object(body, "body")
    refuse_unknown(given, fields)
    return {name: value for name, value in given.items() if value is not None}
