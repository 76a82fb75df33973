"""Quantised weights on a GPU answer in slots what `generate` makes of the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(find_spec("torchao") is None, reason="The extra `quantised` is not installed.")
@pytest.mark.parametrize("quantisation", ["int8", "int4", "fp8"])
def test_the_self_test_agrees_on_quantised_weights(cuda: torch.device, folder: Path, quantisation: str) -> None:
    """In a process of its own, as what torchao warns of when it is imported is its own business."""
    command = [sys.executable, "-m", "workers.engine.verify", str(folder), "--json", "--device", str(cuda)]
    done = subprocess.run([*command, "--quantisation", quantisation], capture_output=True, text=True, timeout=280)
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, found["reasons"] or done.stderr
    assert (found["engine"], found["quantisation"]) == ("transformers", quantisation), found["reasons"]
    assert found["exact"] == found["of"]
