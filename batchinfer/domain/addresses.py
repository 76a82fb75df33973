"""Which addresses of other machines may be asked for something, and the one reading of a URL that users send.

Python's `is_global` is not enough: multicast, NAT64 and 6to4 forms of private addresses are global to it. One reading
of a URL, because two that disagree (on a backslash, say) are a way past any check.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urljoin

from batchinfer.domain.fields import refuse, show

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_URL_CHARS = 2048
#: Ports at public addresses.
WEB_PORTS = frozenset({80, 443})

#: Global to `is_global`, and yet no place on the Internet: protocol assignments, 6to4 relays, benchmarks, and an
#: address at which one cloud serves its metadata.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "168.63.129.16/32")
)
_UNICAST_6 = IPv6Network("2000::/3")
#: Special assignments (Teredo among them), documentation, and 6to4, which may hold any IPv4 address.
_NOT_PUBLIC_6 = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")

_URL = re.compile(r"(https?)://([^/?]*)(/[^?]*)?(\?.*)?", re.IGNORECASE)
_LITERAL_6 = re.compile(r"\[([0-9a-f:.]+)\](?::(\d{1,5}))?", re.IGNORECASE)
_NAMED = re.compile(r"([a-z0-9._-]+)(?::(\d{1,5}))?", re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


@dataclass(frozen=True)
class Reach:
    """How far connections may go: to ports 80 and 443 of public addresses, and to any port in `networks`."""

    #: Whether http:// will do.
    plain_http: bool = False
    networks: tuple[Network, ...] = ()

    def permits(self, address: Address, port: int) -> bool:
        """Whether a connection to this address and port may be made."""
        return self.includes(address) or (port in WEB_PORTS and is_public(address))

    def includes(self, address: Address) -> bool:
        """Whether the address is in a network that the operator named."""
        bare = _unmap(address)
        return any(bare in network for network in self.networks)


@dataclass(frozen=True)
class WebUrl:
    """A URL that was read. `target` is the path with the query, as it is sent."""

    scheme: str
    #: Lower case; an IPv6 address without its brackets.
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and, where it is not the usual one, port: as the header `Host` has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _usual_port(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def join(self, location: str) -> str:
        """The URL that a `Location` header at this one means, still to be read by `parse_web_url`."""
        return urljoin(str(self), location)


def is_public(address: Address) -> bool:
    """Whether an address is somewhere on the Internet, and nothing that only looks so."""
    address = _unmap(address)
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in net for net in _NOT_PUBLIC_4)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and address in _UNICAST_6 and not any(address in net for net in _NOT_PUBLIC_6)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks from a list with commas, as `10.0.0.0/8, fd00::/8`. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def parse_web_url(text: str, reach: Reach, *, param: str, max_chars: int = MAX_URL_CHARS) -> WebUrl:
    """Read a URL that a user sent. Raises BadRequest `invalid_url` for one that is none, and `url_not_allowed` for one
    that can be seen to lead where nothing may be asked. A name is resolved only when it is asked: see media/outward."""
    if len(text) > max_chars:
        refuse(param, f"has {len(text):,} characters; the limit is {max_chars:,}.", "invalid_url")
    if not all("!" <= char <= "~" and char not in '\\"<>^`{|}' for char in text):
        refuse(param, "holds a character that no URL holds. Percent-encode it.", "invalid_url")
    found = _URL.fullmatch(text.partition("#")[0])
    if found is None:
        refuse(param, "must be a URL that starts with https://, or http:// where that is allowed.", "invalid_url")
    scheme = found[1].lower()
    if scheme == "http" and not reach.plain_http:
        refuse(param, "must start with https://.", "url_not_allowed")
    host, port = _parse_authority(found[2], param)
    url = WebUrl(scheme, host, port or _usual_port(scheme), (found[3] or "/") + (found[4] or ""))
    _check_seen(url, reach, param)
    return url


def _parse_authority(text: str, param: str) -> tuple[str, int | None]:
    if "@" in text:
        refuse(param, "must not hold a user name or a password.", "invalid_url")
    found = _LITERAL_6.fullmatch(text) or _NAMED.fullmatch(text)
    host = _read_host(found[1].lower()) if found else None
    if found is None or host is None:
        refuse(param, f"names `{show(text)}`, which is no host in its usual form.", "invalid_url")
    port = int(found[2]) if found[2] else None
    if port is not None and not 1 <= port <= 65535:
        refuse(param, "names a port that does not exist.", "invalid_url")
    return host, port


def _read_host(text: str) -> str | None:
    """A host in its one usual form; None for anything else, as `127.1`, `0x7f.1`, `2130706433` or a name's dot at
    the end: what resolvers take for addresses in ways of their own."""
    address = read_address(text)
    if address is not None:
        return str(address)
    labels = text.split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return None if labels[-1][0].isdigit() else text


def read_address(text: str) -> Address | None:
    """An address in its usual form; None for anything else, and for one of a link (with a zone)."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def _check_seen(url: WebUrl, reach: Reach, param: str) -> None:
    """Refuse what needs no resolving to be refused."""
    address = read_address(url.host)
    if address is not None and not reach.permits(address, url.port):
        refuse(param, "leads to an address or a port that is not open to the public.", "url_not_allowed")
    if address is None and url.port not in WEB_PORTS and not reach.networks:
        refuse(param, "names a port other than 443 and 80.", "url_not_allowed")


def _unmap(address: Address) -> Address:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _usual_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
