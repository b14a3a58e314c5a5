"""CPU that the gateway's edge, and edge and request runner together, cost a request and a streamed chunk.

A server process (HTTP edge, real request runner, a pool in memory whose machine answers from prepared bytes) is driven
by a small closed-loop client in this process; the server's own CPU time is read from the kernel, so the client's does
not count. A bare uvloop protocol that parses the same requests with httptools and writes the same bytes is the floor:
the ratio to it is the figure to compare across machines. "edge" is the HTTP edge before a front door that answers from
prepared bytes; with --new-heads no request's head is like the one before on its connection.

    python bench/gateway_cost.py [--requests 20000] [--chunks 64] [--clients 8] [--new-heads]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import multiprocessing
import random
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import httptools
import uvloop

from covey_gateway.core.front import ActiveRequest, AnswerHead, ClientSink, FrontDoor, IncomingRequest
from covey_gateway.core.keys import KeyRing
from covey_gateway.core.observer import SilentObserver
from covey_gateway.core.settings import HttpSettings, RequestSettings
from covey_gateway.io.http_server import HttpServer
from covey_gateway.io.runner import RequestRunner
from covey_gateway.io.standard_pages import StandardPages
from covey_mesh.core.asking import Answer, Ask, AttemptReport, Decision, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.exchange import ForwardedRequest, ResponseSink
from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId
from covey_scheduler.core.leaderless import choose_alone

SELF, NODE = NodeId("f" * 32), NodeId("a" * 32)
WORDS = "the quick brown fox jumps over the lazy dog " * 12
WHOLE = json.dumps({"id": "x", "choices": [{"index": 0, "message": {"content": "ok"}}], "usage": {}}).encode()
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":" word"}}]}\n\n'
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


TRACE = b"x-trace-id: 00000000"


def request_bytes(stream: bool) -> bytes:
    body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": WORDS}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\nContent-Length: %d\r\n\r\n"
    return head % (TRACE, len(body)) + body


class PreparedMachine:
    """Answers an attempt from prepared bytes: one event a turn of the loop, or the whole at once."""

    def __init__(self, request: ForwardedRequest, sink: ResponseSink, chunks: int) -> None:
        self._sink, self._left = sink, chunks
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._stream if request.streaming else self._whole)

    def _whole(self) -> None:
        self._sink.head(200, "application/json")
        self._sink.data(WHOLE)
        self._sink.end(None)

    def _stream(self) -> None:
        self._sink.head(200, "text/event-stream")
        self._next()

    def _next(self) -> None:
        if not self._left:
            self._sink.end(None)
            return
        self._left -= 1
        self._sink.data(EVENT)
        self._loop.call_soon(self._next)

    def cancel(self) -> None:
        self._left = 0

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class PreparedDoor:
    """In the runner's place: the same answers without it."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()

    def submit(self, request: IncomingRequest, sink: ClientSink) -> ActiveRequest:
        answer = PreparedAnswer(sink, self._chunks)
        self._loop.call_soon(answer.stream if b'"stream": true' in request.body[:64] else answer.whole)
        return answer


class PreparedAnswer:
    request_id = "req-00000000-000000000000"

    def __init__(self, sink: ClientSink, chunks: int) -> None:
        self._sink, self._left = sink, chunks
        self._loop = asyncio.get_running_loop()

    def whole(self) -> None:
        self._sink.whole(self._head("application/json"), WHOLE)

    def stream(self) -> None:
        self._sink.head(self._head("text/event-stream"))
        self._next()

    def _head(self, content_type: str) -> AnswerHead:
        return AnswerHead(200, content_type, self.request_id, "m", NODE, "host", 1, "bench")

    def _next(self) -> None:
        if not self._left:
            self._sink.end(None)
            return
        self._left -= 1
        self._sink.data(EVENT)
        self._loop.call_soon(self._next)

    def cancel(self) -> None:
        self._left = 0

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class PoolInMemory:
    """A mesh of one machine whose leader assigns it at once."""

    self_id = SELF

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        load = ModelLoad("m", EngineState.READY, "simulated", Task.GENERATE, 32_768)
        member = Member(NodeFacts(NODE, "host", "0", 1, 1), NodeLoad(NODE, 1, 1, (), (load,)), True)
        self._view = PoolView(SELF, 1, NODE, Ballot(1, NODE), {NODE: member})
        self._listener: Any = None

    def view(self) -> PoolView:
        return self._view

    def subscribe(self, listener: Any) -> None:
        self._listener = listener

    def send(self, node_id: NodeId, message: Ask | Answer | AttemptReport) -> bool:
        if isinstance(message, Ask):
            asyncio.get_running_loop().call_soon(self._answer, message)
        return True

    def _answer(self, ask: Ask) -> None:
        decision = Decision(ask.request_id, ask.attempt, "m", 0, "leader", NODE, Outcome.ASSIGNED, "bench", chosen=NODE)
        self._listener.answer_received(NODE, Answer(ask.request_id, ask.attempt, Outcome.ASSIGNED, NODE, decision))

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> PreparedMachine:
        return PreparedMachine(request, sink, self._chunks)


class Floor(asyncio.Protocol):
    """The least that Python can do: parse, then write prepared bytes."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body = body

    def on_message_complete(self) -> None:
        if b'"stream": true' in self._body[:64]:
            self._transport.write(SSE_HEAD)
            self._next(self._chunks)
        else:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE))

    def _next(self, left: int) -> None:
        if not left:
            self._transport.write(b"0\r\n\r\n")
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        self._loop.call_soon(self._next, left - 1)


def serve(kind: str, chunks: int, pipe: Connection) -> None:
    """A server process; answers every message on the pipe with the CPU seconds that it has used."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if kind == "floor":
            listener = await loop.create_server(lambda: Floor(chunks), "127.0.0.1", 0)
            pipe.send(listener.sockets[0].getsockname()[1])
        else:
            pipe.send((await start_gateway(kind, loop, chunks)).port)
        loop.add_reader(pipe.fileno(), answer_cpu, pipe)
        await asyncio.Event().wait()

    uvloop.run(main())


def answer_cpu(pipe: Connection) -> None:
    pipe.recv()
    pipe.send(cpu_s())


async def start_gateway(kind: str, loop: asyncio.AbstractEventLoop, chunks: int) -> HttpServer:
    mesh: Any = PoolInMemory(chunks)
    observer, timers = SilentObserver(), loop
    door: FrontDoor = PreparedDoor(chunks)
    if kind == "gateway":
        door = RequestRunner(mesh, time.monotonic, random.random, RequestSettings(), observer, choose_alone, timers)
    pages = StandardPages(mesh.view, lambda: b"", 0).routes()
    server = HttpServer(door, KeyRing({}), pages, HttpSettings(port=0), observer, time.monotonic)
    await server.start()
    return server


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Client(asyncio.Protocol):
    """Sends the next request when the last answer is complete."""

    def __init__(self, data: bytes, left: int, new_heads: bool, done: Callable[[], None]) -> None:
        self._data, self._left, self._new_heads, self._done = data, left, new_heads, done
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        transport.write(self._data)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._parser.get_status_code() == 200, self._parser.get_status_code()
        self._left -= 1
        if self._left:
            trace = b"x-trace-id: %08d" % self._left
            self._transport.write(self._data.replace(TRACE, trace, 1) if self._new_heads else self._data)
        else:
            self._transport.close()
            self._done()


async def drive(port: int, stream: bool, requests: int, clients: int, new_heads: bool = False) -> None:
    loop = asyncio.get_running_loop()
    finished = [loop.create_future() for _ in range(clients)]
    data, each = request_bytes(stream), requests // clients
    for future in finished:
        done = functools.partial(future.set_result, None)
        await loop.create_connection(functools.partial(Client, data, each, new_heads, done), "127.0.0.1", port)
    await asyncio.gather(*finished)


def measure(kind: str, args: argparse.Namespace) -> tuple[float, float]:
    """(CPU microseconds a whole request, CPU microseconds a streamed chunk) of one server."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(kind, args.chunks, theirs), daemon=True)
    process.start()
    try:
        port = ours.recv()

        def cost(stream: bool, requests: int) -> float:
            uvloop.run(drive(port, stream, max(args.clients, requests // 10), args.clients, args.new_heads))
            ours.send(None)
            before = float(ours.recv())
            uvloop.run(drive(port, stream, requests, args.clients, args.new_heads))
            ours.send(None)
            used_s = float(ours.recv()) - before
            return float(used_s / (requests // args.clients * args.clients) * 1e6)

        whole_us = cost(False, args.requests)
        stream_us = cost(True, max(args.clients, args.requests // args.chunks * 4))
    finally:
        process.kill()
        process.join()
    return whole_us, max(0.0, stream_us - whole_us) / args.chunks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--new-heads", action="store_true", help="no head like the one before on its connection")
    args = parser.parse_args()
    figures = {kind: measure(kind, args) for kind in ("floor", "edge", "gateway")}
    floor_request_us, floor_chunk_us = figures["floor"]
    print(f"{'':14}{'CPU us a request':>18}{'CPU us a chunk':>16}")
    for name, (request_us, chunk_us) in figures.items():
        print(f"{name:14}{request_us:18.1f}{chunk_us:16.2f}")
    for name in ("edge", "gateway"):
        request_us, chunk_us = figures[name]
        ratio, chunk_ratio = request_us / floor_request_us, chunk_us / max(floor_chunk_us, 0.01)
        print(f"{name + ' ratio':14}{ratio:18.2f}{chunk_ratio:16.2f}")


if __name__ == "__main__":
    main()
