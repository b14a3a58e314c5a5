"""One client connection: bytes in, requests out in order, one answer at a time. httptools (llhttp) does the parsing.

Decided: a client that closes its sending side counts as gone, as with nginx (a FIN is all that a vanished client
sends); pipelined requests are answered in order; the connection ends after any framing error.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import httptools

from covey_gateway.core.errors import (
    Code,
    GatewayError,
    bad_http,
    body_too_large,
    headers_too_large,
    request_timeout,
    unavailable,
)
from covey_gateway.core.front import IncomingRequest
from covey_gateway.io import http_head
from covey_gateway.io.http_exchange import Exchange
from covey_gateway.io.http_owners import ConnectionOwner
from covey_gateway.io.http_request import SMALL_BODY_BYTES, HttpRequest
from covey_gateway.io.http_upload import Upload
from covey_gateway.io.known_head import MISSES_MAX, KnownHead, known_head
from covey_mesh.io.turn_writer import TurnWriter

logger = logging.getLogger(__name__)

NO_MORE = -1
"""In place of a bound on the lines of a head: it is complete."""


class HttpConnection(asyncio.Protocol):
    """Also the ExchangeOwner of its answers."""

    transport: asyncio.Transport

    def __init__(self, server: ConnectionOwner, unix: bool) -> None:
        self.unix = unix
        self.local = unix
        self.host = ""
        self.server = server
        self._now_s = server.now_s
        self._parser = httptools.HttpRequestParser(self)
        self._reading: HttpRequest | None = None
        self._waiting: deque[HttpRequest] = deque()
        self._exchange: Exchange | None = None
        self._pumping = False
        self._deaf = False
        self._reading_paused = False
        self._lost = False
        self._heard_s = server.now_s()
        self._known: KnownHead | None = None
        self._known_missed = 0
        self._first_read: bytes | None = None
        self._body_left = 0
        self._lines: list[tuple[bytes, bytes]] = []
        self._lines_max = NO_MORE
        self.stalled_s: float | None = None
        self._stalled_bytes = 0
        self._linger_until_s: float | None = None

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = TurnWriter(transport, self.server.turn)
        settings = self.server.settings
        transport.set_write_buffer_limits(high=settings.write_high_bytes, low=settings.write_low_bytes)
        peer = transport.get_extra_info("peername")
        if not self.unix:
            self.host = str(peer[0]) if isinstance(peer, tuple) else ""
            self.local = is_loopback(self.host)
        if not self.server.admit(self):
            self._reject(unavailable(Code.GATEWAY_FULL, "Too many connections are open. Close some, or retry.", 1))

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._now_s()
        if self._deaf:
            return
        try:
            if self._body_left:
                data = self._take_known_body(data)
                if not data:
                    return
            # Between two requests, the parser included: nothing begun, nothing owed.
            if self._reading is None and self._exchange is None and not self._waiting:
                known = self._known
                if known is not None and self._serve_known(known, data):
                    return
                self._first_read = data
        except Exception:
            logger.exception("bug in the HTTP edge")
            self.transport.abort()
            return
        self._parse(data)
        self._first_read = None

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Served as plain HTTP/1.1; what follows the request is not ours to interpret.
            self._deaf = True
        except httptools.HttpParserCallbackError:
            logger.exception("bug in the HTTP edge")
            self.transport.abort()
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._reject(bad_http(str(error)))
        else:
            self._bound_unfinished_head(len(data))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._deaf = True
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            if exchange.request.upload is not None:
                exchange.request.upload.gone()
            exchange.abandon()
            self._give_back(exchange.request)
        for request in (*self._waiting, *([self._reading] if self._reading else [])):
            self._give_back(request)
        self._waiting.clear()
        self.server.gone(self)

    def pause_writing(self) -> None:
        self.stalled_s = self.server.now_s()
        self._stalled_bytes = self.transport.get_write_buffer_size()
        if self._exchange is not None and self._exchange.active is not None:
            self._exchange.active.pause()

    def resume_writing(self) -> None:
        self.stalled_s = None
        if self._exchange is not None and self._exchange.active is not None:
            self._exchange.active.resume()

    # --- httptools callbacks -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reading = request = HttpRequest(self._heard_s)
        self._lines, self._lines_max = request.lines, self.server.settings.header_count_max

    def on_url(self, url: bytes) -> None:
        request = self._current()
        request.url += url
        request.header_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Called a dozen times a request: what can wait until the head is complete is done there.
        if len(self._lines) <= self._lines_max:
            self._lines.append((name, value))
        elif self._reading is not None and self._reading.complete and not self._deaf:
            self._count_trailer(self._reading, name, value)

    def on_headers_complete(self) -> None:
        first_read, self._first_read = self._first_read, None
        if self._deaf:
            return
        request = self._current()
        method = self._parser.get_method()
        request.method = "POST" if method == b"POST" else method.decode("latin-1")
        request.version = self._parser.get_http_version()
        request.close = not self._parser.should_keep_alive() or self._parser.should_upgrade()
        settings = self.server.settings
        request.complete, request.size = True, 0
        request.read_headers()
        self._lines_max = NO_MORE
        try:
            request.read_url()
            if request.unbounded:
                request.upload_bytes_max = self.server.upload_bytes_max(request)
            most = request.upload_bytes_max or settings.body_bytes_max
            request.check_framing(most, settings.header_count_max, settings.header_bytes_max)
        except GatewayError as error:
            self._refuse_now(request, error)
            return
        try:
            self.server.check(self, request)
        except GatewayError as error:
            if request.expects_continue or request.unbounded:
                self._refuse_now(request, error)
            else:
                request.error = error
            return
        if first_read is not None and request.route is None:
            self._remember(first_read, request)
        if request.expects_continue and self._exchange is None and not self._waiting:
            self.transport.write(http_head.CONTINUE)
        if request.upload_bytes_max:
            self._begin_upload(request)

    def on_body(self, body: bytes) -> None:
        request = self._reading
        if request is None or self._deaf:
            return
        request.size += len(body)
        if request.error is not None:
            return
        if request.upload is not None:
            self._take_upload(request.upload, request, body)
            return
        if request.size > self.server.settings.body_bytes_max:
            self._refuse_now(request, body_too_large(self.server.settings.body_bytes_max))
        elif request.size > SMALL_BODY_BYTES and not self._take(request):
            message = "The gateway holds as many request bytes as it may. Retry after the time in Retry-After."
            self._refuse_now(request, unavailable(Code.GATEWAY_FULL, message, 1))
        else:
            request.add_body(body)

    def on_message_complete(self) -> None:
        request, self._reading = self._reading, None
        if request is None or self._deaf:
            return
        if request.upload is not None:
            self._deaf = self._deaf or request.close
            request.upload.end()
            return
        self._waiting.append(request)
        settings = self.server.settings
        if len(self._waiting) > settings.pipelined_refused_at:
            self._reject(bad_http("too many pipelined requests"))
        elif len(self._waiting) >= settings.pipelined_max and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
        if request.close:
            self._deaf = True
        self._pump()

    # --- a head that is known ----------------------------------------------------------------------------------------

    def _remember(self, data: bytes, request: HttpRequest) -> None:
        """For the next request: this one's head was admitted, and is the first thing in `data`."""
        if self._known_missed >= MISSES_MAX:
            return
        self._known_missed += 1
        self._known = known_head(data, request, self.server.access)

    def _serve_known(self, known: KnownHead, data: bytes) -> bool:
        """False: it is the parser's. The parser stands between two requests before, and so it does after."""
        body_at = known.body_at(data)
        if not body_at or known.access is not self.server.access or known.length > self.server.settings.body_bytes_max:
            return False
        missing = known.length - (len(data) - body_at)
        if missing < 0:
            return False
        self._known_missed = 0
        if missing:
            self._reading = known.request.following(self._heard_s)
            self._body_left = known.length
            self._take_known_body(data[body_at:])
            return True
        head = known.request
        exchange = self._exchange = Exchange(self, head, known.cors)
        incoming = IncomingRequest(head.path, data[body_at:], head.user, known.priority, known.deadline_s)
        self.server.submit(exchange, incoming)
        if self.stalled_s is not None and exchange.active is not None:
            exchange.active.pause()
        return True

    def _take_known_body(self, data: bytes) -> bytes:
        """Returns what follows the body."""
        piece = data[: self._body_left]
        self._body_left -= len(piece)
        if piece:
            self.on_body(piece)
        if not self._body_left:
            self.on_message_complete()
        return data[len(piece) :]

    # --- ExchangeOwner -----------------------------------------------------------------------------------------------

    def written(self) -> None:
        if self.stalled_s is None:
            return
        if self.transport.get_write_buffer_size() > self.server.settings.unread_bytes_max:
            logger.warning("a reader that does not read was cut off")
            self.transport.abort()

    def finished(self, exchange: Exchange, keep: bool) -> None:
        self._exchange = None
        if exchange.request.upload is not None:
            exchange.request.upload.leave()
            if self._reading is exchange.request:
                self._reading = None
        if exchange.request.taken:
            self._give_back(exchange.request)
        if not keep:
            self._end()
        elif (self._waiting or self._reading_paused) and not self._pumping:
            self._pump()

    # --- times, called by the server's sweep -------------------------------------------------------------------------

    def sweep(self, now_s: float) -> None:
        """Ends what takes too long. `now_s`: the server's clock."""
        settings = self.server.settings
        if self._linger_until_s is not None:
            if now_s >= self._linger_until_s:
                self.transport.abort()
        elif self.stalled_s is not None:
            self._sweep_stalled(now_s)
        elif self._reading is not None and (self._exchange is None or self._reading.upload is not None):
            self._sweep_reading(now_s, self._reading)
        elif self._exchange is None and not self._waiting:
            idle_s = now_s - self._heard_s
            if idle_s > settings.idle_timeout_s or self.server.draining:
                self.transport.close()

    def abort(self) -> None:
        """End now, whatever is going on."""
        self.transport.abort()

    @property
    def busy(self) -> bool:
        return self._exchange is not None or bool(self._waiting)

    def _sweep_stalled(self, now_s: float) -> None:
        unread = self.transport.get_write_buffer_size()
        assert self.stalled_s is not None
        if unread < self._stalled_bytes:
            self.stalled_s = now_s
        elif now_s - self.stalled_s > self.server.settings.reader_stall_s:
            logger.info("a client stopped reading: cut off")
            self.transport.abort()
        self._stalled_bytes = unread

    def _sweep_reading(self, now_s: float, request: HttpRequest) -> None:
        settings = self.server.settings
        age_s = now_s - request.started_s
        if not request.complete:
            if age_s > settings.header_timeout_s:
                self._reject(request_timeout("head"))
        elif request.upload is not None and request.upload.paused:
            # Our own disk is slow, not the client.
            self._heard_s = now_s
        elif now_s - self._heard_s > settings.body_silence_s or (
            age_s > settings.body_silence_s and request.size < settings.body_bytes_per_s_min * age_s
        ):
            self._refuse_now(request, request_timeout("body"))

    # --- uploads -----------------------------------------------------------------------------------------------------

    def _begin_upload(self, request: HttpRequest) -> None:
        """The page begins while the body still comes."""
        if self._exchange is not None or self._waiting:
            self._refuse_now(request, bad_http("an upload cannot be pipelined behind another request"))
            return
        transport = self.transport
        request.upload = Upload(transport.pause_reading, self._resume_upload)
        self._start(request)

    def _resume_upload(self) -> None:
        if not self._lost and not self.transport.is_closing():
            self.transport.resume_reading()

    def _take_upload(self, upload: Upload, request: HttpRequest, piece: bytes) -> None:
        if request.size > request.upload_bytes_max:
            self._refuse_now(request, body_too_large(request.upload_bytes_max))
        else:
            upload.feed(piece)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _current(self) -> HttpRequest:
        assert self._reading is not None, "a parser callback outside a message"
        return self._reading

    def _count_trailer(self, request: HttpRequest, name: bytes, value: bytes) -> None:
        """It is read for the framing's sake alone."""
        request.header_bytes += len(name) + len(value) + 4
        if request.header_bytes > self.server.settings.header_bytes_max:
            self._refuse_now(request, headers_too_large())

    def _bound_unfinished_head(self, received: int) -> None:
        request = self._reading
        if request is None or request.complete or self._deaf:
            return
        # httptools keeps an unfinished header to itself: count what came instead of what was delivered.
        request.size += received
        if request.size > self.server.settings.header_bytes_max:
            self._reject(headers_too_large())

    def _take(self, request: HttpRequest) -> bool:
        more = request.size - request.taken
        if not self.server.bodies.take(more):
            return False
        request.taken += more
        return True

    def _give_back(self, request: HttpRequest) -> None:
        self.server.bodies.give_back(request.taken)
        request.taken = 0
        request.body = []

    def _refuse_now(self, request: HttpRequest, error: GatewayError) -> None:
        """Answer before the rest has arrived, and take nothing more from this connection."""
        self._reading = None
        self._deaf = True
        if request.upload is not None:
            # Its page is at work: it hears of it, and answers.
            request.upload.fail(error)
            return
        request.error, request.close = error, True
        self._waiting.append(request)
        self._pump()

    def _reject(self, error: GatewayError) -> None:
        """Like _refuse_now, where there may be no request to speak of."""
        request = self._reading or HttpRequest(self._heard_s)
        self._refuse_now(request, error)

    def _pump(self) -> None:
        """Starts the next answer; a loop, since errors are answered on the spot."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._waiting and self._exchange is None and not self._lost and self._linger_until_s is None:
                self._start(self._waiting.popleft())
        finally:
            self._pumping = False
        if self._reading_paused and len(self._waiting) < self.server.settings.pipelined_max and not self._lost:
            self._reading_paused = False
            self.transport.resume_reading()

    def _start(self, request: HttpRequest) -> None:
        origin = request.headers.get("origin")
        cors_lines = http_head.cors_lines(self.server.access.cors_origin(origin)) if origin else b""
        exchange = self._exchange = Exchange(self, request, cors_lines)
        if request.error is not None:
            self.server.refused(request.error)
            exchange.refuse(request.error, request.allow)
            return
        self.server.serve(exchange)
        if self.stalled_s is not None and exchange.active is not None:
            exchange.active.pause()

    def _end(self) -> None:
        """Close after the last answer. What the client still sends is read and dropped for a while: an unread byte at
        close would make the kernel reset the connection, and the client might never see the answer."""
        self._deaf = True
        for request in self._waiting:
            self._give_back(request)
        self._waiting.clear()
        if self._lost or self.transport.is_closing():
            return
        self._linger_until_s = self.server.now_s() + self.server.settings.linger_s
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8, ::1 and their mapped form."""
    return host.startswith("127.") or host in ("::1", "0:0:0:0:0:0:0:1") or host.startswith("::ffff:127.")
