"""Servers that hang, lie, drop connections, send rubbish, refuse or are gone: each has its error, and others run on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from bench.openai_server import FakeServer, Fault
from tests.remote.conftest import PATIENCE_S, ask, wait_until
from workers.engine.protocol import OVER, Done, ModelError
from workers.engine.remote import RemoteEngine, open_remote

Open = Callable[..., RemoteEngine]


def run(engine: RemoteEngine, text: str = "Hello", **fields: Any) -> Done:
    return engine.submit(ask(text, **fields)).result(PATIENCE_S)


FAULTS = [
    (Fault("status", 500), "upstream_failed", True),
    (Fault("status", 502, body=b"<html>bad gateway</html>"), "upstream_failed", True),
    (Fault("status", 400), "upstream_refused", False),
    (Fault("status", 422, body=b"{}"), "upstream_refused", False),
    (Fault("status", 413, body=b""), "upstream_refused", False),
    (Fault("status", 301), "upstream_garbled", True),
    (Fault("status", 204, body=b""), "upstream_garbled", True),
    (Fault("status", 429, (("Retry-After", "0"),)), "upstream_busy", True),
    (Fault("status", 503, (("Retry-After", "nonsense"),)), "upstream_busy", True),
    (
        Fault("status", 400, body=b'{"error": {"message": "maximum context length is 9"}}'),
        "context_length_exceeded",
        False,
    ),
    (Fault("status", 500, body=b'{"error": {"code": "output_repeats"}}'), "output_repeats", False),
    (Fault("garbage"), "upstream_garbled", True),
    (Fault("drop", 1), "upstream_dropped", True),
    (Fault("drop", 3), "upstream_dropped", True),
    (Fault("cut"), "upstream_dropped", True),
    (Fault("late", 2), "upstream_failed", True),
]


@pytest.mark.parametrize(("fault", "code", "transient"), FAULTS, ids=lambda value: str(value)[:40])
def test_a_fault_ends_its_request_and_no_other(
    server: FakeServer, engine: RemoteEngine, fault: Fault, code: str, transient: bool
) -> None:
    server.faults.append(fault)
    done = run(engine)
    assert done.finish == "error"
    assert done.error is not None
    assert (done.error.code, done.error.transient) == (code, transient)
    assert "told to" not in done.error.message, "a server's words stay in our log"
    assert run(engine).finish == "length"


def test_another_models_answer_is_thrown_away(server: FakeServer, open_engine: Open) -> None:
    strict, easy = open_engine(server), open_engine(server, check_model=False)
    server.faults += [Fault("other"), Fault("other")]
    done = run(strict)
    assert done.error is not None
    assert (done.finish, done.error.code) == ("error", "upstream_other_model")
    assert run(easy).finish == "length"


def test_a_server_that_hangs_costs_the_request_alone(server: FakeServer, open_engine: Open) -> None:
    engine = open_engine(server, silence_s=0.3, answer_s=0.6)
    server.faults += [Fault("hang"), Fault("hang")]
    streamed, whole = engine.submit(ask(), on_token=lambda *_: None), engine.submit(ask())
    for handle in (streamed, whole):
        done = handle.result(PATIENCE_S)
        assert done.error is not None
        assert (done.finish, done.error.code, done.error.transient) == ("error", "upstream_silent", True)
    assert run(engine).finish == "length"
    wait_until(lambda: server.cancelled == 2)


def test_progress_stands_still_while_a_stream_is_silent(server: FakeServer, engine: RemoteEngine) -> None:
    server.faults.append(Fault("hang"))
    handle = engine.submit(ask())
    wait_until(lambda: len(server.bodies) == 1)
    before = engine.progress()
    time.sleep(0.7)
    assert engine.progress() == before, "the watchdog must see that nothing comes"
    assert engine.cancel(handle.id)
    assert handle.result(PATIENCE_S).finish == "cancelled"


def test_a_dropped_handle_drops_the_connection(server: FakeServer, engine: RemoteEngine) -> None:
    handle = engine.submit(ask("[[steps:4000]]", max_tokens=4000))
    wait_until(lambda: server.engine.stats().running == 1)
    assert engine.cancel(handle.id)
    assert handle.result(PATIENCE_S).finish == "cancelled"
    wait_until(lambda: server.engine.stats().running == 0 and server.cancelled == 1)


def test_what_drain_gives_back_is_dropped_at_the_server(server: FakeServer, engine: RemoteEngine) -> None:
    handle = engine.submit(ask("[[steps:4000]]", max_tokens=4000))
    wait_until(lambda: server.engine.stats().running == 1)
    assert engine.drain(0.05) == (handle.id,)
    wait_until(lambda: server.engine.stats().running == 0)


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(server: FakeServer, engine: RemoteEngine) -> None:
    server.faults.append(Fault("status", 429, (("Retry-After", "0.6"),)))
    done = run(engine)
    assert done.error is not None
    assert done.error.retry_after_s == 0.6
    began = time.monotonic()
    assert run(engine).finish == "length"
    assert time.monotonic() - began > 0.4


def test_a_server_that_goes_and_comes_back(open_engine: Open) -> None:
    server = FakeServer(slots=4)
    engine = open_engine(server)
    assert run(engine).finish == "length"
    port = server.port
    server.close()
    done = run(engine)
    assert done.error is not None
    assert done.error.code in ("upstream_unreachable", "upstream_dropped")
    again = FakeServer(slots=4, port=port)
    try:
        wait_until(lambda: run(engine).finish == "length")
        assert [run(engine).finish for _ in range(4)] == ["length"] * 4
    finally:
        again.close()


def test_an_engine_whose_server_stays_away_is_over(open_engine: Open) -> None:
    server = FakeServer(slots=4)
    engine = open_engine(server, gone_s=0.3)
    server.close()
    handles = [engine.submit(ask()) for _ in range(3)]
    ends = [handle.result(PATIENCE_S) for handle in handles]
    assert {done.finish for done in ends} == {"error"}
    assert all(done.error is not None and done.error.transient for done in ends)
    deadline = time.monotonic() + PATIENCE_S
    while engine.progress() != OVER and time.monotonic() < deadline:
        try:
            engine.submit(ask()).result(PATIENCE_S)
        except Exception:
            break
    wait_until(lambda: engine.progress() == OVER)


def _refused(**options: Any) -> str:
    with pytest.raises(ModelError) as refused:
        open_remote(slots=2, **({"wait_s": 0.0, "connect_s": 2.0, "model": "fake"} | options))
    assert refused.value.message
    return refused.value.code


def test_what_is_wrong_at_open(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = FakeServer()
    gone.close()
    assert _refused(url=gone.url) == "upstream_unreachable"
    assert _refused(url=server.url, model="another") == "upstream_model_missing"
    assert _refused(url=server.url, model="") == "engine_options"
    assert _refused(url="ftp://here") == "upstream_address"
    assert _refused(url="http://user:secret@here") == "upstream_address"
    assert _refused(url="http://here:99999") == "upstream_address"
    assert _refused(url="") == "upstream_address"
    assert _refused(url=server.url, dialect="esperanto") == "engine_options"
    assert _refused(url=server.url, temperature=1) == "engine_options"
    assert _refused(url=server.url, silence_s="long") == "engine_options"
    assert _refused(url=server.url, concurrency=True) == "engine_options"
    assert _refused(url=server.url, stream="sometimes") == "engine_options"
    assert _refused(url=server.url, key_env="NO_SUCH_KEY") == "upstream_key_missing"
    monkeypatch.setenv("A_KEY", "two\nlines")
    assert _refused(url=server.url, key_env="A_KEY") == "upstream_key_missing"


def test_a_server_that_starts_is_waited_for(open_engine: Open) -> None:
    early = FakeServer()
    early.close()
    late: list[FakeServer] = []
    timer = threading.Timer(0.6, lambda: late.append(FakeServer(port=early.port)))
    timer.start()
    try:
        assert run(open_engine(early, wait_s=PATIENCE_S)).finish == "length"
    finally:
        timer.join()
        late[0].close()


def test_the_key_goes_out_and_is_shown_nowhere(open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(key="very-secret")
    try:
        monkeypatch.setenv("A_KEY", "wrong")
        assert _refused(url=server.url, key_env="A_KEY") == "upstream_key_refused"
        monkeypatch.setenv("A_KEY", "very-secret")
        engine = open_engine(server, key_env="A_KEY")
        assert run(engine).finish == "length"
        assert "very-secret" not in repr(engine._upstream) + repr(engine._options)
        server.key = "rotated"
        done = run(engine)
        assert done.error is not None
        assert (done.error.code, done.error.transient) == ("upstream_key_refused", True)
    finally:
        server.close()
