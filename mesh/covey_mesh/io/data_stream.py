"""A data channel: one TLS connection beside a link's gRPC stream, which carries the link's batches for less.

A message on the gRPC stream is handed between gRPC's threads and the event loop at both ends, whatever is in it; here
a batch is one write to a socket and one callback. First comes the ticket of the link (TICKET_BYTES, from the dialing
side only), then Batches, each behind its length. What arrives before the link says `open` waits, at most
EARLY_BYTES_MAX, unread by anybody: the other side may be ahead of its own last message on the gRPC stream.

Not here: who may open one (data_accepting.py, data_dialing.py), when a link moves to it (link.py), what is in a batch.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Protocol, cast

from covey_mesh.core.framing import FrameReader, FrameTooLongError, frame
from covey_mesh.core.limits import BATCH_BYTES_MAX
from covey_mesh.io.hello import TICKET_BYTES

DATA_PROTOCOL = "covey-data/1"
"""TLS's name for it (ALPN): nothing else is spoken on the data port."""

EARLY_BYTES_MAX = 1024 * 1024
"""Kept before the link has moved: a few reads of the TLS layer, which stops soon after it is asked to."""

WRITE_AHEAD_BYTES = 128 * 1024
"""Given out of hand before the network takes it, here and again in the kernel: a heartbeat waits behind no more."""

END_TIMEOUT_S = 0.25
"""How long what was written may still take to leave when a link ends."""


class StreamUser(Protocol):
    """The link behind a data channel. Called on the loop's thread; must not raise."""

    def stream_received(self, messages: list[bytes]) -> None: ...

    def stream_broken(self, detail: str) -> None:
        """The peer sent what no build of covey sends."""

    def stream_writable(self) -> None:
        """What was written has left: more may follow."""

    def stream_lost(self, error: Exception | None) -> None:
        """Once, unless the link has ended it itself."""


class DataStream(asyncio.Protocol):
    """One connection, after its handshake. `ticket` is what the accepting side waits for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._user: StreamUser | None = None
        self._frames = FrameReader(BATCH_BYTES_MAX)
        self._early = bytearray()
        self._open = False
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.ticket: asyncio.Future[bytes] = self._loop.create_future()
        self.writable = True

    # What the two sides do with it

    def send_ticket(self, ticket: bytes) -> None:
        """From the dialing side, first."""
        self.ticket.set_result(ticket)
        self._connected.write(ticket)

    def attach(self, user: StreamUser) -> None:
        """From now on `user` hears of the connection's end."""
        self._user = user

    def open(self) -> None:
        """The link has moved: its user gets what has come, and what comes."""
        early, self._early = bytes(self._early), bytearray()
        self._open = True
        if early:
            self.data_received(early)
        self._connected.resume_reading()

    def send(self, message: bytes) -> None:
        """Ask `writable` first; a little more is taken all the same."""
        self._connected.write(frame(message))

    async def end(self) -> None:
        """Close; what was written may leave first."""
        self._user = None
        if self._transport is not None and not self._closed.done():
            self._transport.close()
            await asyncio.wait([self._closed], timeout=END_TIMEOUT_S)
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._user = None
        if self._transport is not None:
            self._transport.abort()

    @property
    def tls(self) -> ssl.SSLObject:
        """For whoever compares identities."""
        found: ssl.SSLObject = self._connected.get_extra_info("ssl_object")
        return found

    @property
    def _connected(self) -> asyncio.Transport:
        assert self._transport is not None, "used before its handshake"
        return self._transport

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD_BYTES)
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, WRITE_AHEAD_BYTES)

    def data_received(self, data: bytes) -> None:
        if not self._open:
            self._keep(data)
            return
        if self._user is None:
            return
        try:
            messages = self._frames.feed(data)
        except FrameTooLongError as error:
            self._user.stream_broken(str(error))
            return
        if messages:
            self._user.stream_received(messages)

    def _keep(self, data: bytes) -> None:
        early = self._early
        early += data
        if not self.ticket.done() and len(early) >= TICKET_BYTES:
            self.ticket.set_result(bytes(early[:TICKET_BYTES]))
            del early[:TICKET_BYTES]
        if len(early) > EARLY_BYTES_MAX:
            self.abort()
        elif early and self._transport is not None and self.ticket.done():
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._user is not None:
            self._user.stream_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        self.ticket.cancel()
        user, self._user = self._user, None
        if user is not None:
            user.stream_lost(exc)
