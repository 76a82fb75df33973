"""From a model's row without a folder to an engine that asks a server."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from batchinfer.settings import load_settings
from bench.openai_server import FakeServer
from workers.engine.protocol import ModelError
from workers.loading import Plan, _complete_options, find_verdict, load_engine, verify_engine


def _plan(engine: str, **options: Any) -> Plan:
    return Plan(model="org/far", device="cpu", engine=engine, slots=2, threads=1, engine_options=options)


def test_a_remote_engine_needs_no_folder() -> None:
    model: Any = SimpleNamespace(path="")
    pinned: Any = SimpleNamespace(device="cpu", threads=1)
    server = FakeServer(model="org/far")
    try:
        for options in ({}, {"model": "org/far"}):
            engine = load_engine(_plan("remote", url=server.url, **options), model, pinned)
            try:
                verify_engine(engine, 60)
                assert (engine.name, find_verdict(engine)) == ("remote", None)
            finally:
                engine.close()
        with pytest.raises(ModelError) as refused:
            load_engine(_plan("remote", url=server.url, model="another", wait_s=0.0), model, pinned)
        assert refused.value.code == "upstream_model_missing"
    finally:
        server.close()


def test_what_this_host_knows_of_vllm_is_told_and_may_be_overruled() -> None:
    settings = load_settings(vllm_python=sys.executable)
    told = _complete_options(_plan("vllm", tensor_parallel=2), settings)
    assert (told["python"], told["tensor_parallel"], told["model"]) == (sys.executable, 2, "org/far")
    assert told["log"].endswith("logs/vllm-org_far.log")
    assert _complete_options(_plan("vllm", python="/other"), settings)["python"] == "/other"
    assert _complete_options(_plan("auto"), settings)["vllm"]["python"] == sys.executable
    assert _complete_options(_plan("auto"), load_settings(vllm_python="")) == {}
    assert _complete_options(_plan("static"), settings) == {}
