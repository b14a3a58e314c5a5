"""When the batches of one link are written, and where: on its gRPC stream, or on its data channel once it has moved.

What is queued within one turn of the loop leaves as one batch; urgent items at once, others at most FLUSH_INTERVAL_S
(on a busy link BUSY_FLUSH_INTERVAL_S) after the batch before; whatever is queued while a write is under way leaves
together after it. Not here: in which order things go (batching.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import grpc

from covey_mesh.core.limits import LINK_BACKLOG_BYTES_MAX
from covey_mesh.io.batching import BATCH_TARGET_BYTES, Outbox, flush_delay_s
from covey_mesh.io.data_stream import DataStream
from covey_mesh.wire.v1.link_pb2 import Batch, Item, Moved

WRITE_ERRORS = (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)

_MOVED = Batch(items=[Item(moved=Moved())]).SerializeToString()


class Writable(Protocol):
    """What a client call and a server context have in common."""

    async def write(self, message: bytes) -> None: ...


class Progress(Protocol):
    """What the link is told."""

    def in_flight(self) -> int:
        """Attempts, both ways: asked how busy the link is."""

    def wrote(self) -> None:
        """A batch has left."""

    def overflowed(self) -> None:
        """More than LINK_BACKLOG_BYTES_MAX wait: the peer reads too slowly."""

    def failed(self, bug: Exception) -> None:
        """Something here or behind `wrote` raised."""


class BatchWriter:
    """One link's. `run` writes on the gRPC stream until the link ends or moves."""

    def __init__(self, grpc_stream: Writable, outbox: Outbox, progress: Progress) -> None:
        self._loop = asyncio.get_running_loop()
        self._grpc_stream = grpc_stream
        self._outbox = outbox
        self._progress = progress
        self._data: DataStream | None = None
        self._streaming = False
        self._stopped = False
        self._waiter: asyncio.Future[None] | None = None
        self._release: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_flush_s = self._loop.time()

    @property
    def streaming(self) -> bool:
        """Batches leave on the data channel."""
        return self._streaming

    def wake(self) -> None:
        """Something was queued: let it go now, or when its batch is due."""
        outbox = self._outbox
        waiting_bytes = outbox.waiting_bytes
        if self._timer is not None and not outbox.urgent and waiting_bytes < BATCH_TARGET_BYTES:
            return
        if waiting_bytes > LINK_BACKLOG_BYTES_MAX and not self._stopped:
            self._progress.overflowed()
            return
        release = self._release
        if release is None:
            return
        delay_s = self._due_in_s()
        if delay_s <= 0:
            self._release = None
            release()
        elif self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._timer_fired)

    def move_to(self, data: DataStream) -> None:
        """The batch under way is the gRPC stream's last but for the word that says so."""
        self._data = data
        self._let_go()

    def data_writable(self) -> None:
        """The data channel has drained."""
        if self._streaming and not self._stopped:
            self._release = self._plan_flush
            if not self._outbox.empty:
                self.wake()

    def stop(self) -> None:
        """Nothing more is taken; `run` ends after the write under way."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()

    async def run(self) -> None:
        """Errors of gRPC end it silently: whoever reads learns why."""
        try:
            while not self._stopped and self._data is None:
                if self._outbox.empty or self._due_in_s() > 0:
                    await self._sleep()
                    continue
                self._last_flush_s = self._loop.time()
                await self._grpc_stream.write(self._next_batch())
                self._progress.wrote()
            if not self._stopped:
                await self._grpc_stream.write(_MOVED)
                self._streaming = self._outbox.packs = True
                self.data_writable()
        except WRITE_ERRORS:
            return

    async def say(self, message: bytes) -> None:
        """Last words, on both: whichever ends first at the peer, they came before. Raises WRITE_ERRORS."""
        if self._streaming and self._data is not None:
            self._data.send(message)
        await self._grpc_stream.write(message)

    def _next_batch(self) -> bytes:
        return Batch(items=self._outbox.take()).SerializeToString()

    def _due_in_s(self) -> float:
        outbox = self._outbox
        in_flight = self._progress.in_flight()
        return flush_delay_s(self._loop.time(), self._last_flush_s, outbox.urgent, outbox.waiting_bytes, in_flight)

    def _timer_fired(self) -> None:
        self._timer = None
        if not self._outbox.empty:
            self.wake()

    # On the gRPC stream

    async def _sleep(self) -> None:
        """Until `wake` finds something due."""
        self._waiter = self._loop.create_future()
        self._release = self._let_go
        if not self._outbox.empty:
            self.wake()
        await self._waiter

    def _let_go(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # On the data channel

    def _plan_flush(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        data = self._data
        assert data is not None, "planned before the link moved"
        try:
            self._last_flush_s = self._loop.time()
            while data.writable and not self._outbox.empty and not self._stopped:
                data.send(self._next_batch())
            self._progress.wrote()
        except Exception as bug:  # noqa: BLE001 - ours, or behind `wrote`: the link ends and raises it
            self._progress.failed(bug)
            return
        if data.writable:
            self.data_writable()
