from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from batchinfer.domain.addresses import Reach, parse_networks, parse_web_url
from batchinfer.media.outward import SENTENCES, Door, OutwardError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LOOPBACK = Reach(plain_http=True, networks=parse_networks("127.0.0.0/8"))
PUBLIC = Reach(plain_http=True)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Answer: yes\r\n\r\nok"


class Host:
    """A server that takes one connection after another, reads a request's head and then does as it was told."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self.heads: list[bytes] = []
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            line, _ = self._listener.accept()
            with line, suppress(OSError):
                line.settimeout(20)
                head = b""
                while not (b"\r\n\r\n" in head or head.startswith(b"\x16")) and (part := line.recv(4096)):
                    head += part
                if not head:
                    return
                self.heads.append(head)
                self._behave(line)

    def close(self) -> None:
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(30)
        self._listener.close()
        assert not self._thread.is_alive()


@contextmanager
def serving(behave: bytes | Callable[[socket.socket], None]) -> Iterator[Host]:
    host = Host((lambda line: line.sendall(behave)) if isinstance(behave, bytes) else behave)
    try:
        yield host
    finally:
        host.close()


def ask(host: Host, *, total_s: float = 20.0, most_bytes: int = 100_000, read: int = 1000, body: bytes | None = None):
    url = parse_web_url(f"http://hook.example:{host.port}/a?b=c", LOOPBACK, param="url")
    door = Door(resolve=lambda _name: ["127.0.0.1"])
    with door.open("POST", url, LOOPBACK, total_s=total_s, most_bytes=most_bytes, body=body) as exchange:
        return exchange.status, exchange.headers, exchange.read(read)


def fail(*arguments, **more) -> Reason:
    with pytest.raises(OutwardError) as caught:
        ask(*arguments, **more)
    assert str(caught.value) == SENTENCES[caught.value.reason]
    return caught.value.reason


class Wires:
    """A resolver and a connector that write down what they are asked, and connect to nothing."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.resolved: list[str] = []
        self.connected: list[tuple[str, int]] = []

    def resolve(self, host: str) -> Sequence[str]:
        self.resolved.append(host)
        return self.answers.pop(0)

    def connect(self, address: str, port: int, _timeout_s: float) -> socket.socket:
        self.connected.append((address, port))
        raise ConnectionRefusedError

    def ask(self, text: str, reach: Reach = PUBLIC) -> Reason:
        door = Door(resolve=self.resolve, connect=self.connect)
        url = parse_web_url(text, reach, param="url")
        with pytest.raises(OutwardError) as caught, door.open("GET", url, reach, total_s=20, most_bytes=1000):
            pass
        return caught.value.reason


def test_a_request_says_where_it_goes_and_what_it_carries_and_its_answer_is_read() -> None:
    with serving(OK) as host:
        status, headers, body = ask(host, body=b"{}")
    assert (status, headers["x-answer"], body) == (200, "yes", b"ok")
    head = host.heads[0].decode()
    assert head.startswith("POST /a?b=c HTTP/1.1\r\n")
    assert f"Host: hook.example:{host.port}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n" in head


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["169.254.169.254"], ["64:ff9b::a9fe:a9fe"], ["224.0.0.1"], ["fe80::1%2"],
     ["no address"], [f"8.8.8.{number}" for number in range(65)]],
)  # fmt: skip
def test_nothing_is_connected_to_unless_every_address_of_the_name_is_permitted(addresses: list[str]) -> None:
    wires = Wires(addresses)
    assert wires.ask("http://inside.example/") is Reason.REFUSED
    assert wires.connected == []


def test_what_was_checked_is_connected_to_and_the_name_is_asked_once() -> None:
    wires = Wires(["8.8.8.8", "8.8.4.4"], ["127.0.0.1"])
    assert wires.ask("https://rebinding.example/") is Reason.CONNECT
    assert wires.resolved == ["rebinding.example"]
    assert wires.connected == [("8.8.8.8", 443), ("8.8.4.4", 443)]


def test_a_literal_address_is_not_resolved_and_is_checked_again() -> None:
    wires = Wires()
    assert wires.ask("http://8.8.8.8/") is Reason.CONNECT
    url = parse_web_url("http://127.0.0.1:9/", LOOPBACK, param="url")
    door = Door(resolve=wires.resolve, connect=wires.connect)
    refused = pytest.raises(OutwardError, match="not open to the public")
    with refused, door.open("GET", url, PUBLIC, total_s=20, most_bytes=1000):
        pass
    assert (wires.resolved, wires.connected) == ([], [("8.8.8.8", 80)])


def test_a_name_without_an_address_and_a_resolver_that_hangs() -> None:
    wires = Wires([])
    assert wires.ask("http://nowhere.example/") is Reason.NAME
    free = threading.Event()

    def hang(_name: str) -> list[str]:
        free.wait(60)
        return ["8.8.8.8"]

    url = parse_web_url("http://slow.example/", PUBLIC, param="url")
    door = Door(resolve=hang, connect=wires.connect)
    with pytest.raises(OutwardError) as caught, door.open("GET", url, PUBLIC, total_s=0.2, most_bytes=1000):
        pass
    free.set()
    assert (caught.value.reason, wires.connected) == (Reason.TIMEOUT, [])


def test_a_redirect_is_an_answer_and_nothing_more() -> None:
    with serving(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n") as host:
        status, headers, body = ask(host)
    assert (status, headers["location"], body) == (302, "http://169.254.169.254/", b"")
    assert len(host.heads) == 1


def test_one_that_hangs_costs_the_time_it_was_given() -> None:
    with serving(lambda line: line.recv(1)) as host:
        assert fail(host, total_s=0.5) is Reason.TIMEOUT


def test_one_that_drips_does_not_get_its_time_with_every_byte() -> None:
    def drip(line: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000:
            line.sendall(bytes([byte]))
            time.sleep(0.05)

    with serving(drip) as host:
        assert fail(host, total_s=1.0) is Reason.TIMEOUT


def flood(head: bytes, sent: list[int]) -> Callable[[socket.socket], None]:
    """Five gigabytes, if somebody takes them."""

    def behave(line: socket.socket) -> None:
        line.sendall(head)
        block = b"x" * 2**20
        for _ in range(5 * 2**10):
            line.sendall(block)
            sent[0] += len(block)

    return behave


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5368709120\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n140000000\r\n"]
)
def test_of_five_gigabytes_as_much_is_taken_as_was_asked_for(framing: bytes) -> None:
    sent = [0]
    with serving(flood(b"HTTP/1.1 200 OK\r\n" + framing, sent)) as host:
        assert ask(host, read=1000)[2] == b"x" * 1000
        assert fail(host, read=10**9) is Reason.LARGE
    assert sent[0] < 200 * 2**20, "what lay in the buffers of two sockets"


def test_a_chunk_that_has_no_end_ends_at_the_limit() -> None:
    sent = [0]
    with serving(flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", sent)) as host:
        assert fail(host, read=1000) in {Reason.LARGE, Reason.PROTOCOL}
    assert sent[0] < 100 * 2**20


def test_a_head_without_end_ends_at_the_limit() -> None:
    with serving(flood(b"HTTP/1.1 200 OK\r\nX: ", [0])) as host:
        assert fail(host) in {Reason.LARGE, Reason.PROTOCOL}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x00\xff\xfe garbage\r\n\r\n", Reason.PROTOCOL),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Reason.PROTOCOL),
        (b"HTTP/1.1 abc OK\r\n\r\n", Reason.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n", Reason.PROTOCOL),
        (b"", Reason.CUT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Reason.CUT),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf", Reason.CUT),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhalf", Reason.CUT),
    ],
)
def test_what_is_no_whole_answer_has_its_reason(answer: bytes, reason: Reason) -> None:
    with serving(answer) as host:
        assert fail(host) is reason


def test_one_that_speaks_no_tls_has_its_reason() -> None:
    reach = Reach(networks=LOOPBACK.networks)
    with serving(OK) as host:
        url = parse_web_url(f"https://127.0.0.1:{host.port}/", reach, param="url")
        with pytest.raises(OutwardError) as caught, Door().open("GET", url, reach, total_s=20, most_bytes=1000):
            pass
    assert caught.value.reason is Reason.TLS


def test_what_happens_to_the_reader_is_the_reader_s_own() -> None:
    url_host = Door(resolve=lambda _name: ["127.0.0.1"])
    with serving(OK) as host:
        url = parse_web_url(f"http://hook.example:{host.port}/", LOOPBACK, param="url")
        with (
            pytest.raises(KeyError),
            url_host.open("GET", url, LOOPBACK, total_s=20, most_bytes=1000) as exchange,
        ):
            raise KeyError(exchange.status)
