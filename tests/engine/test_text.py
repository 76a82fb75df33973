"""Text as it grows: no stop string leaks out, and pieces of characters wait for the rest."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.text import StopText, TokenText

LETTERS = st.text(alphabet="ab", max_size=30)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


@given(pieces=st.lists(st.text(alphabet="ab", max_size=4), max_size=12), stops=STOPS)
def test_what_is_let_out_is_the_text_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    text = StopText(stops)
    out = ""
    for piece in pieces:
        out += text.grow(piece)
        assert not any(stop in out for stop in stops)
    out += text.flush()
    met = any(stop in "".join(pieces) for stop in stops)
    assert text.stopped == met
    assert text.text == out
    assert "".join(pieces).startswith(out)
    if not met:
        assert out == "".join(pieces)


def test_the_earliest_stop_counts() -> None:
    text = StopText(["world", "o w"])
    assert text.grow("hello wor") == "hell"
    assert text.stopped


def test_what_may_begin_a_stop_waits() -> None:
    text = StopText(["\n\n"])
    assert text.grow("a\n") == "a"
    assert text.grow("b") == "\nb"
    assert text.grow("\n") == ""
    assert text.flush() == "\n"


@given(text=st.text(max_size=40))
def test_token_text_gives_whole_characters_only(text: str) -> None:
    grower = TokenText(decode)
    pieces = [grower.grow(byte) for byte in text.encode()]
    assert "".join(pieces) + grower.flush() == text
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


def test_token_text_ends_with_what_never_became_a_character() -> None:
    grower = TokenText(decode)
    assert grower.grow(ord("a")) == "a"
    assert grower.grow(0xE4) == ""
    assert grower.flush() == "\ufffd"
