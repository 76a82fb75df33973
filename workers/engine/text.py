"""Text as it grows: from token ids to pieces, and up to a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: Decodes token ids, without special tokens.
Decode = Callable[[Sequence[int]], str]
#: What a decoder writes for bytes that are no character yet.
_UNFINISHED = "�"


class StopText:
    """Lets text out only as far as it cannot be the beginning of a stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self._out: list[str] = []
        #: A stop string was met; the text ends before it.
        self.stopped = False

    @property
    def text(self) -> str:
        """What was let out."""
        return "".join(self._out)

    def grow(self, addition: str) -> str:
        """Add text; what may be let out now."""
        if self.stopped:
            return ""
        self._held += addition
        ends = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return self._let_out(min(ends))
        return self._let_out(len(self._held) - self._count_doubtful())

    def flush(self) -> str:
        """The end has come: let out what was held back."""
        return "" if self.stopped else self._let_out(len(self._held))

    def _let_out(self, length: int) -> str:
        piece, self._held = self._held[:length], self._held[length:]
        self._out.append(piece)
        return piece

    def _count_doubtful(self) -> int:
        """Characters at the end that may turn out to begin a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest


class TokenText:
    """Turns token ids into pieces of text, keeping back a character whose bytes are not complete.

    Decoding a window that begins a piece earlier keeps the spaces that some decoders drop at a beginning; the
    method is that of vLLM's incremental detokenizer.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._from = self._read = 0

    def grow(self, token: int) -> str:
        """Add a token; the text that became complete."""
        self._ids.append(token)
        return self._take(final=False)

    def hold(self, token: int) -> None:
        """Add a token whose text nobody needs yet; `flush` gives it with the rest."""
        self._ids.append(token)

    def flush(self) -> str:
        """The end has come: what is left, complete or not."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._from : self._read])
        now = self._decode(self._ids[self._from :])
        if len(now) <= len(before) or (now.endswith(_UNFINISHED) and not final):
            return ""
        self._from, self._read = self._read, len(self._ids)
        return now[len(before) :]
