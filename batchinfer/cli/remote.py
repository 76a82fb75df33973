"""Verbs over HTTP: where the service is, and what happens there."""

from __future__ import annotations

import functools
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

from batchinfer.cli.local import HOME, load
from batchinfer.client.client import KEY, URL, Client
from batchinfer.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Arguments = ParamSpec("Arguments")
URL_OPTION = click.option("--url", help=f"Address of the service; else {URL}, else the `up` that runs in the home.")


def remote(command: Callable[Concatenate[Client, Arguments], None]) -> Callable[..., None]:
    """A command with a client as its first argument, and the options that say whose."""

    @URL_OPTION
    @HOME
    @functools.wraps(command)
    def run(*args: Any, url: str | None, home: Path | None, **options: Any) -> None:
        with open_client(url, home) as client:
            command(client, *args, **options)

    return run


def open_client(url: str | None, home: Path | None) -> Client:
    """A client of the service that was named, of the one that the environment names, or of the `up` that runs in the
    home, whose key goes to no other address. Raises SettingsError."""
    from batchinfer.stack.running import find_service

    address, key = url or os.environ.get(URL), os.environ.get(KEY)
    if not (address and key):
        running = find_service(load(home).home)
        if running is not None and (address is None or address.rstrip("/").removesuffix("/v1") == running.url):
            address, key = running.url, key or running.api_key
    if not address or not key:
        raise SettingsError(
            f"No service is known. Set {URL} and {KEY} (`batchinfer keys create` makes one), or run `batchinfer up` "
            "on this machine."
        )
    return Client(address, key)


def show_time(seconds: int | None) -> str:
    """A time of the service for people, in UTC."""
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def read_pairs(pairs: tuple[str, ...], option: str) -> dict[str, str]:
    """`NAME=TEXT`, several times. Raises click.BadParameter."""
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise click.BadParameter("say NAME=TEXT", param_hint=option)
        found[name] = text
    return found
