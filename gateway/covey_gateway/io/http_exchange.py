"""One request's answer on its connection: a ClientSink that writes HTTP/1.1 (or 1.0).

Event streams go out as chunks at once. Other answers wait for a second piece or the end, so that a complete one gets
a Content-Length. Not here: parsing, timeouts, what to answer.
"""

from __future__ import annotations

import asyncio

from covey_gateway.core.errors import JSON, GatewayError, stream_broken
from covey_gateway.core.front import ActiveRequest, AnswerHead
from covey_gateway.core.held_answer import EVENT_STREAM
from covey_gateway.core.pages import PlainResponse
from covey_gateway.io import http_head
from covey_gateway.io.http_owners import ExchangeOwner
from covey_gateway.io.http_request import HttpRequest
from covey_mesh.core.exchange import Failure

JOINED_BYTES_MAX = 4096
"""Smaller chunks are copied into one buffer with their framing; larger ones are handed over as they are."""


class Exchange:
    """Exactly one answer; everything after `finished` is ignored."""

    __slots__ = (
        "_chunked",
        "_cors",
        "_done",
        "_framed",
        "_head",
        "_held",
        "_owner",
        "_started",
        "active",
        "request",
        "task",
    )

    def __init__(self, owner: ExchangeOwner, request: HttpRequest, cors_lines: bytes) -> None:
        self._owner = owner
        self.request = request
        self._chunked = request.version != "1.0"
        self._cors = cors_lines
        self._head: AnswerHead | None = None
        self._held: bytes | None = None
        self._started = False
        self._framed = False
        self._done = False
        self.active: ActiveRequest | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """True once bytes of the answer were written."""
        return self._started

    # --- ClientSink --------------------------------------------------------------------------------------------------

    def head(self, head: AnswerHead) -> None:
        self._head = head

    def data(self, chunk: bytes) -> None:
        if self._done or not chunk:
            return
        owner = self._owner
        if self._started:
            size = len(chunk)
            if self._chunked and size <= JOINED_BYTES_MAX:
                owner.transport.write(b"%x\r\n%b\r\n" % (size, chunk))
            else:
                self._write_chunk(chunk)
            if owner.stalled_s is None:
                return
        elif self._head is not None and self._head.content_type.startswith(EVENT_STREAM):
            self._start()
            self._write_chunk(chunk)
        elif self._held is None:
            self._held = chunk
        else:
            self._start()
            self._write_chunk(self._held + chunk)
            self._held = None
        owner.written()

    def end(self, failure: Failure | None) -> None:
        if self._done:
            return
        if failure is not None:
            self._end_broken(failure)
        elif not self._started:
            assert self._head is not None, "an answer ended before its head"
            self.whole(self._head, self._held or b"")
        else:
            self._end_whole()

    def whole(self, head: AnswerHead, body: bytes) -> None:
        if self._done:
            return
        owner, request = self._owner, self.request
        server = owner.server
        if head.status != 200 or server.draining or request.close or not self._chunked:
            self._whole(head.status, http_head.start(head), body)
            return
        start, size = http_head.start(head), len(body)
        if size <= JOINED_BYTES_MAX:
            lines = b"%b%b%bcontent-length: %d\r\n\r\n%b" % (start, server.date_line, self._cors, size, body)
            owner.transport.write(lines)
        else:
            lines = b"%b%b%bcontent-length: %d\r\n\r\n" % (start, server.date_line, self._cors, size)
            owner.transport.writelines((lines, body))
        self._started = self._done = True
        self.active = None
        owner.finished(self, True)

    # --- whole answers -----------------------------------------------------------------------------------------------

    def page(self, response: PlainResponse) -> None:
        """A page's answer."""
        pairs = (("content-type", response.content_type), *response.headers)
        start = http_head.status_line(response.status) + http_head.header_lines(pairs)
        self._whole(response.status, start, response.body)

    def open_page(self, response: PlainResponse) -> None:
        """The head of a page whose body follows in pieces; with a HEAD request that is all."""
        last = self._last or (response.length is None and not self._chunked)
        self._started, self._framed = True, response.length is None and self._chunked
        pairs = [("content-type", response.content_type), *response.headers]
        if response.length is not None:
            pairs.append(("content-length", str(response.length)))
        self._owner.transport.write(
            http_head.status_line(response.status)
            + http_head.header_lines(pairs)
            + self._common(last)
            + (http_head.CHUNKED if self._framed else b"")
            + b"\r\n"
        )
        if self.request.method == "HEAD":
            self._finish(keep=not last)

    def page_piece(self, piece: bytes) -> None:
        """A piece of that body; wait while `active` is paused."""
        if self._done or not piece:
            return
        if self._framed:
            self._write_chunk(piece)
        else:
            self._owner.transport.write(piece)
        self._owner.written()

    def close_page(self, complete: bool) -> None:
        """The body is over; an incomplete one shows by the connection's end."""
        if self._done:
            return
        if complete and self._framed:
            self._owner.transport.write(http_head.LAST_CHUNK)
        self._finish(keep=complete and not self._last)

    @property
    def done(self) -> bool:
        """True once nothing more is written, also because the client has left."""
        return self._done

    def refuse(self, error: GatewayError, allow: str = "") -> None:
        """An error of the edge itself."""
        pairs = [("content-type", JSON)]
        if error.retry_after_s:
            pairs.append(("retry-after", str(error.retry_after_s)))
        if error.status == 401:
            pairs.append(("www-authenticate", "Bearer"))
        if allow:
            pairs.append(("allow", allow))
        start = http_head.status_line(error.status) + http_head.header_lines(pairs)
        self._whole(error.status, start, error.body())

    def abandon(self) -> None:
        """The client is gone: stop whatever works for it. Nothing is written any more."""
        self._done = True
        if self.active is not None:
            self.active.cancel()
        if self.task is not None:
            self.task.cancel()

    # --- writing -----------------------------------------------------------------------------------------------------

    @property
    def _last(self) -> bool:
        return self.request.close or self.request.unread or self._owner.server.draining

    def _start(self) -> None:
        assert self._head is not None, "data before the head"
        self._started = True
        last = self._last or not self._chunked
        self._owner.transport.write(
            http_head.start(self._head)
            + self._common(last)
            + (http_head.STREAM_HEADERS if self._head.content_type.startswith(EVENT_STREAM) else b"")
            + (http_head.CHUNKED if self._chunked else b"")
            + b"\r\n"
        )

    def _write_chunk(self, chunk: bytes) -> None:
        transport, size = self._owner.transport, len(chunk)
        if not self._chunked:
            transport.write(chunk)
        elif size <= JOINED_BYTES_MAX:
            transport.write(b"%x\r\n%b\r\n" % (size, chunk))
        else:
            transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))

    def _whole(self, status: int, start: bytes, body: bytes) -> None:
        if self._done:
            return
        self._started = True
        last = self._last
        bodiless = status in (204, 304)
        length = b"" if bodiless else b"content-length: %d\r\n" % len(body)
        head = start + self._common(last) + length + b"\r\n"
        if bodiless or self.request.method == "HEAD":
            body = b""
        if len(body) <= JOINED_BYTES_MAX:
            self._owner.transport.write(head + body)
        else:
            self._owner.transport.writelines((head, body))
        self._finish(keep=not last)

    def _common(self, last: bool) -> bytes:
        staying = b"" if self.request.version != "1.0" else http_head.KEEP_ALIVE
        return self._owner.server.date_line + self._cors + (http_head.CLOSE if last else staying)

    def _end_whole(self) -> None:
        """What was promised by the framing is there."""
        if self._chunked:
            self._owner.transport.write(http_head.LAST_CHUNK)
        self._finish(keep=self._chunked and not self._last)

    def _end_broken(self, failure: Failure) -> None:
        """Before the first byte an error is still possible. After it an event stream's last event has told the client,
        and a missing last chunk would only make HTTP libraries raise before they show it; elsewhere that is what tells.
        """
        if not self._started:
            self.refuse(stream_broken(failure.message or failure.code.value))
        elif self._head is not None and self._head.content_type.startswith(EVENT_STREAM):
            self._end_whole()
        else:
            self._finish(keep=False)

    def _finish(self, keep: bool) -> None:
        self._done = True
        self.active = None
        self._owner.finished(self, keep)
