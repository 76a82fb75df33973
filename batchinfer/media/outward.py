"""The one way out: an HTTP request to a host that a user named, made so that it can reach nothing else.

A name is resolved once, every address that it has must be permitted, and the connection is made to one of these: what
was checked is what is connected to, whatever the name says a moment later. No redirect is followed, no proxy and no
cookie is known, and one deadline holds for all of it, to the last byte.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import queue
import socket
import ssl
import threading
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from batchinfer.domain.addresses import read_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchinfer.domain.addresses import Reach, WebUrl

    #: The addresses of a host, as texts. Raises OSError.
    Resolver: TypeAlias = Callable[[str], Sequence[str]]
    #: A TCP connection to an address and a port within so many seconds. Raises OSError.
    Connector: TypeAlias = Callable[[str, int, float], socket.socket]

#: Addresses of a name that are tried, and most that it may have.
_TRIED_ADDRESSES, _MOST_ADDRESSES = 3, 64
_CHUNK_BYTES = 16 * 1024


class Reason(StrEnum):
    """Why a request came to nothing."""

    #: An address or a port that may not be asked.
    REFUSED = "refused"
    NAME = "name"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"
    CUT = "cut"
    LARGE = "large"


SENTENCES = {
    Reason.REFUSED: "The host has an address or a port that is not open to the public.",
    Reason.NAME: "The host's name cannot be resolved.",
    Reason.CONNECT: "The host cannot be connected to.",
    Reason.TLS: "The host shows no valid certificate, or speaks no TLS.",
    Reason.TIMEOUT: "The host did not answer in time.",
    Reason.PROTOCOL: "What the host answered is not HTTP.",
    Reason.CUT: "The host ended the connection before its answer was complete.",
    Reason.LARGE: "The host answered more than is read of an answer.",
}


class OutwardError(Exception):
    """A request came to nothing. `reason` says why; its sentence may be shown to users."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(SENTENCES[reason])
        self.reason = reason


class Exchange:
    """A request that was answered: `status`, `headers` by their names in lower case, and a body to read."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer
        self.status = answer.status
        self.headers: dict[str, str] = {name.lower(): value for name, value in answer.getheaders()}

    def read(self, most_bytes: int) -> bytes:
        """The next bytes of the body: as many as asked for unless it ends, b"" behind its end. Raises OutwardError."""
        parts: list[bytes] = []
        with _told_apart():
            while most_bytes > 0 and (part := self._answer.read(min(most_bytes, _CHUNK_BYTES))):
                parts.append(part)
                most_bytes -= len(part)
            if most_bytes > 0 and self._answer.length:
                raise OutwardError(Reason.CUT)  # fewer bytes than its Content-Length promised
        return b"".join(parts)


class Door:
    """Makes requests. Safe for threads; what resolves and what connects can be handed in."""

    def __init__(
        self, *, resolve: Resolver | None = None, connect: Connector | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._resolve = resolve or resolve_host
        self._connect = connect or open_socket
        self._tls = tls

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        url: WebUrl,
        reach: Reach,
        *,
        total_s: float,
        most_bytes: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Iterator[Exchange]:
        """One request and its answer, a redirect as it is. Raises OutwardError.

        Everything happens within `total_s` seconds, and not more than `most_bytes` are taken from the host, head and
        framing of its answer included. `Host` and `Content-Length` are set here.
        """
        deadline = time.monotonic() + total_s
        addresses = self._find_addresses(url, reach, deadline)
        line = self._connect_any(addresses, url, deadline)
        try:
            with _told_apart():
                exchange = Exchange(_ask(_Line(line, deadline, most_bytes), method, url, headers or {}, body))
            yield exchange
        finally:
            line.close()

    def _find_addresses(self, url: WebUrl, reach: Reach, deadline: float) -> list[str]:
        """What the host resolves to, all of it permitted."""
        literal = read_address(url.host) is not None
        found = [url.host] if literal else list(dict.fromkeys(_resolve_in_time(self._resolve, url.host, deadline)))
        if not found:
            raise OutwardError(Reason.NAME)
        addresses = [read_address(text) for text in found]
        if len(found) > _MOST_ADDRESSES or not all(one and reach.permits(one, url.port) for one in addresses):
            raise OutwardError(Reason.REFUSED)
        return found

    def _connect_any(self, addresses: Sequence[str], url: WebUrl, deadline: float) -> socket.socket:
        """The first address that can be connected to; each gets its share of the time that is left."""
        tried, reason = addresses[:_TRIED_ADDRESSES], Reason.CONNECT
        for number, address in enumerate(tried):
            try:
                line = self._connect(address, url.port, _left_s(deadline) / (len(tried) - number))
            except TimeoutError:
                reason = Reason.TIMEOUT
            except OSError:
                continue
            else:
                return self._wrap(line, url, deadline) if url.scheme == "https" else line
        raise OutwardError(reason)

    def _wrap(self, line: socket.socket, url: WebUrl, deadline: float) -> socket.socket:
        try:
            line.settimeout(_left_s(deadline))
            self._tls = self._tls or ssl.create_default_context()
            return self._tls.wrap_socket(line, server_hostname=url.host)
        except TimeoutError:
            line.close()
            raise OutwardError(Reason.TIMEOUT) from None
        except (OSError, ValueError):  # ValueError: a name that is no server name
            line.close()
            raise OutwardError(Reason.TLS) from None


def resolve_host(host: str) -> list[str]:
    """The addresses of a host as the system resolves it. Raises OSError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def open_socket(address: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection. Raises OSError."""
    return socket.create_connection((address, port), timeout=timeout_s)


class _Line:
    """A connection as `http.client` uses one, with a deadline for each thing that waits."""

    def __init__(self, line: socket.socket, deadline: float, most_bytes: int) -> None:
        self._line, self._deadline, self._most_bytes = line, deadline, most_bytes

    def sendall(self, data: bytes) -> None:
        self._line.settimeout(_left_s(self._deadline))
        self._line.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._line, self._deadline, self._most_bytes), _CHUNK_BYTES)

    def close(self) -> None:
        """Nothing: whoever opened the connection closes it."""


class _Incoming(io.RawIOBase):
    """What the host sends. Counted here, below all framing: `http.client` reads a chunk of size -1 to its end."""

    def __init__(self, line: socket.socket, deadline: float, most_bytes: int) -> None:
        self._line, self._deadline, self._left_bytes = line, deadline, most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._line.settimeout(_left_s(self._deadline))
        count = self._line.recv_into(buffer)
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise OutwardError(Reason.LARGE)
        return count


def _ask(
    line: _Line, method: str, url: WebUrl, headers: Mapping[str, str], body: bytes | None
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(url.host, url.port)
    connection.sock = cast("Any", line)
    connection.putrequest(method, url.target, skip_host=True, skip_accept_encoding=True)
    length = {"Content-Length": str(len(body))} if body is not None else {}
    for name, value in {"Host": url.authority, **length, **headers, "Connection": "close"}.items():
        connection.putheader(name, value)
    # One that answers and closes before it has read everything has answered all the same.
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        connection.endheaders(body)
    return connection.getresponse()


def _resolve_in_time(resolve: Resolver, host: str, deadline: float) -> Sequence[str]:
    """The system's resolver knows no deadline: a thread asks it, and may be left behind."""
    answers: queue.SimpleQueue[Sequence[str] | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolve(host))
        except (OSError, UnicodeError):
            answers.put(None)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = answers.get(timeout=_left_s(deadline))
    except queue.Empty:
        raise OutwardError(Reason.TIMEOUT) from None
    if found is None:
        raise OutwardError(Reason.NAME)
    return found


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise OutwardError(Reason.TIMEOUT)
    return left_s


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    """What sockets and `http.client` raise, as one of our reasons."""
    try:
        yield
    except TimeoutError:
        raise OutwardError(Reason.TIMEOUT) from None
    except (http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError):
        raise OutwardError(Reason.CUT) from None
    except (http.client.HTTPException, ValueError, OSError):
        raise OutwardError(Reason.PROTOCOL) from None
