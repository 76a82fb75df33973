"""`batchinfer queue`: pause, resume, show."""

from __future__ import annotations

import pytest

from batchinfer.cli import cli
from batchinfer.errors import NotFound


@pytest.fixture
def run(bench, database_url, redis_url, monkeypatch, capsys):
    """Run a command on the test's servers and answer what it prints."""
    monkeypatch.setenv("BATCHINFER_DATABASE_URL", database_url)
    monkeypatch.setenv("BATCHINFER_REDIS_URL", redis_url)
    monkeypatch.setenv("BATCHINFER_HOME", str(bench.ctx.settings.home))

    def run(*words):
        capsys.readouterr()
        cli.main(list(words), prog_name="batchinfer", standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_the_queue_is_paused_shown_and_resumed(bench, run):
    bench.put(3)
    assert "paused: every tenant, reader" in run("queue", "pause", "--model", "reader")
    assert bench.claim(bench.open()) == []
    shown = run("queue", "show")
    assert "3 waiting" in shown
    assert "of at most 1,000,000" in shown
    assert "by key" in shown
    assert "the command line" in shown
    assert run("queue", "resume", "--model", "reader").strip() == "Nothing is paused."
    assert len(bench.claim(bench.open())) == 3


def test_a_tenant_that_is_not_there_is_named(run):
    with pytest.raises(NotFound, match="nobody"):
        run("queue", "pause", "--tenant", "nobody")
