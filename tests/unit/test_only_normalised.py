"""A model worker is never handed a file that a user sent: only what the sandbox made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from batchinfer.services import work
from batchinfer.store.claims import INFER, PREPARE, Claim

SENT, MADE = "a" * 64, "b" * 64


class Blobs:
    """Where a blob would lie."""

    def path(self, _tenant_id: UUID, sha256: str) -> Path:
        return Path("/blobs") / sha256


class Ctx:
    blobs = Blobs()


def claim(kind: str) -> Claim:
    made = object.__new__(Claim)
    for name, value in {"kind": kind, "tenant_id": UUID(int=1)}.items():
        object.__setattr__(made, name, value)
    return made


def test_a_model_worker_gets_the_paths_of_what_the_sandbox_made() -> None:
    prompt = {"images": [{"sha256": SENT, "normal": {"sha256": MADE}}]}
    ctx = cast("Any", Ctx())
    assert [path.name for path in work._prompting(ctx, claim(INFER), prompt, {}, 0).paths] == [MADE]
    assert [path.name for path in work._prompting(ctx, claim(PREPARE), prompt, {}, 0).paths] == [SENT]
    with pytest.raises(TypeError):
        work._prompting(ctx, claim(INFER), {"images": [{"sha256": SENT, "normal": None}]}, {}, 0)


def test_a_job_is_not_ready_while_a_picture_is_as_it_was_sent() -> None:
    images = [{"sha256": SENT, "normal": {"sha256": MADE}}, {"sha256": SENT, "normal": None}]
    with pytest.raises(ValueError, match="normalised form"):
        work.mark_prepared(cast("Any", Ctx()), UUID(int=2), claim(PREPARE), images)
