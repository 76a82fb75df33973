"""One request to the server and its answer: sent, read piece by piece, and what can go wrong named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.engine.chat_answers import MOST_BYTES, Answer, Lines
from workers.engine.protocol import EngineFailure
from workers.engine.upstream import UpstreamError, garbled, read_refusal

if TYPE_CHECKING:
    import httpx

_UNREACHABLE = EngineFailure("upstream_unreachable", "The server that answers for this engine is not there.", True)
_DROPPED = EngineFailure("upstream_dropped", "The server dropped the connection before the answer's end.", True)
_SILENT = EngineFailure("upstream_silent", "The server said nothing for too long.", True)
_OTHER = EngineFailure(
    "upstream_other_model", "The server answered with another model than it was asked for.", True, 5.0
)
#: Of a refusal's body, in bytes.
_MOST_REFUSAL = 65_536


@dataclass(frozen=True)
class Patience:
    """Seconds: to connect, without a byte of a stream, and for a whole answer."""

    connect_s: float
    silence_s: float
    answer_s: float


@dataclass(frozen=True)
class Exchange:
    """How requests are put to one server. `names` are those under which its model may answer; empty: any."""

    client: httpx.AsyncClient
    url: str
    patience: Patience
    names: frozenset[str]

    async def ask(self, body: bytes, answer: Answer, *, stream: bool, on_piece: Callable[[str], None]) -> None:
        """Fill `answer`; `on_piece` is called for each piece of text, and with "" for other signs of life.

        Raises UpstreamError. Cancelled, it drops the connection, by which servers know that nobody waits any more.
        """
        import httpx

        try:
            async with asyncio.timeout(self.patience.answer_s):
                await self._ask(body, answer, stream, on_piece)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UpstreamError(_UNREACHABLE, gone=True) from error
        except (httpx.TimeoutException, TimeoutError) as error:
            raise UpstreamError(_SILENT) from error
        except httpx.HTTPError as error:
            raise UpstreamError(_DROPPED) from error

    async def _ask(self, body: bytes, answer: Answer, stream: bool, on_piece: Callable[[str], None]) -> None:
        import httpx

        read_s = self.patience.silence_s if stream else self.patience.answer_s
        timeout = httpx.Timeout(self.patience.answer_s, connect=self.patience.connect_s, read=read_s, pool=None)
        async with self.client.stream("POST", self.url, content=body, timeout=timeout) as response:
            if response.status_code != httpx.codes.OK:
                raise read_refusal(response.status_code, response.headers, await _read(response, _MOST_REFUSAL))
            if stream and "event-stream" in response.headers.get("content-type", ""):
                await self._follow(response, answer, on_piece)
            else:
                on_piece(answer.take_whole(await _read(response, MOST_BYTES)))
        self._check_model(answer)

    async def _follow(self, response: httpx.Response, answer: Answer, on_piece: Callable[[str], None]) -> None:
        lines = Lines()
        async for data in response.aiter_raw():
            pieces = [piece for line in lines.feed(data) if (piece := answer.take_line(line)) is not None]
            self._check_model(answer)
            for piece in pieces or [""]:
                on_piece(piece)

    def _check_model(self, answer: Answer) -> None:
        if self.names and answer.model is not None and answer.model not in self.names:
            raise UpstreamError(_OTHER, busy=True)


async def _read(response: httpx.Response, most: int) -> bytes:
    """The whole body. Raises UpstreamError for one that is too long; of a refusal the beginning is enough."""
    pieces, size = [], 0
    async for data in response.aiter_raw():
        pieces.append(data)
        size += len(data)
        if size > most:
            if most == MOST_BYTES:
                raise garbled("it is too long")
            break
    return b"".join(pieces)[:most]
