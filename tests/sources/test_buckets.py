"""Buckets of S3's kind, against a real server of it on this machine."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.runs import RunState
from batchinfer.domain.sources import parse_source
from batchinfer.errors import BatchinferError
from batchinfer.media import buckets, sources
from batchinfer.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sources.conftest import Night

pytestmark = pytest.mark.long

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of the server, credentials for it in the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patched:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, "test")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        made.start()
        host, port = made.get_host_and_port()
        yield f"http://{host}:{port}"
        made.stop()


@pytest.fixture(scope="module")
def put(server: str) -> Callable[..., None]:
    """Put objects into buckets, which are made."""
    import s3fs

    fs = s3fs.S3FileSystem(endpoint_url=server, skip_instance_cache=True)

    def make(bucket: str, *keys: str, body: bytes = b"%PDF-1.4") -> None:
        fs.call_s3("create_bucket", Bucket=bucket)
        for key in keys:
            fs.call_s3("put_object", Bucket=bucket, Key=key, Body=body)

    return make


def allow(server: str, pattern: str, **more: Any) -> Settings:
    return load_settings(source_buckets=pattern, s3_endpoint_url=server, **more)


def code_of(action: Callable[[], Any]) -> str:
    with pytest.raises(BatchinferError) as caught:
        action()
    return caught.value.code


def test_a_bucket_is_listed_in_pages_and_read(
    server: str, put: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("team-a", *(f"in/{i:02}.pdf" for i in range(25)), "in/deep/x ?#%41+é.pdf", "in/y.txt", "other/z.pdf")
    monkeypatch.setattr(buckets, "_KEYS_AT_ONCE", 7)
    settings = allow(server, "s3://team-a/*")
    source = parse_source({"uri": "s3://team-a/in/", "include": ["*.pdf"]})
    sources.check_source(source, settings)
    found = list(sources.iterate_source(source, settings))
    assert [entry.name for entry in found[:2]] == ["00.pdf", "01.pdf"]
    assert len(found) == 26
    for entry in (found[0], found[-1]):
        with sources.open_source(entry.uri, settings) as file:
            assert file.read() == b"%PDF-1.4"
        assert sources.read_stamp(entry.uri, settings) == (entry.size_bytes, entry.stamp)
    for cut in (0, 6, 13, 25):
        assert list(sources.iterate_source(source, settings, found[cut].place)) == found[cut + 1 :]
    put("team-a", "in/00.pdf", body=b"%PDF-1.5")
    assert sources.read_stamp(found[0].uri, settings) != (found[0].size_bytes, found[0].stamp)


def test_one_object_is_a_source_too(server: str, put: Callable[..., None]) -> None:
    put("team-a", "single.pdf")
    (entry,) = sources.iterate_source(parse_source({"uri": "s3://team-a/single.pdf"}), allow(server, "s3://team-a/*"))
    assert (entry.uri, entry.name) == ("s3://team-a/single.pdf", "single.pdf")


@pytest.mark.parametrize(
    ("uri", "pattern", "code"),
    [
        ("s3://team-b/in", "s3://team-a/*", "source_not_allowed"),
        ("s3://team-ab/in", "s3://team-a", "source_not_allowed"),
        ("s3://team-a/out", "s3://team-a/in", "source_not_allowed"),
        ("s3://team-a/in/../out", "s3://team-a/*", "invalid_source"),
        ("s3://key:secret@team-a/in", "s3://*", "invalid_source"),
        ("gs://team-a/in", "s3://*", "source_not_allowed"),
        ("nothing://team-a/in", "nothing://*", "source_unsupported"),
        ("local://etc/passwd", "local://*", "source_not_allowed"),
        ("s3://no-such-bucket/in", "s3://*", "source_not_found"),
    ],
)
def test_what_may_not_be_read_is_refused_at_declaration(server: str, uri: str, pattern: str, code: str) -> None:
    settings = allow(server, pattern)
    assert code_of(lambda: sources.check_source(parse_source({"uri": uri}), settings)) == code
    assert code_of(lambda: list(sources.iterate_source(parse_source({"uri": uri}), settings))) == code


def answer(status: int, seconds: float = 0.0) -> tuple[str, Callable[[], None]]:
    """A server that answers anything with a status, after a while."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                line, _ = listener.accept()
            except TimeoutError:
                continue
            with line:
                line.settimeout(2)
                try:
                    line.recv(65536)
                    over.wait(seconds)
                    line.sendall(
                        f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nConnection: close\r\n\r\n"
                        "<Error><Code>AccessDenied</Code><Message>secret text</Message></Error>".encode()
                    )
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()

    def stop() -> None:
        over.set()
        thread.join()
        listener.close()

    return f"http://127.0.0.1:{listener.getsockname()[1]}", stop


def test_a_bucket_that_answers_403_is_refused_and_ends_a_run_with_its_cause(night: Night, server: str) -> None:
    address, stop = answer(403)
    try:
        settings = allow(address, "s3://*")
        with pytest.raises(BatchinferError) as caught:
            sources.check_source(parse_source({"uri": "s3://shut/in"}), settings)
        assert (caught.value.code, caught.value.param) == ("source_forbidden", "source.uri")
        assert "secret" not in caught.value.message
        run_id = night.declare()
        night.rows("UPDATE runs SET spec = jsonb_set(spec, '{source}', '{\"uri\": \"s3://shut/in\"}')")
        change = {"source_buckets": "s3://*", "s3_endpoint_url": address}
        object.__setattr__(night.ctx, "settings", night.ctx.settings.model_copy(update=change))
        assert code_of(night.list) == "source_forbidden"
        run = night.get(run_id)
        assert (run.state, (run.cause or {})["code"]) == (RunState.FAILED, "source_forbidden")
    finally:
        stop()


def test_a_bucket_that_does_not_answer_in_time_may_later(server: str) -> None:
    address, stop = answer(200, seconds=30)
    try:
        settings = allow(address, "s3://*", source_timeout_s=0.3)
        source = parse_source({"uri": "s3://slow/in"})
        assert code_of(lambda: list(sources.iterate_source(source, settings))) == "source_unreachable"
        sources.check_source(source, settings)  # no reason to refuse it
    finally:
        stop()


def test_a_run_over_a_bucket_skips_what_is_unchanged(night: Night, server: str, put: Callable[..., None]) -> None:
    put("nightly", "2026/a.pdf", "2026/b.pdf")
    change = {"source_buckets": "s3://nightly/*", "s3_endpoint_url": server}
    object.__setattr__(night.ctx, "settings", night.ctx.settings.model_copy(update=change))
    first = night.declare(uri="s3://nightly/2026")
    night.read_all(first)
    put("nightly", "2026/b.pdf", body=b"%PDF-1.6")
    second = night.declare(uri="s3://nightly/2026")
    night.list()
    assert [row.stage for row in night.documents(second)] == ["skipped", "queued"]
