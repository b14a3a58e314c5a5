"""The least that Python can do: `python -m bench.datapath.bare_relay PORT ENGINE_PORT...`, engines in turns.

uvloop and httptools on both sides, bytes passed on as they come: no keys, no admission, no decision, no record, no
retry, no metric. Beside covey in the table it tells what the language costs and what covey does.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable
from typing import Any

import httptools
import uvloop


class Engines:
    """Idle connections to the engines."""

    def __init__(self, ports: list[int]) -> None:
        self._turns = itertools.cycle(ports)
        self._idle: list[EngineConnection] = []

    def ask(self, request: bytes, client: ClientConnection) -> None:
        if self._idle:
            self._idle.pop().send(request, client)
        else:
            task = asyncio.ensure_future(self._dial(request, client))
            client.dialing = task

    async def _dial(self, request: bytes, client: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        _, engine = await loop.create_connection(lambda: EngineConnection(self._idle), "127.0.0.1", next(self._turns))
        engine.send(request, client)


class EngineConnection(asyncio.Protocol):
    def __init__(self, idle: list[EngineConnection]) -> None:
        self._idle = idle
        self._client: ClientConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def send(self, request: bytes, client: ClientConnection) -> None:
        self._client = client
        self._done = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        client = self._client
        if client is None:
            self._transport.abort()
            return
        self._parser.feed_data(data)
        client.transport.write(data)
        if self._done:
            self._client = None
            self._idle.append(self)

    def on_message_complete(self) -> None:
        self._done = True

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        if self._client is not None:
            self._client.transport.abort()


class ClientConnection(asyncio.Protocol):
    dialing: asyncio.Future[None] | None = None

    def __init__(self, ask: Callable[[bytes, ClientConnection], None]) -> None:
        self._ask = ask
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        head = b"%b %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._ask(head % (self._parser.get_method(), self._url, len(self._body)) + self._body, self)


async def serve(port: int, engine_ports: list[int]) -> None:
    engines = Engines(engine_ports)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ClientConnection(engines.ask), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), [int(word) for word in sys.argv[2:]]))
