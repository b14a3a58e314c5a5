"""Pages of a gateway process: handed over to the agent whole, over the agent's own Unix socket, bodies as they come.

The process checks who may read a page (the same rules, from the same table) and passes on keys, so that the agent knows
whose files and batches are meant. One connection a page, a bounded number at once. Not here: engine paths.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

import httptools

from covey_gateway.core.errors import Code, GatewayError, unavailable
from covey_gateway.core.pages import Access, PlainRequest, PlainResponse, Route, Routes

PIECE_BYTES = 64 * 1024
_NOT_PASSED_ON = frozenset(
    {
        "connection", "content-length", "date", "expect", "keep-alive", "origin", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers of one hop, and what either side says for itself (a page of another origin was judged already)."""


@dataclass(frozen=True, slots=True)
class PageRoute:
    """One line of the agent's table of pages."""

    method: str
    path: str
    prefix: bool
    access: Access
    upload_bytes_max: int


def described(routes: Routes) -> list[PageRoute]:
    """The table, for a process that has none of the handlers."""
    return [
        PageRoute(method, path, prefix, route.access, route.upload_bytes_max)
        for (method, path), prefix, route in routes.items()
    ]


class PageRelay:
    """`pages_max`: handed over at once; the next one is refused."""

    def __init__(self, agent_socket: str, pages_max: int) -> None:
        self._agent_socket = agent_socket
        self._pages_max = pages_max
        # Weak: a page whose client left before its first byte may be forgotten without a word.
        self._connections: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()

    def routes(self, table: Iterable[PageRoute]) -> Routes:
        exact: dict[tuple[str, str], Route] = {}
        prefixes: dict[tuple[str, str], Route] = {}
        for each in table:
            among = prefixes if each.prefix else exact
            among[each.method, each.path] = Route(self.hand_over, each.access, each.upload_bytes_max)
        return Routes(exact, prefixes)

    async def hand_over(self, request: PlainRequest) -> PlainResponse:
        """Raises GatewayError where the agent does not answer, or the rest of an upload does not come."""
        if sum(not each.is_closing() for each in self._connections) >= self._pages_max:
            raise unavailable(Code.GATEWAY_FULL, "Too many pages are being answered. Retry in a moment.", 1)
        try:
            reader, writer = await asyncio.open_unix_connection(self._agent_socket, limit=PIECE_BYTES)
        except OSError:
            raise _unanswered() from None
        self._connections.add(writer)
        answer = _Answer(reader)
        try:
            await self._exchange(request, writer, answer)
        except BaseException:
            writer.close()
            raise
        if answer.bodiless:
            writer.close()
            return PlainResponse(answer.status, answer.content_type, b"", answer.headers)
        pieces = _pieces(answer, writer, head_only=request.method == "HEAD")
        return PlainResponse(answer.status, answer.content_type, b"", answer.headers, pieces, answer.length)

    async def _exchange(self, request: PlainRequest, writer: asyncio.StreamWriter, answer: _Answer) -> None:
        """Until the head is there. An answer that comes before the end of an upload stops the upload."""
        sending = asyncio.ensure_future(_send(request, writer))
        hearing = asyncio.ensure_future(answer.read_head())
        try:
            await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if not hearing.done() and isinstance(sending.exception(), GatewayError):
                sending.result()
            await hearing
        except (OSError, EOFError, httptools.HttpParserError):
            raise _unanswered() from None
        finally:
            for task in (sending, hearing):
                task.cancel()
            await asyncio.gather(sending, hearing, return_exceptions=True)


async def _pieces(answer: _Answer, writer: asyncio.StreamWriter, head_only: bool) -> AsyncGenerator[bytes, None]:
    """Raises GatewayError where the body breaks off."""
    try:
        while not head_only and (piece := await answer.read_piece()):
            yield piece
    except (OSError, EOFError, httptools.HttpParserError):
        raise _unanswered() from None
    finally:
        writer.close()


class _Answer:
    """What the agent answers; an httptools protocol. `length` is None for a body in chunks."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._arrived: list[bytes] = []
        self._head_complete = False
        self._complete = False
        self._given: list[tuple[str, str]] = []
        self.status = 0

    async def read_head(self) -> None:
        """Raises OSError, EOFError and HttpParserError."""
        while not self._head_complete:
            await self._read()
        self.status = self._parser.get_status_code()

    async def read_piece(self) -> bytes:
        """Empty at the end. Raises OSError, EOFError and HttpParserError."""
        while not self._arrived and not self._complete:
            await self._read()
        piece = b"".join(self._arrived)
        self._arrived.clear()
        return piece

    async def _read(self) -> None:
        data = await self._reader.read(PIECE_BYTES)
        if not data:
            raise EOFError
        self._parser.feed_data(data)

    @property
    def bodiless(self) -> bool:
        return self.status in (204, 304)

    @property
    def length(self) -> int | None:
        given = self._value("content-length")
        return int(given) if given.isdecimal() else None

    @property
    def content_type(self) -> str:
        return self._value("content-type")

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return tuple(pair for pair in self._given if pair[0] not in _NOT_PASSED_ON and pair[0] != "content-type")

    def _value(self, wanted: str) -> str:
        return next((value for name, value in self._given if name == wanted), "")

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._given.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._head_complete = True

    def on_body(self, body: bytes) -> None:
        self._arrived.append(body)

    def on_message_complete(self) -> None:
        self._complete = True


async def _send(request: PlainRequest, writer: asyncio.StreamWriter) -> None:
    """Raises OSError, and GatewayError where the rest of an upload does not come."""
    declared = request.headers.get("content-length", "")
    if request.pieces is None:
        framing = f"content-length: {len(request.body)}"
    else:
        framing = f"content-length: {declared}" if declared else "transfer-encoding: chunked"
    writer.write(_head(request, framing) + request.body)
    await writer.drain()
    if request.pieces is None:
        return
    async for piece in request.pieces:
        writer.write(piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
    if not declared:
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _head(request: PlainRequest, framing: str) -> bytes:
    """Values came through the parser: there is nothing in them that ends a line."""
    target = request.path + (f"?{request.query}" if request.query else "")
    headers: Sequence[tuple[str, str]] = [
        (name, value) for name, value in request.headers.items() if name not in _NOT_PASSED_ON
    ]
    lines = [f"{request.method} {target} HTTP/1.1", framing, "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if "host" not in request.headers:
        lines.append("host: localhost")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _unanswered() -> GatewayError:
    message = "The agent of this gateway process did not answer. Retry in a moment."
    return unavailable(Code.NOTHING_ABLE_TO_SERVE, message, 1)
