"""From a model's folder to an engine whose self-test has a verdict."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from workers.engine.protocol import Image, Request
from workers.loading import Plan, find_verdict, load_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCREADER = Path(__file__).resolve().parents[2] / "workers" / "models" / "docreader"


def _load(kind: str) -> Any:
    plan = Plan(model="docreader", device="cpu", engine=kind, slots=4, threads=1, engine_options={})
    model: Any = SimpleNamespace(path=str(DOCREADER))
    pinned: Any = SimpleNamespace(device="cpu", threads=1)
    return load_engine(plan, model, pinned)


@pytest.fixture(scope="module")
def chosen() -> Iterator[Any]:
    """What `auto` makes of the bundled model, its self-test run once for all tests here."""
    engine = _load("auto")
    yield engine
    engine.close()


def _check_verdict(engine: Any) -> None:
    verdict = find_verdict(engine)
    assert engine.name == "transformers"
    assert verdict is not None
    assert verdict["exact"] == verdict["of"] > 0
    assert verdict["features"]["grouped_prefill"], verdict["reasons"]
    assert verdict["features"]["encoder_cache"], verdict["reasons"]


def test_the_continuous_engine_serves_where_the_self_test_finds_it_exact(chosen: Any) -> None:
    _check_verdict(chosen)


@pytest.mark.long
def test_the_continuous_engine_is_tested_too_where_it_was_asked_for() -> None:
    engine = _load("transformers")
    try:
        _check_verdict(engine)
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["static", "fake"])
def test_other_engines_have_no_verdict(kind: str) -> None:
    engine = _load(kind)
    try:
        assert engine.name == kind
        assert find_verdict(engine) is None
    finally:
        engine.close()


def test_static_and_continuous_read_a_page_alike(tmp_path: Path, chosen: Any) -> None:
    from batchinfer.samples import draw_page

    page = draw_page(51)
    page.image.convert("RGB").save(tmp_path / "page.png")
    content = [{"type": "image", "index": 0}, {"type": "text", "text": "Extract."}]
    request = Request("one", ({"role": "user", "content": content},), (Image("0" * 64, tmp_path / "page.png"),))
    static = _load("static")
    try:
        text = static.submit(request).result(120).text
    finally:
        static.close()
    assert text == chosen.submit(request).result(120).text
    assert '"type"' in text
