"""One established link: a reader and a writer over one bidirectional gRPC stream, whichever side opened it.

Writing: what is queued within one turn of the loop leaves as one batch; urgent items at once, others at most
FLUSH_INTERVAL_S (on a busy link BUSY_FLUSH_INTERVAL_S) after the batch before; whatever is queued while a write is
under way leaves together after it.
Not here: how the connection came about (dialing.py, accepting.py) and what single streams mean (opened.py, served.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from covey_mesh.core.exchange import ForwardedRequest, OpenRequest, ResponseSink, Upstream
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.limits import LINK_BACKLOG_BYTES_MAX
from covey_mesh.core.messages import ControlMessage, FactsReport, LoadReport
from covey_mesh.core.names import NodeId, short
from covey_mesh.core.ports import LinkEvents, LinkLoss
from covey_mesh.io import codec
from covey_mesh.io.batching import BATCH_TARGET_BYTES, Outbox, flush_delay_s
from covey_mesh.io.link_errors import LogBound, loss_of_silence, loss_of_status
from covey_mesh.io.opened import OpenedAttempts
from covey_mesh.io.served import ServedAttempts
from covey_mesh.wire.v1.link_pb2 import Batch, Goodbye, Item

GOODBYE_TIMEOUT_S = 0.25
"""How long a closing link tries to tell the peer why."""

_OPENED = frozenset({"head", "data", "end"})
_SERVED = frozenset({"open", "body", "cancel", "credit"})
_WRITE_ERRORS = (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)

_log = logging.getLogger(__name__)
_log_bound = LogBound()
"""Over all links: a peer that comes back and repeats its fault is logged once a minute."""


class Duplex(Protocol):
    """What a client call and a server context have in common."""

    async def read(self) -> Any:
        """Bytes, or grpc.aio.EOF."""

    async def write(self, message: bytes) -> None: ...


class GrpcLink:
    """See covey_mesh.core.ports.Link. Made by a dial or an accept after the Hellos; lives on the loop's thread."""

    def __init__(
        self,
        duplex: Duplex,
        peer: NodeId,
        facts: NodeFacts,
        dialed: bool,
        address: str,
        events: LinkEvents,
        handler: Callable[[], OpenRequest | None],
        half_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._duplex = duplex
        self._half_close = half_close
        self._peer, self._facts, self._dialed, self._address = peer, facts, dialed, address
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox()
        self._opened = OpenedAttempts(self._outbox, self._loop.call_soon, self._wake)
        self._served = ServedAttempts(self._outbox, handler, self._wake)
        self._ended: asyncio.Future[LinkLoss] = self._loop.create_future()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_flush_s = self._last_heard_s = self._loop.time()
        self._said_goodbye: LinkLoss | None = None
        self._goodbye_due = False

    @property
    def peer(self) -> NodeId:
        return self._peer

    @property
    def facts(self) -> NodeFacts:
        return self._facts

    @property
    def dialed(self) -> bool:
        return self._dialed

    @property
    def address(self) -> str:
        return self._address

    @property
    def waiting_bytes(self) -> int:
        """Bytes queued and not yet handed to gRPC."""
        return self._outbox.waiting_bytes

    @property
    def attempts(self) -> tuple[int, int]:
        """Attempts in flight: opened by this machine, served for the peer."""
        return len(self._opened), len(self._served)

    def __repr__(self) -> str:
        return f"<link {'to' if self._dialed else 'from'} {short(self._peer)} at {self._address}>"

    def send(self, message: ControlMessage) -> None:
        """Queue for the next batch, ahead of request bytes."""
        if not self._ended.done():
            self._outbox.put_control(codec.encode(message), urgent=True)
            self._wake()

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """Start an attempt on the peer."""
        return self._opened.open(request, sink)

    def close(self, reason: LinkLoss) -> None:
        """End the link and tell the peer why."""
        if not self._ended.done():
            self._goodbye_due = True
            self._end(reason)

    def lost(self, loss: LinkLoss) -> None:
        """The connection is gone; nothing can be told to the peer."""
        if not self._ended.done():
            self._end(self._said_goodbye or loss)

    async def run(self) -> LinkLoss:
        """Until the link ends: calls `up`, then messages, then `down`. Ends cleanly when cancelled."""
        reader = asyncio.ensure_future(self._read())
        writer = asyncio.ensure_future(self._write())
        ends: list[asyncio.Future[Any]] = [self._ended, reader]
        try:
            self._events.up(self)
            await asyncio.wait([*ends, writer], return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and writer.exception() is None:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.lost(LinkLoss.CLOSED)
            self._events.down(self, self._ended.result())
            if self._goodbye_due:
                await self._say_goodbye(writer, reader, self._ended.result())
            reader.cancel()  # only now: gRPC ends the whole call with a cancelled read
            writer.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return self._ended.result()

    def _end(self, loss: LinkLoss) -> None:
        self._ended.set_result(loss)
        if self._timer is not None:
            self._timer.cancel()
        self._served.cancel_all()
        self._opened.lose_all(loss.value)

    # Reading

    async def _read(self) -> None:
        try:
            while True:
                raw = await self._duplex.read()
                if raw is grpc.aio.EOF:
                    break
                if self._ended.done():
                    continue  # a closing link waits for the end of the peer's side and hears nothing more
                self._last_heard_s = self._loop.time()
                self._receive(raw)
        except codec.PeerProtocolError as error:
            if _log_bound.allows(self._peer, self._loop.time()):
                _log.warning("peer broke the protocol", extra={"peer": self._peer, "detail": str(error)})
            self.close(LinkLoss.PROTOCOL)
        except grpc.aio.AioRpcError as error:
            self.lost(loss_of_status(error.code(), error.details() or ""))
        except (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError):
            pass
        self.lost(loss_of_silence(self._loop.time() - self._last_heard_s))

    def _receive(self, raw: bytes) -> None:
        """Dispatch one batch. Raises PeerProtocolError."""
        try:
            batch = Batch.FromString(raw)
        except DecodeError as error:
            raise codec.PeerProtocolError("bytes that are no batch") from error
        self._events.heard(self)
        for item in batch.items:
            if self._ended.done():
                return
            case = item.WhichOneof("kind")
            if case == "data":
                self._opened.data(item.data)
            elif case in _OPENED:
                self._opened.receive(case, item)
            elif case in _SERVED:
                self._served.receive(case, item)
            elif case == "goodbye":
                self._said_goodbye = _goodbye_loss(item.goodbye.reason)
            else:
                message = codec.decode(item)
                if message is not None:
                    self._events.message(self, self._checked(message))

    def _checked(self, message: ControlMessage) -> ControlMessage:
        """A machine speaks of its own load and facts only. Raises PeerProtocolError."""
        match message:
            case LoadReport(load=load) if load.node_id != self._peer:
                raise codec.PeerProtocolError("a load report for another machine")
            case FactsReport(facts=facts):
                if facts.node_id != self._peer:
                    raise codec.PeerProtocolError("facts of another machine")
                self._facts = facts
        return message

    # Writing

    def _wake(self) -> None:
        """Something was queued: let the writer go now, or when its batch is due."""
        outbox = self._outbox
        waiting_bytes = outbox.waiting_bytes
        if self._timer is not None and not outbox.urgent and waiting_bytes < BATCH_TARGET_BYTES:
            return
        if waiting_bytes > LINK_BACKLOG_BYTES_MAX and not self._ended.done():
            _log.warning("peer reads too slowly; link cut off", extra={"peer": self._peer})
            self._end(LinkLoss.SILENT)
            return
        if self._waiter is None or self._waiter.done():
            return
        delay_s = self._due_in_s()
        if delay_s <= 0:
            self._waiter.set_result(None)
        elif self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _due_in_s(self) -> float:
        outbox, streams = self._outbox, len(self._opened) + len(self._served)
        return flush_delay_s(self._loop.time(), self._last_flush_s, outbox.urgent, outbox.waiting_bytes, streams)

    async def _write(self) -> None:
        try:
            while not self._ended.done():
                if self._outbox.empty or self._due_in_s() > 0:
                    await self._sleep()
                    continue
                self._last_flush_s = self._loop.time()
                await self._duplex.write(Batch(items=self._outbox.take()).SerializeToString())
                self._served.relieve()
        except _WRITE_ERRORS:
            return  # the reader learns why

    async def _sleep(self) -> None:
        """Until `_wake` finds something due."""
        self._waiter = self._loop.create_future()
        if not self._outbox.empty:
            self._wake()
        await self._waiter

    async def _say_goodbye(self, writer: asyncio.Future[None], reader: asyncio.Future[None], loss: LinkLoss) -> None:
        """Best effort: the write under way may never end, the peer may no longer read."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        goodbye = Batch(items=[Item(goodbye=Goodbye(reason=loss.name))])
        try:
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await writer
                await self._duplex.write(goodbye.SerializeToString())
                if self._half_close is not None:
                    await self._half_close()
                    await asyncio.wait([reader])
        except (TimeoutError, *_WRITE_ERRORS):
            pass


def _goodbye_loss(reason: str) -> LinkLoss:
    """REPLACED is worth telling; whatever else the peer's reason was, here the link was closed on purpose."""
    return LinkLoss.REPLACED if reason == LinkLoss.REPLACED.name else LinkLoss.CLOSED
