"""The fetcher: what it refuses, what it takes, and what another try may mend. Nothing here leaves the machine."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain.fetching import find_fetch_rules, parse_fetch_url
from batchinfer.domain.retries import RetryClass, classify_error
from batchinfer.errors import BadImage, BadRequest, BatchinferError, FetchFailed, SettingsError
from batchinfer.media.fetching import Fetcher
from batchinfer.media.outward import Door
from batchinfer.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
PUBLIC = "93.184.215.14"
FIELD = "messages.0.content.0.image_url.url"


def answer(body: bytes = PNG, status: str = "200 OK", **headers: Any) -> bytes:
    given = {"Content-Length": len(body), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def move(location: str, status: str = "302 Found") -> bytes:
    return answer(b"", status, Location=location)


class Web:
    """A web of hosts that is not there: names, and what each connection, a pair of sockets, is answered."""

    def __init__(self, names: dict[str, Sequence[str]], *answers: bytes | Callable[[socket.socket], None]) -> None:
        self.names, self.answers = names, list(answers)
        self.resolved: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.heads: list[str] = []
        self.threads: list[threading.Thread] = []

    def resolve(self, host: str) -> Sequence[str]:
        self.resolved.append(host)
        found = self.names[host]
        if len(found) > 1 and found[0] == "then":  # rebinding: another address each time
            return [found[min(self.resolved.count(host), len(found) - 1)]]
        return found

    def connect(self, address: str, port: int, _timeout_s: float) -> socket.socket:
        self.connected.append((address, port))
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(theirs, self.answers.pop(0)))
        thread.start()
        self.threads.append(thread)
        return ours

    def _serve(self, line: socket.socket, behave: bytes | Callable[[socket.socket], None]) -> None:
        with line:
            line.settimeout(20)
            try:
                self.heads.append(line.recv(65536).decode())
                behave(line) if callable(behave) else line.sendall(behave)
            except OSError:
                pass  # who asked has gone

    def close(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


NAMES = {"pictures.example": [PUBLIC]}


def fetch(
    tmp_path: Path, web: Web, address: str = "http://pictures.example/a.png", **settings: Any
) -> bytes | BatchinferError:
    """What was written, or the error."""
    values = {"fetch_hosts": "*", "fetch_timeout_s": 20.0, "fetch_max_bytes": 10_000, **settings}
    fetcher = Fetcher(load_settings(**values), Door(resolve=web.resolve, connect=web.connect))
    target = tmp_path / "fetched"
    try:
        fetcher.fetch(address, target, param=FIELD)
    except BatchinferError as error:
        return error
    finally:
        web.close()
    return target.read_bytes()


def refused(tmp_path: Path, web: Web, *more: Any, code: str, passes: bool = False, **settings: Any) -> None:
    error = fetch(tmp_path, web, *more, **settings)
    assert isinstance(error, BatchinferError), "it was fetched"
    assert (error.code, error.param) == (code, FIELD)
    assert f"`{FIELD}`" in error.message
    assert "pictures.example/" not in error.message, "an address may hold a secret"
    assert isinstance(error, FetchFailed if passes else BadRequest)
    assert classify_error(error) is (RetryClass.TRANSIENT if passes else RetryClass.PERMANENT)


def test_a_picture_is_fetched_and_nothing_about_us_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://user:secret@127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine pictures.example login user password secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    web = Web(NAMES, answer(Content_Type="text/html", Set_Cookie="a=b"))
    assert fetch(tmp_path, web, "http://pictures.example/a.png?sig=1") == PNG, "a declared type is not believed"
    assert web.connected == [(PUBLIC, 80)], "no proxy"
    lines = web.heads[0].split("\r\n")
    assert lines[0] == "GET /a.png?sig=1 HTTP/1.1"
    assert {line.split(":")[0] for line in lines[1:] if line} == {
        "Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"
    }  # fmt: skip


def test_off_unless_hosts_are_named(tmp_path: Path) -> None:
    web = Web(NAMES)
    refused(tmp_path, web, code="invalid_image_url", fetch_hosts="")
    refused(tmp_path, web, code="url_not_allowed", fetch_hosts="other.example, *.pictures.example")
    assert web.resolved == []
    assert fetch(tmp_path, Web(NAMES, answer()), fetch_hosts="Pictures.Example") == PNG
    deep = Web({"a.b.pictures.example": [PUBLIC]}, answer())
    assert fetch(tmp_path, deep, "http://a.b.pictures.example/", fetch_hosts="*.pictures.example") == PNG


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("http://169.254.169.254/latest/meta-data", "url_not_allowed"),
        ("http://127.0.0.1/", "url_not_allowed"),
        ("http://[::1]/", "url_not_allowed"),
        ("http://[::ffff:169.254.169.254]/", "url_not_allowed"),
        ("http://[64:ff9b::a9fe:a9fe]/", "url_not_allowed"),
        ("http://2130706433/", "invalid_url"),
        ("http://0177.0.0.1/", "invalid_url"),
        ("http://0x7f.1/", "invalid_url"),
        ("http://127.1/", "invalid_url"),
        ("http://user:secret@pictures.example/", "invalid_url"),
        ("http://127.0.0.1:8000\\@pictures.example/a", "invalid_url"),
        ("http://pictures.example:8080/", "url_not_allowed"),
        ("ftp://pictures.example/", "invalid_url"),
        ("http://pictures.example/a b", "invalid_url"),
        ("http://pictures.example/\r\nX: y", "invalid_url"),
    ],
)
def test_addresses_that_are_refused_unasked_first_or_after_a_redirect(tmp_path: Path, address: str, code: str) -> None:
    web = Web(NAMES)
    refused(tmp_path, web, address, code=code)
    assert (web.resolved, web.connected) == ([], [])
    if "\r" not in address and " " not in address:
        web = Web(NAMES, move(address))
        refused(tmp_path, web, code=code)
        assert web.connected == [(PUBLIC, 80)], "one hop, and no more"


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], [PUBLIC, "127.0.0.1"], ["::ffff:10.0.0.1"], ["169.254.169.254"], ["fd00::1"]]
)
def test_a_name_that_leads_inside_is_refused(tmp_path: Path, addresses: list[str]) -> None:
    web = Web({"inside.example": addresses})
    refused(tmp_path, web, "http://inside.example/", code="url_not_allowed")
    assert web.connected == []
    web = Web({**NAMES, "inside.example": addresses}, move("http://inside.example/"))
    refused(tmp_path, web, code="url_not_allowed")
    assert web.connected == [(PUBLIC, 80)]


def test_a_name_that_changes_its_address_gains_nothing(tmp_path: Path) -> None:
    web = Web({"rebinding.example": ["then", PUBLIC, "127.0.0.1"]}, answer())
    assert fetch(tmp_path, web, "http://rebinding.example/") == PNG
    assert (web.resolved, web.connected) == (["rebinding.example"], [(PUBLIC, 80)])
    web = Web({"rebinding.example": ["then", PUBLIC, "127.0.0.1"]}, move("/again"))
    refused(tmp_path, web, "http://rebinding.example/", code="url_not_allowed")
    assert web.connected == [(PUBLIC, 80)], "the second hop is checked as the first was"


def test_redirects_are_followed_as_far_as_the_setting_says(tmp_path: Path) -> None:
    names = {**NAMES, "other.example": ["8.8.8.8"]}
    web = Web(names, move("/b", "301 Moved"), move("//other.example/c?d"), answer())
    assert fetch(tmp_path, web) == PNG
    assert web.connected == [(PUBLIC, 80), (PUBLIC, 80), ("8.8.8.8", 80)]
    assert [head.split("\r\n")[0] for head in web.heads] == [
        "GET /a.png HTTP/1.1", "GET /b HTTP/1.1", "GET /c?d HTTP/1.1",
    ]  # fmt: skip
    loop = Web(NAMES, *[move("/a.png")] * 4)
    refused(tmp_path, loop, code="failed_to_download_image")
    assert len(loop.connected) == 4
    refused(tmp_path, Web(NAMES, move("/b")), code="failed_to_download_image", fetch_redirects=0)
    web = Web(names, move("http://other.example/"))
    refused(tmp_path, web, code="url_not_allowed", fetch_hosts="pictures.example")
    assert web.connected == [(PUBLIC, 80)], "the list of hosts holds for every hop"


@pytest.mark.parametrize(
    ("given", "code", "passes"),
    [
        (answer(b"", "404 Not Found"), "image_file_not_found", False),
        (answer(b"", "410 Gone"), "image_file_not_found", False),
        (answer(b"", "403 Forbidden"), "failed_to_download_image", False),
        (answer(b"", "206 Partial Content"), "failed_to_download_image", False),
        (answer(b"", "429 Too Many Requests"), "failed_to_download_image", True),
        (answer(b"", "500 Broken"), "failed_to_download_image", True),
        (answer(b"", "503 Unavailable"), "failed_to_download_image", True),
        (answer()[:-3], "failed_to_download_image", True),
        (b"", "failed_to_download_image", True),
        (b"SSH-2.0-OpenSSH_9\r\n", "failed_to_download_image", False),
        (answer(b""), "empty_image_file", False),
        (answer(b"x" * 10_001), "image_file_too_large", False),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_001, "image_file_too_large", False),
        (answer(gzip.compress(bytes(10**6)), Content_Encoding="gzip"), "failed_to_download_image", False),
    ],
)
def test_what_a_host_answers_by_class(tmp_path: Path, given: bytes, code: str, passes: bool) -> None:
    refused(tmp_path, Web(NAMES, given), code=code, passes=passes)


def test_a_file_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    assert fetch(tmp_path, Web(NAMES, answer(b"x" * 10_000))) == b"x" * 10_000


def test_a_host_that_sends_without_end_is_cut_off(tmp_path: Path) -> None:
    def pour(line: socket.socket) -> None:
        line.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            line.sendall(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")

    refused(tmp_path, Web(NAMES, pour), code="image_file_too_large")
    assert (tmp_path / "fetched").stat().st_size <= 10_000


def test_a_host_that_drips_is_left_when_the_time_is_over(tmp_path: Path) -> None:
    def drip(line: socket.socket) -> None:
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        while True:
            line.sendall(b"x")
            time.sleep(0.05)

    refused(tmp_path, Web(NAMES, drip), code="failed_to_download_image", passes=True, fetch_timeout_s=0.5)


def test_the_time_is_one_for_all_hops(tmp_path: Path) -> None:
    def dawdle(line: socket.socket) -> None:
        time.sleep(0.4)
        line.sendall(move("/a.png"))

    web = Web(NAMES, *[dawdle] * 10)
    refused(tmp_path, web, code="failed_to_download_image", passes=True, fetch_timeout_s=1.0, fetch_redirects=10)
    assert len(web.connected) < 6


def test_private_networks_that_the_operator_names_may_be_asked(tmp_path: Path) -> None:
    web = Web({"store.inside": ["10.2.0.7"]}, answer())
    settings = {"fetch_hosts": "store.inside", "fetch_networks": "10.2.0.0/16"}
    assert fetch(tmp_path, web, "http://store.inside:9000/a.png", **settings) == PNG
    refused(tmp_path, Web({"store.inside": ["10.3.0.7"]}), "http://store.inside/", code="url_not_allowed", **settings)


@pytest.mark.parametrize(
    ("name", "value"), [("fetch_hosts", "http://a.example"), ("fetch_hosts", "a.*"), ("fetch_networks", "10.0.0.1/8")]
)
def test_a_bad_setting_stops_the_start(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"BATCHINFER_{name.upper()}"):
        load_settings(**{name: value})


def test_the_door_of_a_request_is_shut_by_the_same_rules() -> None:
    rules = find_fetch_rules(load_settings(fetch_hosts="*"))
    assert str(parse_fetch_url("HTTP://Pictures.Example/a#b", rules, param="url")) == "http://pictures.example/a"
    with pytest.raises(BadImage) as off:
        parse_fetch_url("http://pictures.example/", None, param="url")
    assert (off.value.code, off.value.param) == ("invalid_image_url", "url")
