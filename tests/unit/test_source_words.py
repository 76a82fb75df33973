"""Globs, dates and names of sources."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batchinfer.domain.document_names import make_name, tell_apart
from batchinfer.domain.globs import compile_globs
from batchinfer.domain.source_dates import find_moment
from batchinfer.domain.sources import fill_source, parse_source
from batchinfer.errors import BadRequest


@pytest.mark.parametrize(
    ("glob", "path", "taken"),
    [
        ("*.pdf", "a.pdf", True), ("*.pdf", "x/y/a.pdf", True), ("/*.pdf", "x/a.pdf", False), ("/*.pdf", "a.pdf", True),
        ("in/*.pdf", "in/a.pdf", True), ("in/*.pdf", "in/x/a.pdf", False), ("in/**/*.pdf", "in/a.pdf", True),
        ("in/**/*.pdf", "in/x/y/a.pdf", True), ("**/y/*", "in/x/y/a.pdf", True), ("in/**", "in/x/y", True),
        ("in/**", "other/x", False), ("**", "a/b", True), ("a?c", "abc", True), ("a?c", "a/c", False),
        ("[ab].pdf", "b.pdf", True), ("[!ab].pdf", "b.pdf", False), ("*.PDF", "a.pdf", False), ("*", ".hidden", True),
    ],
)  # fmt: skip
def test_globs_take_what_they_say(glob: str, path: str, taken: bool) -> None:
    assert compile_globs([glob], []).take(path) is taken
    assert compile_globs([], [glob]).take(path) is (not taken and not path.startswith("."))


def test_hidden_files_are_left_out_unless_they_are_asked_for() -> None:
    assert not compile_globs([], []).take("a/.DS_Store")
    assert compile_globs([], []).take("a/b")


def test_a_glob_made_to_take_for_ever_takes_no_time() -> None:
    begun = time.process_time()
    for glob in ("*a" * 500 + "b", "/".join(["**", "*a*a"] * 30) + "/b"):
        assert not compile_globs([glob], []).take("/".join(["a" * 250] * 12))
    assert time.process_time() - begun < 20


@pytest.mark.parametrize("glob", ["a//b", "../x", "a/./b", "a/", "/".join("a" * 65)])
def test_globs_that_can_take_nothing_are_refused(glob: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_source({"uri": "/in", "include": [glob]})
    assert caught.value.param == "source.include.0"


def test_dates_are_filled_in_as_the_clocks_of_the_schedule_show_them() -> None:
    source = parse_source(
        {"uri": "s3://b/{date:%Y}/{date:%m-%d}", "include": ["{date-1d:%Y%m%d}*.pdf", "{date+1d:%j-%H%%}"]}
    )
    assert source.has_date
    moment = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)
    filled = fill_source(source, find_moment(moment, None))
    assert (filled.uri, filled.include) == ("s3://b/2026/03-01", ("20260228*.pdf", "061-00%"))
    filled = fill_source(source, find_moment(moment, ZoneInfo("America/New_York")))
    assert (filled.uri, filled.include[0]) == ("s3://b/2026/02-28", "20260227*.pdf")
    assert not filled.has_date


@pytest.mark.parametrize(
    "uri", ["/in/{date}", "/in/{day:%Y}", "/in/{date:%Q}", "/in/{date:", "/in/}", "/in/{}", "/in/{date-1w:%Y}",
            "/in/{date:%Y{date:%Y}}", "/in/{date:%a}"]
)  # fmt: skip
def test_dates_that_cannot_be_filled_in_are_refused_at_declaration(uri: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_source({"uri": uri})
    assert (caught.value.code, caught.value.param) == ("invalid_source", "source.uri")


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_names_are_safe_whatever_the_path_is(path: str, uri: str) -> None:
    name = make_name(path, uri)
    parts = name.split("/")
    assert name
    assert not name.startswith("/")
    assert not {"", ".", ".."} & set(parts)
    assert name.isprintable()
    assert "\\" not in name
    assert len(name.encode()) < 1100
    assert all(len(part.encode()) < 230 for part in parts)


def test_plain_names_stay_as_they_are_and_changed_ones_are_marked() -> None:
    assert make_name("2026/in voice (1).pdf", "u") == "2026/in voice (1).pdf"
    changed = [make_name("a\x01.pdf", "u1"), make_name("a\x02.pdf", "u2"), make_name("../a.pdf", "u3")]
    assert len(set(changed)) == 3
    assert changed[2].startswith("a~")
    assert changed[2].endswith(".pdf")


@given(st.lists(st.sampled_from(["a.pdf", "a~2.pdf", "b"]), max_size=30))
def test_one_name_that_comes_again_is_told_apart(names: list[str]) -> None:
    apart = tell_apart(names)
    assert len(set(apart)) == len(names)
    assert apart[: len(set(names))] == names[: len(set(names))] or len(set(names)) < len(names)
