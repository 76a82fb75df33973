"""Golden prompts through an engine that answers by rule: what is asked, how it is judged, what is made of pictures."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from batchinfer.domain.goldens import parse_goldens
from batchinfer.domain.ids import DEFAULT_TENANT
from batchinfer.domain.limits import Limits
from batchinfer.errors import Failure
from batchinfer.media.blobs import BlobStore
from batchinfer.settings import load_settings
from workers.engine.fake import FakeEngine
from workers.golden import prepare_goldens, read_stored_goldens, run_golden

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine(slots=4)
    yield made
    made.close()


def prepare(lines: list[dict[str, Any]], folder: Path) -> Any:
    settings = load_settings(home=folder / "home")
    goldens = parse_goldens(lines, Limits.of(settings))
    blobs = BlobStore(settings.blobs_dir)
    return prepare_goldens(goldens, folder, settings, blobs=blobs, tenant_id=DEFAULT_TENANT)


def ask(prompt: str, expect: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "expect": expect, "id": prompt[:40], **more}


def test_an_engine_that_answers_rightly_passes(engine: FakeEngine, tmp_path: Path) -> None:
    lines = [ask(f"page {number}", {"json": {"engine": "fake", "prompt": f"page {number}"}}) for number in range(40)]
    report = run_golden(engine, prepare([*lines, ask("x", {"regex": '"images": \\[\\]'})], tmp_path))
    assert (report.passed, report.right, report.find_error()) == (True, 41, None)
    assert report.as_dict() == {"right": 41, "of": 41, "seconds": round(report.seconds, 3), "faults": []}


def test_each_way_to_be_wrong_is_said(engine: FakeEngine, tmp_path: Path) -> None:
    lines = [
        ask("right", {"contains": "right"}),
        ask("wrong", "4"),
        ask("[[fail:image_parse_error]]", {"contains": "x"}),
        ask("y" * 200_000, {"contains": "y"}),
    ]
    report = run_golden(engine, prepare(lines, tmp_path))
    assert [result.fault is None for result in report.results] == [True, False, False, False]
    error = report.find_error()
    assert error is not None
    assert (error.code, "1 of 4" in error.message, "`wrong`" in error.message) == ("golden_failed", True, True)
    assert "refused" in (report.results[3].fault or "")
    assert len(report.as_dict()["faults"]) == 3


def test_what_hangs_or_is_no_longer_wanted_ends(tmp_path: Path) -> None:
    slow = FakeEngine(slots=2, steps_per_s=0.2)
    try:
        cases = prepare([ask("a", "x"), ask("b", "x")], tmp_path)
        late = run_golden(slow, cases, timeout_s=0.3)
        assert [result.fault for result in late.results] == ["It has no answer in the time that there was."] * 2
        assert not run_golden(slow, cases, wanted=lambda: False).passed
    finally:
        slow.close()


def test_pictures_are_made_plain_before_an_engine_sees_them(engine: FakeEngine, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    (case,) = prepare([ask("Read.", {"contains": "x"}, image=url)], tmp_path)
    (image,) = case.request.images
    with Image.open(image.path) as made:
        assert (made.mode, made.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    answer = json.loads(run_golden(engine, [case]).results[0].answer)
    assert answer["images"] == [image.sha256]


def test_what_a_swap_keeps_is_read_again(tmp_path: Path) -> None:
    (golden,) = parse_goldens([ask("a", {"json": {"b": 1}})], Limits.of(load_settings(home=tmp_path)))
    assert read_stored_goldens([golden.as_stored()]) == [golden]
    assert read_stored_goldens([]) == read_stored_goldens(None) == []
    with pytest.raises(Failure):
        read_stored_goldens([{"name": "x"}])
