from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from batchinfer.demo.service import NotStarted, Service

if TYPE_CHECKING:
    from pathlib import Path


def test_a_start_that_fails_shows_what_was_said(tmp_path: Path) -> None:
    service = Service(tmp_path, str(tmp_path / "no-such-model"), sources=tmp_path)
    try:
        with pytest.raises(NotStarted, match="no-such-model") as caught:
            service.wait_ready(120)
        assert "It said:\n" in str(caught.value)
        assert "Traceback" not in str(caught.value)
    finally:
        service.stop()


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    service = Service(tmp_path, str(tmp_path / "no-such-model"), sources=tmp_path)
    try:
        with pytest.raises(NotStarted):
            service.wait_ready(0)
    finally:
        service.stop()


def test_processes_are_read_anew_from_the_ready_file(tmp_path: Path) -> None:
    service = Service(tmp_path, str(tmp_path / "no-such-model"), sources=tmp_path)
    service.stop()
    facts = {"url": "http://127.0.0.1:1", "api_key": "bi_x", "pids": {"model": [4], "web": []}}
    (tmp_path / "ready.json").write_text(json.dumps(facts))
    service.wait_ready(0)
    assert (service.url, service.api_key) == ("http://127.0.0.1:1", "bi_x")
    assert service.find_pids("model") == [4]
    facts["pids"] = {"model": []}
    (tmp_path / "ready.json").write_text(json.dumps(facts))
    assert service.find_pids("model") == []
