"""HTTP/1.1 to one engine over its Unix socket: the node's half of the token path.

Callbacks only: a read becomes at most one `sink.data`, without a task, a queue or a parse of what it carries. Chunked
coding is taken off, bytes are otherwise untouched. One connection serves one request at a time and is kept alive;
closing it is how a request is aborted (vLLM notices within a tenth of a second).

vLLM's trap, mended here: a full queue answers a streaming request with status 200 and an error as the first event. So
the head of an event stream is held back until its first bytes; only those are looked at.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

import httptools
import msgspec

from covey_mesh.core.exchange import Failure, FailureCode, ResponseSink

IDLE_CONNECTIONS_MAX = 64
ERROR_BODY_BYTES_MAX = 64 * 1024
"""Of an engine's 5xx answer: what is read before giving up on its message."""

HEADER_BYTES_MAX = 64 * 1024
ENGINE_RETRY_AFTER_MS = 500
EVENT_STREAM = "text/event-stream"
_ERROR_EVENTS = (b'data: {"error"', b'data:{"error"', b'data: {"object":"error"')


class EngineRequest:
    """One request in flight (covey_mesh.core.exchange.Upstream). Made by EngineClient.open."""

    def __init__(self, client: EngineClient, wire: bytes, sink: ResponseSink) -> None:
        self._client = client
        self._sink: ResponseSink | None = sink
        self.wire = wire
        self.connection: _Connection | None = None
        self.paused = False

    def cancel(self) -> None:
        if self._sink is None:
            return
        self._sink = None
        if self.connection is not None:
            self.connection.abort()
        self._client.forget(self)

    def pause(self) -> None:
        self.paused = True
        if self.connection is not None:
            self.connection.set_reading(False)

    def resume(self) -> None:
        self.paused = False
        if self.connection is not None:
            self.connection.set_reading(True)

    @property
    def over(self) -> bool:
        return self._sink is None

    def head(self, status: int, content_type: str, retry_after_s: int) -> None:
        if self._sink is not None:
            self._sink.head(status, content_type, retry_after_s)

    def data(self, chunk: bytes) -> None:
        if self._sink is not None:
            self._sink.data(chunk)

    def end(self, failure: Failure | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end(failure)


class EngineClient:
    """A bounded pool of connections to one Unix socket. Requests beyond `connections_max` wait in order of arrival
    (admission bounds how many there can be)."""

    def __init__(self, socket_path: str, connections_max: int) -> None:
        self._path = socket_path
        self._connections_max = connections_max
        self._idle: list[_Connection] = []
        self._open = 0
        self._waiting: deque[EngineRequest] = deque()
        self._active: set[EngineRequest] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed = False
        self._drained = asyncio.Event()

    @property
    def active(self) -> int:
        return len(self._active)

    def open(self, method: str, path: str, body: bytes, sink: ResponseSink) -> EngineRequest:
        """Send one request; the sink is called later, from the event loop."""
        assert path.isprintable(), "a path that would begin another request"
        assert " " not in path, "a path that would end the request line"
        head = f"{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        wire = head.encode("ascii") + b"Content-Length: %d\r\n\r\n" % len(body) + body
        request = EngineRequest(self, wire, sink)
        self._active.add(request)
        self._waiting.append(request)
        if self._closed:
            asyncio.get_running_loop().call_soon(self._fail, request, "the engine was stopped")
        else:
            self._pump()
        return request

    async def drained(self, timeout_s: float) -> bool:
        """Waits until no request is in flight; False if some still were after `timeout_s`."""
        if self._active and timeout_s > 0:
            self._drained.clear()
            try:
                await asyncio.wait_for(self._drained.wait(), timeout_s)
            except TimeoutError:
                return False
        return not self._active

    def close(self) -> None:
        """Break every connection; requests in flight end with ENGINE_FAILED, on the next turn of the loop."""
        self._closed = True
        for task in self._connecting:
            task.cancel()
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        loop = asyncio.get_running_loop()
        for request in list(self._active):
            if request.connection is not None:
                request.connection.abort()
            else:
                loop.call_soon(self._fail, request, "the engine was stopped")

    def forget(self, request: EngineRequest) -> None:
        """The request is over."""
        self._active.discard(request)
        if not self._active:
            self._drained.set()
        if request.connection is None and request in self._waiting:
            self._waiting.remove(request)

    def released(self, connection: _Connection) -> None:
        """The connection may serve the next request."""
        if self._waiting:
            connection.send(self._next())
        elif len(self._idle) >= IDLE_CONNECTIONS_MAX or self._closed:
            connection.abort()
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """The connection is gone."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        self._pump()

    def _next(self) -> EngineRequest:
        return self._waiting.popleft()

    def _pump(self) -> None:
        while self._waiting and self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.send(self._next())
        while len(self._connecting) < len(self._waiting) and self._open < self._connections_max:
            self._open += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_unix_connection(
                lambda: _Connection(self), self._path
            )
        except OSError as error:
            self._open -= 1
            if self._waiting:
                self._fail(self._next(), f"the engine does not accept connections: {error.strerror or error}")
            return
        except asyncio.CancelledError:
            self._open -= 1
            raise
        self.released(connection)

    def _fail(self, request: EngineRequest, why: str) -> None:
        self.forget(request)
        request.end(Failure(FailureCode.ENGINE_FAILED, why))


class _Connection(asyncio.Protocol):
    """One connection. Parser callbacks only collect; `data_received` then hands on, once a read."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._request: EngineRequest | None = None
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._content_type = ""
        self._retry_after_s = 0
        self._header_bytes = 0
        self._status = 0
        self._head_sent = False
        self._held = b""
        self._complete = False
        self._keep_alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own classes do not inherit asyncio's

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: EngineRequest) -> None:
        assert self._transport is not None
        self._request = request
        request.connection = self
        if request.paused:
            self.set_reading(False)
        self._transport.write(request.wire)
        request.wire = b""

    def set_reading(self, on: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or transport.is_reading() is on:
            return
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        request, self._request = self._request, None
        self._client.lost(self)
        if request is not None and not request.over:
            self._client.forget(request)
            request.end(Failure(FailureCode.ENGINE_FAILED, "the engine broke off its answer"))

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            raise ValueError("the engine's headers are too long")
        lowered = name.lower()
        if lowered == b"content-type":
            self._content_type = value.decode("latin-1")
        elif lowered == b"retry-after" and value.isdigit():
            self._retry_after_s = int(value)

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()

    # One read.

    def data_received(self, data: bytes) -> None:
        if self._request is None:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"the engine's answer is not HTTP: {error}")
            return
        if self._pieces:
            chunk = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces = []
            self._body(chunk)
        if self._complete:
            self._finish()
        elif self._status and not self._head_sent and not self._holds_head:
            self._send_head()

    @property
    def _holds_head(self) -> bool:
        """5xx: it may be no answer at all. An event stream: its first event may be an error."""
        return self._status >= 500 or (self._status == 200 and self._content_type.startswith(EVENT_STREAM))

    def _body(self, chunk: bytes) -> None:
        request = self._request
        if request is None:
            return
        if self._head_sent:
            request.data(chunk)
        elif self._status >= 500 or (self._held + chunk).startswith(_ERROR_EVENTS):
            self._held = (self._held + chunk)[:ERROR_BODY_BYTES_MAX]
        else:
            self._send_head()
            request.data(chunk)

    def _send_head(self) -> None:
        self._head_sent = True
        if self._request is not None:
            self._request.head(self._status, self._content_type, self._retry_after_s)

    def _finish(self) -> None:
        request, self._request = self._request, None
        if request is None:
            return
        if not self._head_sent and not self._held and self._status < 500:
            request.head(self._status, self._content_type, self._retry_after_s)
        failure = None if self._head_sent or (not self._held and self._status < 500) else self._judge(request)
        request.connection = None
        self._client.forget(request)
        reusable = self._keep_alive and self.usable
        self._reset()
        if reusable:
            self.set_reading(True)
            self._client.released(self)
        else:
            self.abort()
        request.end(failure)

    def _judge(self, request: EngineRequest) -> Failure | None:
        """An error held back: a failure of the engine, or (4xx inside an event stream) an answer after all."""
        status, message, body = read_error(self._status, self._held)
        if 400 <= status < 500 and status != 429:
            request.head(status, "application/json", 0)
            request.data(body)
            return None
        if status in (429, 503):
            wait_ms = self._retry_after_s * 1000 or ENGINE_RETRY_AFTER_MS
            return Failure(FailureCode.RESOURCE_EXHAUSTED, f"the engine is full: {message}", wait_ms)
        return Failure(FailureCode.ENGINE_FAILED, f"the engine answered {status}: {message}")

    def _break(self, why: str) -> None:
        request, self._request = self._request, None
        self.abort()
        if request is not None:
            self._client.forget(request)
            request.end(Failure(FailureCode.ENGINE_FAILED, why))


class _ErrorDetail(msgspec.Struct):
    message: str = ""
    code: int | str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail


def read_error(status: int, held: bytes) -> tuple[int, str, bytes]:
    """(HTTP status, message, JSON body) of an engine's error, as a body or as the first event of a stream."""
    body = held
    if body.startswith(b"data:"):
        body = body[5:].split(b"\n", 1)[0].strip()
    try:
        detail = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, msgspec.ValidationError):
        return (status if status >= 400 else 500), held[:200].decode("utf-8", "replace"), body
    code = str(detail.code)
    inner = int(code) if code.isdecimal() else status
    return (inner if inner >= 400 else 500), detail.message, body
