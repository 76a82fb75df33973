"""Users' text is text: what looks like a control or image token in it is read as plain characters.

A chat template is rendered with a mark in place of each text. The family's processor expands the pictures in
that, and when it comes to the tokenizer, the marks become the texts: as one string where that gives no token
that the template did not write itself (so that tokens are those of transformers' own `apply_chat_template`),
else piece by piece, with special tokens recognised in the template's pieces only.
"""

from __future__ import annotations

import functools
import re
import secrets
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: What `new_mark` makes.
_MARK = re.compile("(Zq[0-9a-f]{24}qZ)")


def new_mark() -> str:
    """A string that no user can have written, and that templates leave as it is."""
    return f"Zq{secrets.token_hex(12)}qZ"


class PlainTextTokenizer:
    """Stands in for a processor's tokenizer. `control_ids` are ids that only a template may bring about."""

    def __init__(self, tokenizer: Any, control_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._control = frozenset(control_ids)
        self._written = [tokenizer.convert_ids_to_tokens(token) for token in sorted(self._control)]
        self._marks = threading.local()
        # A tokenizer changes its own settings in a call, so only one thread may be in it.
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    @contextmanager
    def speaking(self, texts: Mapping[str, str]) -> Iterator[None]:
        """Within this block and thread, each mark stands for its text."""
        self._marks.texts = texts
        try:
            yield
        finally:
            self._marks.texts = {}

    def __call__(self, text: str | list[str], *args: Any, **options: Any) -> Any:
        texts: Mapping[str, str] = getattr(self._marks, "texts", {})
        with self._lock:
            if not texts or not isinstance(text, list):
                return self._tokenizer(text, *args, **options)
            joined = [_MARK.sub(lambda mark: texts.get(mark.group(), mark.group()), one) for one in text]
            tensors = options.pop("return_tensors", None)
            encoded = self._tokenizer(joined, *args, **options)
            for row, one in enumerate(text):
                bare = self._ids("".join(piece for piece in _MARK.split(one) if piece not in texts), options)
                if self._controls(encoded["input_ids"][row]) != self._controls(bare):
                    self._replace(encoded, row, self._encode_apart(_MARK.split(one), texts, options))
            return encoded.convert_to_tensors(tensors) if tensors else encoded

    def _controls(self, ids: list[int]) -> list[int]:
        return [token for token in ids if token in self._control]

    def _ids(self, text: str, options: Mapping[str, Any]) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=options.get("add_special_tokens", True))["input_ids"]
        return list(ids)

    def _encode_apart(self, pieces: list[str], texts: Mapping[str, str], options: Mapping[str, Any]) -> list[int]:
        """Ids of a template's pieces and the texts between them, with what a tokenizer adds at both ends."""
        template = "".join(piece for piece in pieces if piece not in texts)
        bare = self._ids(template, {"add_special_tokens": False})
        whole = self._ids(template, options)
        front = next((at for at in range(len(whole) + 1) if whole[at : at + len(bare)] == bare), 0)
        ids = whole[:front]
        for piece in pieces:
            if piece in texts:
                ids += self._encode_plain(texts[piece])
            elif piece:
                ids += self._ids(piece, {"add_special_tokens": False})
        return ids + whole[front + len(bare) :]

    def _encode_plain(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if not self._controls(ids):
            return list(ids)
        # Image tokens that a tokenizer does not call special are cut in two, which leaves plain text.
        cut = new_mark()
        for written in self._written:
            text = text.replace(written, written[:1] + cut + written[1:])
        encode = functools.partial(self._tokenizer, add_special_tokens=False, split_special_tokens=True)
        halves = [encode(half)["input_ids"] for half in text.split(cut)]
        return [token for half in halves for token in half if token not in self._control]

    def _replace(self, encoded: Any, row: int, ids: list[int]) -> None:
        encoded["input_ids"][row] = ids
        for name, fill in (("attention_mask", 1), ("token_type_ids", 0)):
            if name in encoded:
                encoded[name][row] = [fill] * len(ids)
