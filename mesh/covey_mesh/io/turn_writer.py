"""Writes that leave together, at the end of a turn of the event loop.

A write to a socket whose reader sleeps wakes the reader, and that costs more than the rest of a short request: a third
of all CPU where many small answers pass in one turn between one engine and a few clients, each of which sleeps again
before the next. So where a turn writes to several connections, these writes are kept until the loop has handled all
that it had read, or until WRITES_A_FLUSH connections have something: the first of them wakes the reader, the others
find it awake.

Nothing waits for a timer, and where the turn before wrote to one connection at most, a write goes out at once: a single
client waits for nothing.

Not here: how much may be buffered (the transport's own limits, which count what has been handed to it).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

logger = logging.getLogger(__name__)

WRITES_A_FLUSH = 16
"""Connections with something to write: more of them do not wait for the end of the turn."""

Bytes = bytes | bytearray | memoryview


class Turn:
    """What one server's or client's connections write in one turn of the loop. `together`: they wait for its end."""

    __slots__ = ("_call_soon", "_ends", "_last", "_waiting", "_writers", "together")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """`call_soon`: the event loop's."""
        self._call_soon = call_soon
        self._waiting: list[TurnWriter] = []
        self._writers = 0
        self._last: TurnWriter | None = None
        self._ends = False
        self.together = False

    def wrote(self, writer: TurnWriter) -> None:
        """A write has gone out at once."""
        if writer is not self._last:
            self._last = writer
            self._writers += 1
            if not self._ends:
                self._ends = True
                self._call_soon(self._end)

    def wait(self, writer: TurnWriter) -> None:
        """It has something to write, and is called to `flush` at the end of the turn at the latest."""
        waiting = self._waiting
        waiting.append(writer)
        self._writers += 1
        if not self._ends:
            self._ends = True
            self._call_soon(self._end)
        elif len(waiting) >= WRITES_A_FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        for writer in waiting:
            try:
                writer.flush()
            except Exception:
                # A bug of ours costs one connection, not what the others have to say.
                logger.exception("bug in writing: the connection is ended")
                writer.abort()

    def _end(self) -> None:
        self._ends = False
        self.together = self._writers > 1
        self._writers, self._last = 0, None
        if self._waiting:
            self.flush()


class TurnWriter(asyncio.Transport):
    """Stands for a connection's transport, and writes by turns; everything else is the transport's own."""

    def __init__(self, transport: asyncio.BaseTransport, turn: Turn) -> None:
        # uvloop's transports have the interface without the base class.
        self._transport = cast(asyncio.Transport, transport)
        self._turn = turn
        self._pieces: list[Bytes] = []

    def write(self, data: Bytes) -> None:
        pieces = self._pieces
        if pieces:
            pieces.append(data)
        elif self._turn.together:
            pieces.append(data)
            self._turn.wait(self)
        else:
            self._transport.write(data)
            self._turn.wrote(self)

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        for data in list_of_data:
            self.write(data)

    def flush(self) -> None:
        """Hand over what waits; to a connection that was lost meanwhile, nothing."""
        pieces = self._pieces
        if not pieces:
            return
        self._pieces = []
        if self._transport.is_closing():
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + sum(map(len, self._pieces))

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._pieces = []
        self._transport.abort()

    # --- the transport's own -----------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high=high, low=low)

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()
