"""Work that may take hours has threads of its own: a CPU worker with one process does the rest meanwhile."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from batchinfer.domain.ids import new_id
from batchinfer.services import listing, work
from workers.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchinfer.services.context import Context

PATIENCE_S = 60.0


@pytest.fixture
def workshop(context: Context, tmp_path: Path) -> Iterator[Workshop]:
    held = SimpleNamespace(has=lambda _claim: True, pop=lambda _claim: True)
    lease = SimpleNamespace(held=held, id=new_id())
    made = Workshop(context, cast("Any", lease), cast("Any", None), processes=1, scratch=tmp_path)
    yield made
    made.close()


def piece(kind: str) -> Any:
    claim = SimpleNamespace(id=new_id(), kind=kind, subject_id=new_id(), tags={}, trace=None)
    return SimpleNamespace(claim=claim)


def test_pages_are_rendered_while_a_source_is_listed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, begun, rendered = threading.Event(), threading.Event(), threading.Event()

    def list_slowly(*_: object) -> bool:
        begun.set()
        return listed.wait(PATIENCE_S)

    monkeypatch.setattr(listing, "list_source", list_slowly)
    monkeypatch.setattr(workshop, "_render", lambda _piece: rendered.set())
    workshop.take([piece(work.LIST)])
    assert begun.wait(PATIENCE_S)
    assert work.RENDER in workshop.kinds
    assert work.LIST not in workshop.kinds, "one source at a time"
    assert workshop.count_room() > 0
    workshop.take([piece(work.RENDER)])
    assert rendered.wait(PATIENCE_S)
    assert not listed.is_set()
    listed.set()


def test_a_second_source_goes_back_to_the_queue(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, back = threading.Event(), threading.Event()
    monkeypatch.setattr(listing, "list_source", lambda *_: listed.wait(PATIENCE_S))
    monkeypatch.setattr(workshop, "_give_back", lambda _claim: back.set())
    workshop.take([piece(work.LIST), piece(work.LIST)])
    assert back.wait(PATIENCE_S)
    assert not listed.is_set()
    listed.set()
