"""An HTTP edge on loopback with a front door that the test plays, and raw sockets on the other side."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import uvloop
from tests.support.gateway import CountingObserver

from covey_gateway.core.front import AnswerHead, ClientSink, IncomingRequest
from covey_gateway.core.keys import KeyRing
from covey_gateway.core.observer import Observer
from covey_gateway.core.pages import Routes
from covey_gateway.core.settings import HttpSettings
from covey_gateway.io.http_server import HttpServer
from covey_mesh.core.exchange import Failure
from covey_mesh.core.names import NodeId

NODE = NodeId("b" * 32)
STREAM, JSON = "text/event-stream", "application/json"
WAIT_S = 8.0
DEFAULTS = HttpSettings()
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test on the production event loop, bounded."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(WAIT_S * 3):
                await test(*args, **kwargs)

        uvloop.run(bounded())

    return run


@dataclass
class Call:
    """One request as the front door got it; also its ActiveRequest."""

    request: IncomingRequest
    sink: ClientSink
    request_id: str = "req-1"
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    paused: bool = False
    pauses: int = 0
    resumed: asyncio.Event = field(default_factory=asyncio.Event)

    def cancel(self) -> None:
        self.cancelled.set()

    def pause(self) -> None:
        self.paused = True
        self.pauses += 1
        self.resumed.clear()

    def resume(self) -> None:
        self.paused = False
        self.resumed.set()

    def head(self, content_type: str = JSON, status: int = 200, **changes: Any) -> None:
        head = AnswerHead(status, content_type, self.request_id, "m", NODE, "host-b", 1, "best of 2")
        self.sink.head(replace(head, **changes))

    def answer(self, body: bytes = b"{}", **changes: Any) -> None:
        self.head(**changes)
        self.sink.data(body)
        self.sink.end(None)

    def broken(self, failure: Failure) -> None:
        self.sink.end(failure)


class FakeDoor:
    """Hands each request to the test; `auto` answers by itself."""

    def __init__(self, auto: Callable[[Call], None] | None = None) -> None:
        self.calls: list[Call] = []
        self._auto = auto
        self._arrived: asyncio.Queue[Call] = asyncio.Queue()

    def submit(self, request: IncomingRequest, sink: ClientSink) -> Call:
        call = Call(request, sink)
        self.calls.append(call)
        if self._auto is not None:
            asyncio.get_running_loop().call_soon(self._auto, call)
        self._arrived.put_nowait(call)
        return call

    async def next(self) -> Call:
        async with asyncio.timeout(WAIT_S):
            return await self._arrived.get()


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes = b""


class RawClient:
    """A socket with as much HTTP as is needed to read answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, body: bytes = b"{}", path: str = "/v1/completions", *headers: str) -> None:
        await self.send(post(body, path, *headers))

    async def head(self) -> Response:
        async with asyncio.timeout(WAIT_S):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name not in headers, f"{name} twice"
            headers[name] = value
        return Response(int(first.split(" ")[1]), headers)

    async def response(self, bodiless: bool = False) -> Response:
        response = await self.head()
        if bodiless or response.status == 204:
            return response
        async with asyncio.timeout(WAIT_S):
            if "transfer-encoding" in response.headers:
                assert "content-length" not in response.headers
                while chunk := await self.chunk():
                    response.body += chunk
            elif "content-length" in response.headers:
                response.body = await self.reader.readexactly(int(response.headers["content-length"]))
            else:
                response.body = await self.reader.read()
        return response

    async def chunk(self) -> bytes:
        async with asyncio.timeout(WAIT_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def rest(self) -> bytes:
        """Everything until the server closes; what a reset leaves of it."""
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
        return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def post(body: bytes = b"{}", path: str = "/v1/completions", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Edge:
    """The server, its door and its clock."""

    def __init__(self, server: HttpServer, door: FakeDoor, observer: CountingObserver, clock: FakeClock) -> None:
        self.server, self.door, self.observer, self.clock = server, door, observer, clock
        self._clients: list[RawClient] = []

    async def connect(self, host: str = "127.0.0.1", **options: Any) -> RawClient:
        client = RawClient(*await asyncio.open_connection(host, self.server.port, **options))
        self._clients.append(client)
        return client

    async def connect_unix(self) -> RawClient:
        client = RawClient(*await asyncio.open_unix_connection(self.server.settings.unix_path))
        self._clients.append(client)
        return client

    async def ask(self, data: bytes) -> Response:
        """One request on a connection of its own."""
        client = await self.connect()
        await client.send(data)
        return await client.response(bodiless=data.startswith(b"HEAD"))

    def pass_time(self, seconds: float) -> None:
        """By the server's clock; time-outs that are due strike."""
        self.clock.now_s += seconds
        self.server.look_over()

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.server.close()


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@contextlib.asynccontextmanager
async def edge(
    auto: Callable[[Call], None] | None = None,
    routes: Routes | None = None,
    keys: dict[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Edge]:
    door, observer, clock = FakeDoor(auto), CountingObserver(), FakeClock()
    checked: Observer = observer
    made = HttpSettings(**({"port": 0} | settings))
    server = HttpServer(door, KeyRing(keys or {}), routes or Routes({}), made, checked, clock)
    await server.start()
    running = Edge(server, door, observer, clock)
    try:
        yield running
    finally:
        await running.close()


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Bounded; for what only the kernel knows the time of."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - nothing tells when the kernel is done
            await asyncio.sleep(0.005)
    assert condition(), what


Answering = Callable[[Call], Awaitable[None]]


def whole(call: Call) -> None:
    """Answers with the number of bytes that came."""
    call.answer(b'{"echo":%d}' % len(call.request.body))


def code_of(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])
