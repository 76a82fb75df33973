"""YAML from a form: one document, no aliases; and what is shown for editing reads back as it was."""

from __future__ import annotations

import pytest

from batchinfer.domain.declared import Unreadable, read_text, write_text


def test_what_is_written_for_a_form_reads_back_the_same() -> None:
    value = {"prompt": "Read.\nThen say.", "when": "2026-11-22", "no": "no", "n": [1, 2.5, None], "名": {"a": "#"}}
    text = write_text(value)
    assert "prompt: |-\n" in text
    assert read_text(text)[1] == value
    assert (write_text(None), read_text("  \n# nothing")[1]) == ("", None)


@pytest.mark.parametrize(
    ("text", "told", "where"),
    [
        ("a: &x [1]\nb: *x", "aliases", "line 2, column 4"),
        ("a: 1\n---\nb: 2", "second document", "line 3, column 1"),
        ("a: [1", "no YAML", "line 1, column 6"),
        ("a: 1\na: 2", "second time", "line 2, column 1"),
        ("a:\n  b: .nan", "nothing that JSON could hold", "line 2"),
        ("[" * 50_000, "deeply", "line 1, column 65"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, told: str, where: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read_text(text)
    assert told in refused.value.sentence
    assert refused.value.where == where
