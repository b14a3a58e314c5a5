"""The connection between an agent and one of its gateway processes: a Unix socket pair, batches of link items behind
their length.

Attempts, credit, cancelling and the bounds of both are those of a link between machines (covey_mesh.io.opened, served):
a gateway process opens attempts, the agent serves them. What is queued within one turn of the loop leaves together.
Not here: what other items mean (port.py, agent_mesh.py), starting processes (supervisor.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, cast

from google.protobuf.message import DecodeError

from covey_mesh.core.exchange import ForwardedRequest, OpenRequest, ResponseSink, Upstream
from covey_mesh.core.framing import FrameReader, FrameTooLongError, frame
from covey_mesh.core.limits import BATCH_BYTES_MAX, LINK_BACKLOG_BYTES_MAX
from covey_mesh.io.batching import BATCH_TARGET_BYTES, Outbox
from covey_mesh.io.codec_values import PeerProtocolError
from covey_mesh.io.opened import OpenedAttempts
from covey_mesh.io.served import ServedAttempts
from covey_mesh.wire.v1.link_pb2 import Batch, Item

WRITE_HIGH_BYTES = 1024 * 1024
"""Unread bytes at which what waits is kept back here, where it counts against the bound of a link."""

BODIES_BYTES_MAX = 512 * 1024 * 1024
"""Of requests in flight through one process: large ones (images) that the engine would take must not be refused here.
How many bytes clients may have here together is the edge's to say (HttpSettings.bodies_total_bytes_max)."""

BACKLOG_BYTES_MAX = BODIES_BYTES_MAX + LINK_BACKLOG_BYTES_MAX
"""Bytes waiting to be written; with more, the other process does not read."""

FLUSH_WITHIN_S = 0.002
"""Longest wait of tokens after the first: a frame and its system calls cost both processes more than a token does."""

GONE = "it is gone"
"""Why a channel ended: the other process has, or has closed it."""

_OPENED = frozenset({"head", "data", "end"})
_SERVED = frozenset({"open", "body", "cancel", "credit"})

_log = logging.getLogger(__name__)


class ChannelOwner(Protocol):
    """Whoever has this end."""

    def take(self, case: str, item: Item) -> None:
        """Any item but those of attempts. Raises PeerProtocolError."""

    def lost(self, why: str) -> None:
        """Once: the other process is gone or not to be understood. Attempts end by themselves."""


class Channel(asyncio.Protocol):
    """`handler` opens what the other side asks for; None refuses everything. `before_flush` may queue last items."""

    def __init__(
        self,
        owner: ChannelOwner,
        handler: OpenRequest | None = None,
        before_flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._owner = owner
        self._before_flush = before_flush
        self._loop = asyncio.get_running_loop()
        self._frames = FrameReader(BATCH_BYTES_MAX)
        self._outbox = Outbox()
        self._opened = OpenedAttempts(self._outbox, self._loop.call_soon, self._wake, BODIES_BYTES_MAX)
        self._served = ServedAttempts(self._outbox, lambda: handler, self._wake, BODIES_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._full = False
        self._over = False

    @property
    def attempts(self) -> tuple[int, int]:
        """In flight: opened from this side, served for the other."""
        return len(self._opened), len(self._served)

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """Start an attempt on the other side."""
        return self._opened.open(request, sink)

    def send(self, item: Item) -> None:
        """Queue ahead of request bytes; ignored once the channel is over."""
        if not self._over:
            self._outbox.put_control(item, urgent=True)
            self._wake()

    def close(self) -> None:
        """End it, after what was written has left."""
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            for raw in self._frames.feed(data):
                self._receive(raw)
        except (PeerProtocolError, FrameTooLongError) as error:
            self._end(f"it sent {error}")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(GONE)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _receive(self, raw: bytes) -> None:
        """Raises PeerProtocolError."""
        try:
            batch = Batch.FromString(raw)
        except DecodeError as error:
            raise PeerProtocolError("bytes that are no batch") from error
        for item in batch.items:
            if self._over:
                return
            case = item.WhichOneof("kind")
            if case == "data":
                self._opened.data(item.data)
            elif case in _OPENED:
                self._opened.receive(case, item)
            elif case in _SERVED:
                self._served.receive(case, item)
            elif case is not None:
                self._owner.take(case, item)

    def _wake(self) -> None:
        if self._outbox.waiting_bytes > BACKLOG_BYTES_MAX:
            self._end("it does not read")
        elif not self._flush_due and not self._full and self._transport is not None:
            self._plan_flush()

    def _plan_flush(self) -> None:
        """What is urgent, or much, on the next turn of the loop; the rest soon, with what comes until then."""
        outbox = self._outbox
        if outbox.urgent or outbox.waiting_bytes >= BATCH_TARGET_BYTES:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_WITHIN_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._over or self._transport is None:
            return
        self._before_flush()
        self._flush_due = False
        while not self._outbox.empty and not self._full:
            items = self._outbox.take()
            if items:  # what waited may have been discarded
                self._transport.write(frame(Batch(items=items).SerializeToString()))
        self._served.relieve()

    def _end(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        self._served.cancel_all()
        self._opened.lose_all(why)
        if self._transport is not None:
            self._transport.abort()
        self._owner.lost(why)
