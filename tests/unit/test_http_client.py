"""The engine's HTTP client against a scripted server on a Unix socket."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from covey_mesh.core.exchange import Failure, FailureCode, PiecewiseSink
from covey_node.io.http_client import EngineClient, EngineRequest

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
pytestmark = pytest.mark.asyncio


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole(status: str, body: bytes, extra: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n".encode()
    return head + extra + b"\r\n" + body


class Sink(PiecewiseSink):
    def __init__(self) -> None:
        self.told: list[object] = []
        self.ended = asyncio.Event()
        self.some = asyncio.Event()

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.told.append((status, content_type))

    def data(self, chunk: bytes) -> None:
        self.told.append(chunk)
        self.some.set()

    def end(self, failure: Failure | None) -> None:
        self.told.append(failure)
        self.ended.set()

    @property
    def body(self) -> bytes:
        return b"".join(piece for piece in self.told if isinstance(piece, bytes))

    @property
    def failure(self) -> Failure | None:
        last = self.told[-1]
        assert last is None or isinstance(last, Failure)
        return last


class Server:
    """Each connection is handled by `script`; `requests` are those that were read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.script: Script = self.keep_answering
        self.answer = whole("200 OK", b"{}")
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed.set()
            writer.close()

    async def read_request(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))

    async def keep_answering(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await self.read_request(reader)
            writer.write(self.answer)
            await writer.drain()

    def once(self, *pieces: bytes, hold: bool = False) -> Script:
        """Answers one request with these writes, then closes, or holds until the client is gone."""

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.read_request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if hold:
                await reader.read()

        return script


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory(prefix="cvy", dir="/tmp") as folder:
        made = Server(str(Path(folder) / "s"))
        listening = await asyncio.start_unix_server(made.handle, made.path)
        yield made
        listening.close()
        await asyncio.sleep(0)


def ask(client: EngineClient, body: bytes = b"{}") -> tuple[Sink, EngineRequest]:
    sink = Sink()
    request = client.open("POST", "/v1/x", body, sink)
    assert sink.told == []
    return sink, request


async def answer(client: EngineClient, body: bytes = b"{}") -> Sink:
    sink, _ = ask(client, body)
    await asyncio.wait_for(sink.ended.wait(), 20)
    return sink


async def test_connections_are_kept_and_reused(server: Server) -> None:
    client = EngineClient(server.path, 4)
    for number in range(5):
        assert (await answer(client, b'{"n":%d}' % number)).told == [(200, "application/json"), b"{}", None]
    assert server.connections == 1
    assert [request[-8:] for request in server.requests][:1] == [b'\n{"n":0}']
    client.close()


async def test_connections_are_bounded_and_the_rest_waits_in_order(server: Server) -> None:
    client = EngineClient(server.path, 2)
    sinks = [ask(client, b'{"n":%d}' % n)[0] for n in range(9)]
    for sink in sinks:
        await asyncio.wait_for(sink.ended.wait(), 20)
    assert server.connections == 2
    assert [request[-2:-1] for request in server.requests] == [b"%d" % n for n in range(9)]
    assert client.active == 0
    client.close()


async def test_chunked_coding_is_taken_off_wherever_reads_split(server: Server) -> None:
    events = [b'data: {"n":%d}\n\n' % n for n in range(3)]
    wire = SSE + b"".join(map(chunk, events)) + chunk(b"")
    client = EngineClient(server.path, 1)
    for cut in range(1, len(wire)):
        server.script = server.once(wire[:cut], wire[cut:])
        sink = await answer(client)
        assert sink.told[0] == (200, "text/event-stream")
        assert sink.body == b"".join(events)
        assert sink.failure is None
    client.close()


@pytest.mark.parametrize(
    ("wire", "code", "retry_after_ms"),
    [
        (whole("503 Busy", b'{"error":{"message":"full","code":503}}'), FailureCode.RESOURCE_EXHAUSTED, 500),
        (whole("503 Busy", b"", b"retry-after: 2\r\n"), FailureCode.RESOURCE_EXHAUSTED, 2000),
        (whole("500 Oops", b'{"error":{"message":"dead","code":500}}'), FailureCode.ENGINE_FAILED, 0),
        (whole("502 Oops", b"<html>" * 50_000), FailureCode.ENGINE_FAILED, 0),
        (
            SSE + chunk(b'data: {"error":{"message":"full","code":503}}\n\n') + chunk(b"data: [DONE]\n\n") + chunk(b""),
            FailureCode.RESOURCE_EXHAUSTED,
            500,
        ),
        (SSE + chunk(b'data: {"error":{"message":"x"}}\n\n') + chunk(b""), FailureCode.ENGINE_FAILED, 0),
    ],
    ids=["503", "503 retry-after", "500", "502 huge", "200 full", "200 error"],
)
async def test_an_error_without_an_answer_is_a_failure(
    server: Server, wire: bytes, code: FailureCode, retry_after_ms: int
) -> None:
    server.answer = wire
    client = EngineClient(server.path, 1)
    for _ in range(2):  # and the connection stays usable
        sink = await answer(client)
        assert len(sink.told) == 1
        assert sink.failure is not None
        assert (sink.failure.code, sink.failure.retry_after_ms) == (code, retry_after_ms)
    client.close()


async def test_4xx_is_an_answer_also_inside_a_stream(server: Server) -> None:
    client = EngineClient(server.path, 1)
    server.answer = whole("404 No", b'{"error":{}}')
    assert (await answer(client)).told == [(404, "application/json"), b'{"error":{}}', None]
    error = b'{"error":{"message":"bad","code":400}}'
    server.answer = SSE + chunk(b"data: " + error + b"\n\n") + chunk(b"data: [DONE]\n\n") + chunk(b"")
    assert (await answer(client)).told == [(400, "application/json"), error, None]
    client.close()


async def test_an_error_after_the_first_event_is_the_clients_to_see(server: Server) -> None:
    server.answer = SSE + chunk(b'data: {"n":1}\n\n') + chunk(b'data: {"error":{"code":500}}\n\n') + chunk(b"")
    client = EngineClient(server.path, 1)
    sink = await answer(client)
    assert sink.told[0] == (200, "text/event-stream")
    assert sink.failure is None
    client.close()


@pytest.mark.parametrize("wire", [b"", b"not http at all\r\n\r\n", SSE + chunk(b"data: 1\n\n"), SSE])
async def test_a_broken_answer_is_a_failure(server: Server, wire: bytes) -> None:
    server.script = server.once(wire)
    client = EngineClient(server.path, 1)
    sink = await answer(client)
    assert sink.failure is not None
    assert sink.failure.code is FailureCode.ENGINE_FAILED
    assert client.active == 0
    server.script = server.keep_answering
    assert (await answer(client)).failure is None
    client.close()


async def test_headers_are_bounded(server: Server) -> None:
    server.script = server.once(b"HTTP/1.1 200 OK\r\n" + b"x-filler: %s\r\n" % (b"y" * 1000) * 200)
    client = EngineClient(server.path, 1)
    failure = (await answer(client)).failure
    assert failure is not None
    assert failure.code is FailureCode.ENGINE_FAILED
    client.close()


async def test_nobody_listens() -> None:
    client = EngineClient("/nonexistent/socket", 2)
    failures = [(await answer(client)).failure for _ in range(3)]
    assert {failure.code for failure in failures if failure} == {FailureCode.ENGINE_FAILED}
    assert client.active == 0
    client.close()


async def test_cancel_closes_the_connection_and_silences_the_sink(server: Server) -> None:
    server.script = server.once(SSE + chunk(b"data: 1\n\n"), hold=True)
    client = EngineClient(server.path, 1)
    sink, request = ask(client)
    await asyncio.wait_for(sink.some.wait(), 20)
    told = list(sink.told)
    request.cancel()
    request.cancel()
    await asyncio.wait_for(server.closed.wait(), 20)
    assert sink.told == told
    assert client.active == 0
    server.script = server.keep_answering
    assert (await answer(client)).failure is None
    client.close()


async def test_cancel_while_waiting_for_a_connection(server: Server) -> None:
    client = EngineClient(server.path, 1)
    first, _ = ask(client)
    second, request = ask(client)
    third, _ = ask(client)
    request.cancel()
    await asyncio.wait_for(third.ended.wait(), 20)
    assert (first.failure, third.failure, second.told) == (None, None, [])
    assert len(server.requests) == 2
    client.close()


async def test_close_fails_what_is_in_flight(server: Server) -> None:
    server.script = server.once(SSE + chunk(b"data: 1\n\n"), hold=True)
    client = EngineClient(server.path, 1)
    running, _ = ask(client)
    waiting, _ = ask(client)
    await asyncio.wait_for(running.some.wait(), 20)
    client.close()
    for sink in (running, waiting):
        await asyncio.wait_for(sink.ended.wait(), 20)
        assert sink.failure is not None
        assert sink.failure.code is FailureCode.ENGINE_FAILED
    late = await answer(client)
    assert late.failure is not None


async def test_a_paused_answer_waits_in_the_kernel(server: Server) -> None:
    piece = chunk(b"x" * 60_000)
    server.script = server.once(SSE + chunk(b"data: 1\n\n"), *[piece] * 200, chunk(b""), hold=True)
    client = EngineClient(server.path, 1)
    sink, request = ask(client)
    await asyncio.wait_for(sink.some.wait(), 20)
    request.pause()
    received = len(sink.body)
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(sink.body) == received < 200 * 60_000
    request.resume()
    await asyncio.wait_for(sink.ended.wait(), 20)
    assert len(sink.body) == 200 * 60_000 + len(b"data: 1\n\n")
    client.close()
