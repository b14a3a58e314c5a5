"""One gRPC call over the front door: from the runner's callbacks to something a coroutine can read.

Backpressure: gRPC takes a chunk only when its client reads; beyond QUEUED_BYTES_MAX unread bytes the engine is asked
to pause, so a slow client costs bounded memory.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from covey_gateway.core.errors import Code
from covey_gateway.core.events import DONE, EventSplitter, EventTooLargeError
from covey_gateway.core.front import ActiveRequest, AnswerHead, ClientSink, FrontDoor, IncomingRequest
from covey_mesh.core.exchange import Failure

QUEUED_BYTES_MAX = 64 * 1024
"""Unread bytes of one answer before the engine is asked to pause."""

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Largest answer put together here (one that is no stream, or an error)."""

MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, EventTooLargeError)
"""What reading an answer raises that is not of the shape that its path promises."""

_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class CallError(Exception):
    """The request ended in an error that the client is told with this status."""

    def __init__(self, code: grpc.StatusCode, message: str, head: AnswerHead | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.head = head

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """Request id, and when to come back where that is known."""
        if self.head is None:
            return ()
        metadata = [("x-request-id", self.head.request_id)]
        if self.head.retry_after_s:
            metadata.append(("retry-after", str(self.head.retry_after_s)))
        return tuple(metadata)


def status_code(http_status: int, code: str = "") -> grpc.StatusCode:
    """The gRPC status that means what the HTTP status means, and the error's own code where that says more."""
    if code == Code.DEADLINE_UNREACHABLE.value:
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    fallback = grpc.StatusCode.INVALID_ARGUMENT if 400 <= http_status < 500 else grpc.StatusCode.INTERNAL
    return _STATUS.get(http_status, fallback)


def error_code(body: bytes) -> str:
    """The code of an OpenAI-shaped error; "" if there is none."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def error_message(body: bytes) -> str:
    """The text of an OpenAI-shaped error, or of whatever came instead."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:500].decode(errors="replace") or "no reason was given"


def malformed(head: AnswerHead | None) -> CallError:
    """Quotes nothing of the answer: it may be a person's words, and errors are logged on the way."""
    return CallError(grpc.StatusCode.INTERNAL, "the engine's answer is not of the form that its API promises", head)


class Call(ClientSink):
    """A ClientSink that a coroutine reads. Use as an async context manager: leaving it aborts what still runs."""

    def __init__(self, door: FrontDoor, request: IncomingRequest) -> None:
        self._chunks: deque[bytes] = deque()
        self._queued_bytes = 0
        self._paused = False
        self._ended = False
        self._failure: Failure | None = None
        self._wake = asyncio.Event()
        self.answer: AnswerHead | None = None
        self._active: ActiveRequest = door.submit(request, self)

    async def __aenter__(self) -> Call:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended:
            self._active.cancel()

    def head(self, head: AnswerHead) -> None:
        self.answer = head
        self._wake.set()

    def data(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._queued_bytes += len(chunk)
        if self._queued_bytes > QUEUED_BYTES_MAX and not self._paused:
            self._paused = True
            self._active.pause()
        self._wake.set()

    def end(self, failure: Failure | None) -> None:
        self._ended = True
        self._failure = failure
        self._wake.set()

    async def opened(self) -> AnswerHead:
        """The head; raises CallError where the status is not 200."""
        while self.answer is None and not self._ended:
            await self._woken()
        if self.answer is None:
            raise CallError(grpc.StatusCode.INTERNAL, self._failure.message if self._failure else "no answer came")
        if self.answer.status != 200:
            body = await self._collected()
            raise CallError(status_code(self.answer.status, error_code(body)), error_message(body), self.answer)
        return self.answer

    async def chunks(self) -> AsyncIterator[bytes]:
        """Body bytes as they come; raises CallError where the answer broke off."""
        while True:
            while self._chunks:
                yield self._take()
            if self._ended:
                break
            await self._woken()
        if self._failure is not None:
            raise CallError(grpc.StatusCode.UNAVAILABLE, self._failure.message, self.answer)

    async def body(self) -> Any:
        """The whole answer, parsed."""
        head = await self.opened()
        raw = await self._collected()
        try:
            return json.loads(raw)
        except MALFORMED:
            raise malformed(head) from None

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Parsed server-sent events; an error event raises CallError."""
        head = await self.opened()
        splitter = EventSplitter()
        async for chunk in self.chunks():
            for data, event in self._parsed(splitter, chunk):
                if "error" in event:
                    raise CallError(grpc.StatusCode.UNAVAILABLE, error_message(data), head)
                yield event

    def _parsed(self, splitter: EventSplitter, chunk: bytes) -> list[tuple[bytes, dict[str, Any]]]:
        try:
            found = [(data, json.loads(data)) for data in splitter.feed(chunk) if data != DONE]
        except MALFORMED:
            raise malformed(self.answer) from None
        if not all(isinstance(event, dict) for _, event in found):
            raise malformed(self.answer)
        return found

    async def _collected(self) -> bytes:
        whole = bytearray()
        async for chunk in self.chunks():
            whole += chunk
            if len(whole) > ANSWER_BYTES_MAX:
                message = f"the answer is longer than {ANSWER_BYTES_MAX} bytes; ask for less, or for a stream"
                raise CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, self.answer)
        return bytes(whole)

    def _take(self) -> bytes:
        chunk = self._chunks.popleft()
        self._queued_bytes -= len(chunk)
        if self._paused and self._queued_bytes <= QUEUED_BYTES_MAX // 2:
            self._paused = False
            self._active.resume()
        return chunk

    async def _woken(self) -> None:
        self._wake.clear()
        await self._wake.wait()
