"""What the remote engine asks for, and how many at once."""

from __future__ import annotations

from collections.abc import Callable

from batchinfer import __version__
from bench.openai_server import FakeServer, Fault
from tests.remote.conftest import PATIENCE_S, ask, wait_until
from workers.engine.protocol import Image, Sampling
from workers.engine.remote import RemoteEngine
from workers.phases import find_versions

Open = Callable[..., RemoteEngine]


def test_a_picture_is_sent_as_it_lies(server: FakeServer, engine: RemoteEngine, picture: Image) -> None:
    done = engine.submit(ask("What is it?", images=(picture,))).result(PATIENCE_S)
    assert done.finish == "length"
    (body,) = server.bodies
    shown, text = body["messages"][0]["content"]
    assert shown["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert text == {"type": "text", "text": "What is it?"}
    assert (done.usage.images, done.usage.image_tokens) == (1, 64)


def test_a_picture_that_is_gone_ends_its_request(engine: RemoteEngine, picture: Image) -> None:
    picture.path.unlink()
    done = engine.submit(ask(images=(picture,))).result(PATIENCE_S)
    assert done.error is not None
    assert (done.error.code, done.error.transient) == ("blob_missing", False)


def test_only_what_is_needed_streams(server: FakeServer, engine: RemoteEngine) -> None:
    handles = [engine.submit(ask("[[steps:200]]", max_tokens=200)) for _ in range(3)]
    heard = engine.submit(ask("heard"), on_token=lambda *_: None)
    for handle in (*handles, heard):
        assert handle.result(PATIENCE_S).finish in ("stop", "length")
    streams = {str(body["messages"][0]["content"]): body.get("stream", False) for body in server.bodies}
    assert streams["heard"]
    assert sum(bool(body.get("stream")) for body in server.bodies) == 2, "one of three tells that the server lives"


def test_answers_are_the_same_streamed_and_whole(server: FakeServer, open_engine: Open) -> None:
    texts = [
        open_engine(server, stream=how).submit(ask("same", max_tokens=400)).result(PATIENCE_S).text
        for how in ("always", "never")
    ]
    assert texts[0] == texts[1] != ""


def test_sampling_and_format_go_out(server: FakeServer, open_engine: Open) -> None:
    engine = open_engine(server, priority=True, extra={"chat_template_kwargs": {"x": 1}, "model": "not this"})
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=7, seed=3, logprobs=True)
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "page", "schema": schema}}
    request = ask(sampling=sampling, response_format=wanted, stop=("\n",), job_class="interactive")
    engine.submit(request).result(PATIENCE_S)
    body = server.bodies[-1]
    told = {
        name: body[name] for name in ("model", "temperature", "top_p", "top_k", "seed", "logprobs", "stop", "priority")
    }
    assert told == {
        "model": "fake", "temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3, "logprobs": True, "stop": ["\n"],
        "priority": 0,
    }  # fmt: skip
    assert body["response_format"]["json_schema"] == {"name": "page", "schema": schema, "strict": True}
    assert body["chat_template_kwargs"] == {"x": 1}
    assert "min_p" not in body


def test_the_server_says_its_version_where_it_says_one(server: FakeServer, open_engine: Open) -> None:
    assert open_engine(server).upstream_version == "0.32.0"
    assert find_versions(open_engine(server)) == {"batchinfer": __version__, "engine": "remote", "upstream": "0.32.0"}
    assert open_engine(server, dialect="openai").upstream_version is None
    for no_version in (None, {}, "1\n2", "x" * 65):
        server.version = no_version
        engine = open_engine(server)
        assert engine.upstream_version is None
        assert "upstream" not in find_versions(engine)


def test_no_more_at_the_server_than_may_be(server: FakeServer, open_engine: Open) -> None:
    engine = open_engine(server, slots=8, concurrency=3)
    handles = [engine.submit(ask("[[steps:20]]", max_tokens=20)) for _ in range(12)]
    assert {handle.result(PATIENCE_S).finish for handle in handles} == {"stop"}
    assert server.most_at_once == 3


def test_an_adaptive_window_grows_while_nothing_waits(open_engine: Open) -> None:
    server = FakeServer(slots=16, steps_per_s=300.0)
    try:
        engine = open_engine(server, slots=16, adaptive=True)
        handles = [engine.submit(ask("[[steps:8]]")) for _ in range(200)]
        assert {handle.result(PATIENCE_S).finish for handle in handles} == {"stop"}
        assert server.most_at_once > 8
    finally:
        server.close()


def test_a_server_without_usage_is_counted_by_pieces(server: FakeServer, engine: RemoteEngine) -> None:
    server.faults.append(Fault("blank"))
    done = engine.submit(ask()).result(PATIENCE_S)
    assert (done.usage.completion_tokens, done.usage.prompt_tokens) == (8, 0)


def test_many_come_and_go_and_nothing_is_left(server: FakeServer, engine: RemoteEngine) -> None:
    for _ in range(3):
        handles = [engine.submit(ask(str(number), max_tokens=3)) for number in range(40)]
        for handle in handles[::3]:
            engine.cancel(handle.id)
        assert {handle.result(PATIENCE_S).finish for handle in handles} <= {"length", "cancelled"}
    wait_until(lambda: engine.stats().running + engine.stats().waiting == 0)
    wait_until(lambda: server.engine.stats().running == 0)
    assert engine._rows == []
