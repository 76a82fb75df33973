"""Ports of this machine."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def free_ports(tries: int = 5, host: str = "127.0.0.1") -> Iterator[int]:
    """Up to `tries` ports that are free now. Another process may take one before a server binds."""
    for _ in range(tries):
        with socket.socket() as listener:
            listener.bind((host, 0))
            port = int(listener.getsockname()[1])
        yield port


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could bind `port` now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
        return True
