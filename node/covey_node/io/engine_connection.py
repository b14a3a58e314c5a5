"""One connection to an engine: an answer's bytes to its sink, one request at a time, kept alive between them.

A read becomes at most one `sink.data`, without a task, a queue or a parse of what it carries; a whole answer that
comes in one read becomes one `sink.whole`. Chunked coding is taken off, bytes are otherwise untouched. Two kinds of
reads are nearly all there are, and are taken apart here: one whole answer with a head seen before (known_heads.py), and
in the middle of a stream one whole chunk, a token. Everything else goes through httptools, whose parser stands between
two answers, or two chunks, meanwhile.

vLLM's trap, mended here: a full queue answers a streaming request with status 200 and an error as the first event. So
the head of an event stream is held back until its first bytes; only those are looked at.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import httptools

from covey_mesh.core.exchange import Failure, FailureCode, ResponseSink
from covey_mesh.io.turn_writer import Turn, TurnWriter
from covey_node.core.known_heads import KnownHead, KnownHeads
from covey_node.io.engine_error import ERROR_EVENTS, read_error

ERROR_BODY_BYTES_MAX = 64 * 1024
"""Of an engine's 5xx answer: what is read before giving up on its message."""

HEADER_BYTES_MAX = 64 * 1024
ENGINE_RETRY_AFTER_MS = 500
EVENT_STREAM = "text/event-stream"
CHUNK_SIZE_DIGITS_MAX = 8
LINE_END = b"\r\n"


class Pool(Protocol):
    """Whose connection it is."""

    @property
    def known_heads(self) -> KnownHeads: ...

    @property
    def turn(self) -> Turn:
        """Whose writes leave together."""

    def answered(self, request: EngineRequest, connection: EngineConnection) -> None:
        """`forget`, and then `released`."""

    def released(self, connection: EngineConnection) -> None:
        """It may serve the next request."""

    def lost(self, connection: EngineConnection) -> None:
        """It is gone."""

    def forget(self, request: EngineRequest) -> None:
        """The request is over."""


class EngineRequest:
    """One request in flight (covey_mesh.core.exchange.Upstream). `sink` None: it is over."""

    __slots__ = ("_pool", "connection", "paused", "sink", "wire")

    def __init__(self, pool: Pool, wire: bytes, sink: ResponseSink) -> None:
        self._pool = pool
        self.sink: ResponseSink | None = sink
        self.wire = wire
        self.connection: EngineConnection | None = None
        self.paused = False

    def cancel(self) -> None:
        if self.sink is None:
            return
        self.sink = None
        if self.connection is not None:
            self.connection.abort()
        self._pool.forget(self)

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
        return self.sink is None

    def head(self, status: int, content_type: str, retry_after_s: int) -> None:
        if self.sink is not None:
            self.sink.head(status, content_type, retry_after_s)

    def data(self, chunk: bytes) -> None:
        if self.sink is not None:
            self.sink.data(chunk)

    def end(self, failure: Failure | None) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.end(failure)


class EngineConnection(asyncio.Protocol):
    """Parser callbacks only collect; `data_received` then hands on, once a read."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known_heads = pool.known_heads
        self._transport: asyncio.Transport | None = None
        self._request: EngineRequest | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._nothing_read = True
        self._pieces: list[bytes] = []
        self._content_type = ""
        self._retry_after_s = 0
        self._header_bytes = 0
        self._status = 0
        self._head_sent = False
        self._held = b""
        self._between_chunks = False
        self._complete = False
        self._keep_alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = TurnWriter(transport, self._pool.turn)

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
        self._pool.lost(self)
        if request is not None and not request.over:
            self._pool.forget(request)
            request.end(Failure(FailureCode.ENGINE_FAILED, "the engine broke off its answer"))

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("bytes after the end of the engine's answer")

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

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()

    # One read.

    def data_received(self, data: bytes) -> None:
        request = self._request
        if request is None:
            self.abort()
            return
        if self._between_chunks:
            body = only_chunk(data)
            if body:
                if request.sink is not None:
                    request.sink.data(body)
                return
        elif self._nothing_read:
            whole = self._known_heads.read(data)
            if whole is not None:
                self._whole(request, whole[0], whole[1], True)
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        first, self._nothing_read = self._nothing_read, False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"the engine's answer is not HTTP: {error}")
            return
        if first and self._complete and not self._holds_head:
            self._parsed_whole(data)
            return
        if self._pieces:
            chunk = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces = []
            self._body(chunk)
        if self._complete:
            self._finish()
        elif self._status and not self._head_sent and not self._holds_head:
            self._send_head()
        # The parser calls nothing for a chunk's size that is cut off; but then the bytes do not end with a line.
        self._between_chunks = self._between_chunks and self._head_sent and data.endswith(LINE_END)

    def _parsed_whole(self, data: bytes) -> None:
        """All of an answer came in one read."""
        request, keep_alive = self._request, self._keep_alive
        head = KnownHead(self._status, self._content_type, self._retry_after_s)
        body = b"".join(self._pieces)
        self._reset()
        if keep_alive:
            self._known_heads.learn(data, head, body)
        if request is not None:
            self._whole(request, head, body, keep_alive)

    def _whole(self, request: EngineRequest, head: KnownHead, body: bytes, keep_alive: bool) -> None:
        """Nothing of the answer was handed on before."""
        sink, request.sink = request.sink, None
        self._request = request.connection = None
        if keep_alive and self.usable:
            if request.paused:
                self.set_reading(True)
            self._pool.answered(request, self)
        else:
            self._pool.forget(request)
            self.abort()
        if sink is not None:
            sink.whole(head.status, head.content_type, head.retry_after_s, body, None)

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
        elif self._status >= 500 or (self._held + chunk).startswith(ERROR_EVENTS):
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
        self._pool.forget(request)
        reusable = self._keep_alive and self.usable
        self._reset()
        if reusable:
            self.set_reading(True)
            self._pool.released(self)
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
            self._pool.forget(request)
            request.end(Failure(FailureCode.ENGINE_FAILED, why))


def only_chunk(data: bytes) -> bytes:
    """The content, if these bytes are exactly one chunk of the chunked coding and not its last (RFC 9112, 7.1); else
    nothing."""
    at = data.find(LINE_END, 1, CHUNK_SIZE_DIGITS_MAX + 2)
    digits = data[:at]
    if at < 0 or not digits.isalnum():
        return b""
    try:
        size = int(digits, 16)
    except ValueError:
        return b""
    if len(data) != at + size + 4 or not data.endswith(LINE_END):
        return b""
    return data[at + 2 : -2]
