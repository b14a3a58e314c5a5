"""What waits to be written to one link, and in which order it goes.

Control items first, then the streams in turns of at most one chunk, so that neither a large body nor a fast answer
delays a heartbeat or starves another stream. Chunks of one stream that wait together leave as one item. Not here:
when a batch is written (link.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from covey_mesh.core.limits import DATA_CHUNK_BYTES_MAX
from covey_mesh.wire.v1.link_pb2 import Item, ResponseChunks

BATCH_TARGET_BYTES = 256 * 1024
"""A batch is closed when it has reached this; a single item may be larger."""

ITEM_OVERHEAD_BYTES = 32
"""Counted for each item besides its content, so that a flood of empty items is bounded as well."""

FLUSH_INTERVAL_S = 0.005
"""Items that are not urgent leave at most this long after the batch before (measured: a batch a token costs several
times the CPU); on an idle link they leave at once."""

BUSY_FLUSH_INTERVAL_S = 0.010
"""The same with BUSY_STREAMS or more in flight. A gRPC message costs 0.7 ms of CPU, both ends together, whatever is in
it; an engine's step emits a token of each stream at once, so that this is a batch a step where 5 ms are two."""

BUSY_STREAMS = 16


def flush_delay_s(now_s: float, last_flush_s: float, urgent: bool, waiting_bytes: int, streams: int = 0) -> float:
    """How long the next batch should still wait; 0: write now."""
    if urgent or waiting_bytes >= BATCH_TARGET_BYTES:
        return 0.0
    interval_s = FLUSH_INTERVAL_S if streams < BUSY_STREAMS else BUSY_FLUSH_INTERVAL_S
    return max(0.0, last_flush_s + interval_s - now_s)


class Packed:
    """Bytes of answers that follow each other in a batch: one item for all of them costs less than one each."""

    __slots__ = ("chunks", "stream_ids")

    def __init__(self) -> None:
        self.stream_ids: list[int] = []
        self.chunks: list[bytes] = []

    def item(self) -> Item:
        return Item(chunks=ResponseChunks(stream_ids=self.stream_ids, chunks=self.chunks))


class Lane:
    """One stream's items, in order."""

    __slots__ = ("_answer_id", "_chunk_item", "_entries", "_outbox", "queued", "started")

    def __init__(self, outbox: Outbox, chunk_item: Callable[[bytes], Item], answer_id: int | None) -> None:
        self._outbox = outbox
        self._chunk_item = chunk_item
        self._answer_id = answer_id
        self._entries: deque[tuple[Item | None, bytes | memoryview, int]] = deque()
        self.started = False
        """True once anything of it was taken for a batch."""
        self.queued = False
        """True while the outbox has it in line for a turn."""

    def put(self, item: Item, urgent: bool) -> None:
        """Queue a whole item."""
        size_bytes = item.ByteSize() + ITEM_OVERHEAD_BYTES
        self._entries.append((item, _NOTHING, size_bytes))
        self._outbox.lane_grew(self, size_bytes, urgent)

    def put_data(self, chunk: bytes | memoryview, urgent: bool) -> None:
        """Queue bytes; they may leave cut or joined."""
        size_bytes = len(chunk) + ITEM_OVERHEAD_BYTES
        self._entries.append((None, chunk, size_bytes))
        self._outbox.lane_grew(self, size_bytes, urgent)

    def discard(self) -> None:
        """Forget what waits."""
        self._outbox.lane_shrank(sum(size for _, _, size in self._entries))
        self._entries.clear()

    def __bool__(self) -> bool:
        return bool(self._entries)

    def take_turn(self, items: list[Item | Packed]) -> int:
        """Move up to one chunk of data, and the items around it, to `items`. Returns their bytes."""
        self.started = True
        taken_bytes, data_bytes = 0, 0
        pieces: list[bytes | memoryview] = []
        while self._entries and data_bytes < DATA_CHUNK_BYTES_MAX:
            item, view, size_bytes = self._entries.popleft()
            if item is not None:
                self._emit(pieces, items)
                items.append(item)
                taken_bytes += size_bytes
                continue
            room_bytes = DATA_CHUNK_BYTES_MAX - data_bytes
            if len(view) > room_bytes:
                whole = memoryview(view)
                rest = whole[room_bytes:]
                self._entries.appendleft((None, rest, len(rest) + ITEM_OVERHEAD_BYTES))
                view, size_bytes = whole[:room_bytes], room_bytes
            pieces.append(view)
            data_bytes += len(view)
            taken_bytes += size_bytes
        self._emit(pieces, items)
        return taken_bytes

    def _emit(self, pieces: list[bytes | memoryview], items: list[Item | Packed]) -> None:
        if not pieces:
            return
        chunk = b"".join(pieces)  # of a single bytes object: itself
        pieces.clear()
        if self._answer_id is None or not self._outbox.packs:
            items.append(self._chunk_item(chunk))
            return
        last = items[-1] if items else None
        if not isinstance(last, Packed):
            last = Packed()
            items.append(last)
        last.stream_ids.append(self._answer_id)
        last.chunks.append(chunk)


class Outbox:
    """Everything that waits for one link. Sizes are of content plus a fixed overhead an item."""

    def __init__(self) -> None:
        self._control: deque[tuple[Item, int]] = deque()
        self._turns: deque[Lane] = deque()
        self.waiting_bytes = 0
        self.urgent = False
        self.packs = False
        """The peer knows ResponseChunks."""

    @property
    def empty(self) -> bool:
        return not self._control and not self._turns

    def put_control(self, item: Item, urgent: bool) -> None:
        """Queue ahead of every stream's items."""
        size_bytes = item.ByteSize() + ITEM_OVERHEAD_BYTES
        self._control.append((item, size_bytes))
        self.waiting_bytes += size_bytes
        self.urgent = self.urgent or urgent

    def lane(self, chunk_item: Callable[[bytes], Item], answer_id: int | None = None) -> Lane:
        """A new stream's place; `chunk_item` wraps its bytes. `answer_id`: they are those of that answer."""
        return Lane(self, chunk_item, answer_id)

    def lane_grew(self, lane: Lane, size_bytes: int, urgent: bool) -> None:
        self.waiting_bytes += size_bytes
        self.urgent = self.urgent or urgent
        if not lane.queued:
            lane.queued = True
            self._turns.append(lane)

    def lane_shrank(self, size_bytes: int) -> None:
        self.waiting_bytes -= size_bytes

    def take(self) -> list[Item]:
        """The next batch; empty when nothing waits."""
        items: list[Item | Packed] = []
        batch_bytes = 0
        while self._control and batch_bytes < BATCH_TARGET_BYTES:
            item, size_bytes = self._control.popleft()
            items.append(item)
            batch_bytes += size_bytes
        while self._turns and batch_bytes < BATCH_TARGET_BYTES:
            lane = self._turns.popleft()
            batch_bytes += lane.take_turn(items)
            lane.queued = bool(lane)
            if lane:
                self._turns.append(lane)
        self.waiting_bytes -= batch_bytes
        if not self._control and not self._turns:
            self.urgent = False
        return [item.item() if isinstance(item, Packed) else item for item in items]


_NOTHING = b""
