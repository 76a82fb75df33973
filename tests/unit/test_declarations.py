"""Declarations in YAML files: what is read, and the line that is named where something is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from batchinfer.cli.declarations import read_declarations
from batchinfer.errors import BadRequest

if TYPE_CHECKING:
    from pathlib import Path

NIGHT = """\
# each night
name: nightly
timing:
  cron: "30 2 * * 1-5"
  timezone: Europe/Berlin
source: {uri: "s3://bucket/in/{date:%Y-%m-%d}/**"}
pipeline:
  model: reader
  ladder:
    - temperature: 0.2
    - rotate: 90
metadata: {since: 2026-11-21}
"""


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "nightly.yaml"


def test_a_file_is_read_as_json_would_be(write: Path) -> None:
    write.write_text(NIGHT)
    (found,) = read_declarations(write)
    assert found.value["timing"] == {"cron": "30 2 * * 1-5", "timezone": "Europe/Berlin"}
    assert found.value["source"]["uri"] == "s3://bucket/in/{date:%Y-%m-%d}/**"
    assert found.value["metadata"] == {"since": "2026-11-21"}, "a date is a text"
    write.write_text(f"{NIGHT}---\nname: other\n")
    assert [one.value["name"] for one in read_declarations(write)] == ["nightly", "other"]


def test_an_alias_stands_for_what_it_names(write: Path) -> None:
    write.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    (found,) = read_declarations(write)
    assert found.value == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("param", "line"),
    [
        ("timing.cron", 4), ("timing.zone", 3), ("pipeline.ladder.1.rotate", 11), ("pipeline.ladder.7", 9),
        ("nothing", 1), ("source.uri", 6), ("name", 2),
    ],
)  # fmt: skip
def test_what_the_service_refuses_is_told_by_its_line(write: Path, param: str, line: int) -> None:
    write.write_text(NIGHT)
    (found,) = read_declarations(write)
    with pytest.raises(BadRequest) as refused, found.naming_lines():
        raise BadRequest("It is wrong.", param=param)
    # Where the field is not there, the line is that of what it should stand in.
    assert refused.value.message == f"nightly.yaml, line {2 if param == 'nothing' else line}: It is wrong."
    with pytest.raises(BadRequest) as refused, found.naming_lines():
        raise BadRequest("It is wrong.")
    assert refused.value.message == "It is wrong."


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\nname: b\n", "line 2, column 1: `name` stands here a second time"),
        ("name: a\n  b: [1\n", "line 2"),
        ("a:\n\t- b\n", "line 2"),
        ("- a\n", "line 1, column 1: it declares nothing"),
        ("just a text", "it declares nothing"),
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
        ("on: 1\n", "line 1, column 1: a field's name must be a text"),
        ("a:\n  1: 2\n", "line 2, column 3: a field's name must be a text"),
        ("a: 1\nb: {c: .nan}\n", "line 2: `b.c` is nothing that JSON could hold"),
        ("a: !!binary aGk=\n", "line 1: `a` is nothing"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1"),
        ("a: &a [*a]\n", "JSON"),
        ("a: *nobody\n", "line 1"),
        ("\x00", "no YAML"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_used(write: Path, text: str, told: str) -> None:
    write.write_text(text)
    with pytest.raises(click.ClickException) as refused:
        read_declarations(write)
    assert refused.value.message.startswith("nightly.yaml")
    assert told in refused.value.message
    assert "\n" not in refused.value.message


def test_bytes_that_are_no_text(write: Path) -> None:
    write.write_bytes(b"name: \xff\xfe\x80\n")
    with pytest.raises(click.ClickException, match="UTF-8"):
        read_declarations(write)
