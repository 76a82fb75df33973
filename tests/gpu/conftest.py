"""Tests of what only a GPU can show. Where there is none, each is skipped and says so."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ENGINE_TESTS = Path(__file__).parents[1] / "engine"
sys.path.insert(0, str(ENGINE_TESTS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(item.path).parent == Path(__file__).parent]
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device is here; what this test shows is unproven"))


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    return torch.device("cuda:0")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen3-VL folder of the engine's tests."""
    spec = importlib.util.spec_from_file_location("engine_conftest", ENGINE_TESTS / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    made: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return Path(made.write_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl")))
