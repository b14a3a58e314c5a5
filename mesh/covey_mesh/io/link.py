"""One established link: a reader and a writer over one bidirectional gRPC stream, whichever side opened it.

A link may move to a data channel (data_stream.py): from then on all batches travel there, in the same order, and the
gRPC stream stays for its own signs of life and the goodbye. If either ends, the link has ended.
Not here: how connections came about (dialing.py, accepting.py, data_dialing.py, data_accepting.py), when batches leave
(writing.py) and what single streams mean (opened.py, served.py).
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
from covey_mesh.core.messages import ControlMessage, FactsReport, LoadReport
from covey_mesh.core.names import NodeId, short
from covey_mesh.core.ports import LinkEvents, LinkLoss
from covey_mesh.io import codec
from covey_mesh.io.batching import Outbox
from covey_mesh.io.data_stream import DataStream
from covey_mesh.io.link_errors import LogBound, loss_of_silence, loss_of_status
from covey_mesh.io.opened import OpenedAttempts
from covey_mesh.io.served import ServedAttempts
from covey_mesh.io.writing import WRITE_ERRORS, BatchWriter
from covey_mesh.wire.v1.link_pb2 import Batch, Goodbye, Item

GOODBYE_TIMEOUT_S = 0.25
"""How long a closing link tries to tell the peer why."""

_OPENED = frozenset({"head", "data", "end"})
_SERVED = frozenset({"open", "body", "cancel", "credit"})

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
        data_ticket: bytes = b"",
    ) -> None:
        self._duplex = duplex
        self._half_close = half_close
        self._peer, self._facts, self._dialed, self._address = peer, facts, dialed, address
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox()
        self._writer = BatchWriter(duplex, self._outbox, self)
        self._opened = OpenedAttempts(self._outbox, self._loop.call_soon, self._writer.wake)
        self._served = ServedAttempts(self._outbox, handler, self._writer.wake)
        self._ended: asyncio.Future[LinkLoss] = self._loop.create_future()
        self._last_heard_s = self._loop.time()
        self._said_goodbye: LinkLoss | None = None
        self._goodbye_due = False
        self.data_ticket = data_ticket
        """What a data channel of this link must show; b"": it has none, and gets none from the other side."""
        self._data: DataStream | None = None
        self._moved: asyncio.Future[bool] | None = None
        self.data_at_fault = False
        """The link ended by its data channel: lost, or silent, while nothing was known against the gRPC stream."""
        self._bug: Exception | None = None

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
        """Bytes queued and not yet handed to gRPC or the data channel."""
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
            self._writer.wake()

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """Start an attempt on the peer."""
        return self._opened.open(request, sink)

    def close(self, reason: LinkLoss) -> None:
        """End the link and tell the peer why."""
        if not self._ended.done():
            self._goodbye_due = True
            self._blame_data(reason.name)
            self._end(reason)

    def lost(self, loss: LinkLoss) -> None:
        """The connection is gone; nothing can be told to the peer."""
        if not self._ended.done():
            self._end(self._said_goodbye or loss)

    async def run(self) -> LinkLoss:
        """Until the link ends: calls `up`, then messages, then `down`. Ends cleanly when cancelled."""
        reader = asyncio.ensure_future(self._read())
        writer = asyncio.ensure_future(self._writer.run())
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
            if self._data is not None:
                await self._data.end()
            reader.cancel()  # only now: gRPC ends the whole call with a cancelled read
            writer.cancel()
            results = [*await asyncio.gather(reader, writer, return_exceptions=True), self._bug]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return self._ended.result()

    def _end(self, loss: LinkLoss) -> None:
        self._ended.set_result(loss)
        self._writer.stop()
        if self._data is not None and not self._goodbye_due:
            self._data.abort()
        self._settle_move(False)
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
            self.stream_broken(str(error))
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
            if case == "chunks":
                self._opened.chunks(item.chunks)
            elif case == "data":
                self._opened.data(item.data)
            elif case in _OPENED:
                self._opened.receive(case, item)
            elif case in _SERVED:
                self._served.receive(case, item)
            elif case == "moved":
                self._peer_moved()
            elif case == "goodbye":
                self._said_goodbye = _goodbye_loss(item.goodbye.reason)
                self._blame_data(item.goodbye.reason)
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

    # Writing (covey_mesh.io.writing.Progress)

    def in_flight(self) -> int:
        return len(self._opened) + len(self._served)

    def wrote(self) -> None:
        self._served.relieve()

    def overflowed(self) -> None:
        if not self._ended.done():
            _log.warning("peer reads too slowly; link cut off", extra={"peer": self._peer})
            self._end(LinkLoss.SILENT)

    def failed(self, bug: Exception) -> None:
        self._bug = bug
        self.lost(LinkLoss.RESET)

    # The data channel (covey_mesh.io.data_stream.StreamUser)

    @property
    def on_data_channel(self) -> bool:
        """Both directions have moved."""
        return self._moved is not None and self._moved.done() and self._moved.result()

    def use(self, data: DataStream) -> asyncio.Future[bool]:
        """Move to `data`. The dialed side begins; true once the peer has moved, false if it will not."""
        moved: asyncio.Future[bool] = self._loop.create_future()
        if self._ended.done() or self._data is not None:
            data.abort()
            moved.set_result(False)
            return moved
        self._data, self._moved = data, moved
        data.attach(self)
        if not self._dialed:
            self._writer.move_to(data)
        return moved

    def give_up(self, data: DataStream) -> None:
        """The peer has not moved in time."""
        if self._data is data and not self.on_data_channel:
            self._data = None
            data.abort()

    def _peer_moved(self) -> None:
        """Raises PeerProtocolError."""
        if self.on_data_channel:
            raise codec.PeerProtocolError("a second move")
        if self._data is None:
            self.lost(LinkLoss.RESET)  # given up or gone a moment ago
            return
        if self._dialed:
            self._writer.move_to(self._data)
        self._settle_move(True)
        self._data.open()

    def _settle_move(self, moved: bool) -> None:
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(moved)

    def stream_received(self, messages: list[bytes]) -> None:
        self._last_heard_s = self._loop.time()
        try:
            for message in messages:
                if self._ended.done():
                    return
                self._receive(message)
        except codec.PeerProtocolError as error:
            self.stream_broken(str(error))
        except Exception as bug:  # noqa: BLE001 - not the connection's: `run` raises it
            self.failed(bug)

    def stream_broken(self, detail: str) -> None:
        if _log_bound.allows(self._peer, self._loop.time()):
            _log.warning("peer broke the protocol", extra={"peer": self._peer, "detail": detail})
        self.close(LinkLoss.PROTOCOL)

    def stream_writable(self) -> None:
        self._writer.data_writable()

    def _blame_data(self, reason: str) -> None:
        self.data_at_fault |= self.on_data_channel and reason == LinkLoss.SILENT.name

    def stream_lost(self, error: Exception | None) -> None:
        """Before the peer moved, the dialing side has lost nothing: the gRPC stream goes on."""
        if self._dialed and not self.on_data_channel:
            self._data = None
            self._settle_move(False)
            return
        self.data_at_fault |= not self._ended.done() and self._said_goodbye is None
        silent_s = self._loop.time() - self._last_heard_s
        self.lost(LinkLoss.SILENT if isinstance(error, TimeoutError) else loss_of_silence(silent_s))

    async def _say_goodbye(self, writer: asyncio.Future[None], reader: asyncio.Future[None], loss: LinkLoss) -> None:
        """Best effort: the write under way may never end, the peer may no longer read."""
        goodbye = Batch(items=[Item(goodbye=Goodbye(reason=loss.name))])
        try:
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await writer
                await self._writer.say(goodbye.SerializeToString())
                if self._half_close is not None:
                    await self._half_close()
                    await asyncio.wait([reader])
        except (TimeoutError, *WRITE_ERRORS):
            pass


def _goodbye_loss(reason: str) -> LinkLoss:
    """REPLACED is worth telling; whatever else the peer's reason was, here the link was closed on purpose."""
    return LinkLoss.REPLACED if reason == LinkLoss.REPLACED.name else LinkLoss.CLOSED
