"""The examples of the pages name what is there: verbs and options, routes, fields, and code that is Python.

tests/docs/run_examples.py says what is also run, in its order and against a whole service: the Python of every page
and the commands of the pages in `SHELL` that stand in blocks marked `sh`. Its `NOT_RUN` lists what of these is not run,
and why. That, the commands of all other pages and blocks without a language are only held against the program, here.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import click
import pytest

from batchinfer.cli import cli
from batchinfer.domain.declared import read_documents
from batchinfer.domain.limits import Limits
from batchinfer.domain.runs import parse_spec
from batchinfer.domain.schedules import make_run_spec, parse_schedule
from batchinfer.services.context import open_context
from batchinfer.settings import load_settings
from batchinfer.web import create_app
from tests.docs.conftest import ROOT
from tests.docs.run_examples import NOT_RUN, PYTHON, SHELL, list_examples, list_runnable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.docs.conftest import Page

_SHELL = {"", "sh", "bash", "shell", "console", "text"}
#: How pages write what is to be filled in, or is one of several.
_SKETCH = re.compile(r"[\[\]|…]")


def list_commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block, with its lines joined; what no shell could read is passed over."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:
            continue
        while words and (words[0] in {"export", "sudo"} or re.match(r"^[A-Z_]+=", words[0])):
            words = words[1:]
        if words:
            yield words


def check_command(words: list[str], *, whole: bool) -> None:
    """Raises click.UsageError where there is no such verb or option, or, if `whole`, what it needs is left out."""
    command: click.Command = cli
    context = click.Context(cli, info_name="batchinfer")
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            break
        name, *words = words
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no verb {name}", context)
        command, context = found, click.Context(found, parent=context, info_name=name)
    given, rest, _ = command.make_parser(context).parse_args(list(words))
    if rest and not isinstance(command, click.Group):
        raise click.UsageError(f"{rest} is too much", context)
    for parameter in command.params:
        value = given.get(parameter.name or "")
        if whole and parameter.required and value in (None, ()):
            raise click.UsageError(f"{parameter.name} is left out", context)
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            parameter.type.convert(value, parameter, context)


@pytest.mark.parametrize("line", ["models launhc x", "submit x --promt y", "submit page.png", "queue show x y"])
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        check_command(line.split(), whole=True)


def test_commands_of_the_examples_are_ours(manual: list[Page]) -> None:
    seen = 0
    for page in manual:
        for block in page.list_blocks():
            if block.language not in _SHELL:
                continue
            for words in list_commands(block.text):
                name, *rest = words
                if name.removeprefix(".venv/bin/") != "batchinfer" or _SKETCH.search(" ".join(rest)):
                    continue
                seen += 1
                try:
                    check_command(rest, whole=True)
                except click.UsageError as error:
                    pytest.fail(f"{page.name}: batchinfer {' '.join(rest)}: {error.format_message()}")
    assert seen > 30


def test_commands_in_the_text_are_ours(manual: list[Page]) -> None:
    seen = 0
    for page in manual:
        for line in re.findall(r"`batchinfer ([^`]+)`", page.prose):
            if _SKETCH.search(line):
                continue
            seen += 1
            try:
                check_command(shlex.split(line), whole=False)
            except click.UsageError as error:
                pytest.fail(f"{page.name}: batchinfer {line}: {error.format_message()}")
    assert seen > 50


def test_verbs_of_make_are_there(manual: list[Page]) -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in manual:
        named = set(re.findall(r"`(?:[A-Z]+=\S+ )*make ([a-z][a-z-]*)", page.prose))
        for block in page.list_blocks():
            if block.language in _SHELL:
                named |= {words[1] for words in list_commands(block.text) if words[0] == "make" and len(words) > 1}
        assert {name for name in named if re.fullmatch(r"[a-z-]+", name)} <= verbs, page.name


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """(method, path) of each operation, ids as `*`. Nothing is connected to for it."""
    home: Path = tmp_path_factory.mktemp("home")
    servers = {"database_url": "postgresql+psycopg://x@127.0.0.1:9/none", "redis_url": "redis://127.0.0.1:9/0"}
    context = open_context(load_settings(home=home, secret_key="x" * 40, **servers))
    client = create_app(context=context).test_client()
    document: dict[str, Any] = client.get("/openapi.json").json
    context.close()
    more = {("GET", "/openapi.json"), ("GET", "/docs")}
    return {(method.upper(), shape(path)) for path, methods in document["paths"].items() for method in methods} | more


def shape(path: str) -> str:
    """A path with its ids and names as `*`."""
    parts = path.split("?", maxsplit=1)[0].rstrip("/").split("/")
    ids = re.compile(r"^(\{.*\}|[a-z]+[_-](\.\.\.|…|[0-9a-f]{6,}).*|[A-Z]+|\$\w+)$")
    return "/".join("*" if ids.match(part) else part for part in parts)


def test_routes_that_examples_ask_are_there(manual: list[Page], routes: set[tuple[str, str]]) -> None:
    seen = 0
    for page in manual:
        for block in page.list_blocks():
            if block.language not in _SHELL:
                continue
            for words in list_commands(block.text):
                asked = [re.sub(r"^(https?://[^/]+|\$\{?\w+\}?)", "", word) for word in words if "/v1/" in word]
                if words[0] != "curl" or not asked:
                    continue
                seen += 1
                sends = any(word in {"-F", "-d", "-T", "--json", "--data", "--data-binary"} for word in words)
                method = words[words.index("-X") + 1] if "-X" in words else "POST" if sends else "GET"
                assert (method, shape(asked[0])) in routes, (page.name, method, asked[0])
    assert seen >= 5


def test_routes_that_the_text_names_are_there(manual: list[Page], routes: set[tuple[str, str]]) -> None:
    """api.md is held to all of them by tests/api/test_openapi.py; the page on Xinference names that one's own, too."""
    seen = 0
    for page in manual:
        text = page.prose
        if page.name == "docs/migrating-from-xinference.md":
            text = "\n".join(" | ".join(line.split(" | ")[1:]) for line in text.splitlines() if line.startswith("| "))
        for method, path in re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/(?:v1|healthz|readyz)[^\s`]*)`", text):
            if not _SKETCH.search(path):
                seen += 1
                assert (method, shape(path)) in routes, (page.name, method, path)
    assert seen > 50


def test_python_of_the_examples_is_python(manual: list[Page]) -> None:
    for page in manual:
        for block in page.list_blocks():
            if block.language.startswith("python"):
                compile(block.text, page.name, "exec")


def test_what_is_run_and_what_is_not_is_what_the_pages_have(manual: list[Page]) -> None:
    """Every page with Python is run by some test, and whatever is said not to be run is there."""
    with_python = {page.name for page in manual if any(b.language.startswith("python") for b in page.list_blocks())}
    assert with_python == set(PYTHON)
    for page in manual:
        assert {b.language for b in page.list_blocks() if b.language.startswith("python")} <= {"python"}, page.name
    for name, test in [*PYTHON.items(), *SHELL.items()]:
        assert name.removeprefix("docs/") in (ROOT / test).read_text(), f"{test} runs nothing of {name}"
    assert {kind for name in SHELL for kind, _ in list_runnable(name)} >= {"python", "sh"}
    for name, start in NOT_RUN:
        found = [text for kind, text in list_examples(name) if text.startswith(start)]
        assert found, (name, start)
    assert {name for name, _ in NOT_RUN} <= {*PYTHON, *SHELL}


def test_json_of_the_examples_is_json(manual: list[Page]) -> None:
    for page in manual:
        for block in page.list_blocks():
            if block.language == "json":
                text = block.text.strip()
                try:
                    json.loads(text)
                except ValueError:
                    assert all(json.loads(line) for line in text.splitlines()), (page.name, text)


def test_yaml_of_the_examples_is_read_as_ours(manual: list[Page]) -> None:
    """All of it by our reader; what declares a schedule also by who reads schedules."""
    limits = Limits.of(load_settings(secret_key="x" * 40))
    declared = 0
    for page in manual:
        for block in page.list_blocks():
            if block.language not in {"yaml", "yml"} or block.text.startswith("services:"):
                continue  # the last for Docker Compose, which has tags of its own
            for _, value in read_documents(block.text):
                if isinstance(value, dict) and {"pipeline", "timing"} <= value.keys():
                    declared += 1
                    parse_spec(make_run_spec(parse_schedule(value).declared), limits)
    assert declared >= 3
