"""The body of one upload, between the connection that reads it and the page that takes it. Bounded: beyond
UNREAD_BYTES_MAX the connection stops reading until the page has caught up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from covey_gateway.core.errors import GatewayError, bad_http

UNREAD_BYTES_MAX = 1024 * 1024
"""Held for a page that writes slower than its client sends."""


class Upload:
    """`pause` and `resume` act on the connection's reading."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._wake = asyncio.Event()
        self._error: GatewayError | None = None
        self.ended = False
        self.paused = False

    def feed(self, piece: bytes) -> None:
        """From the connection."""
        self._pieces.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > UNREAD_BYTES_MAX and not self.paused:
            self.paused = True
            self._pause()
        self._wake.set()

    def end(self) -> None:
        """The body is complete."""
        self.ended = True
        self._wake.set()

    def fail(self, error: GatewayError) -> None:
        """The rest will not come; whoever reads is told."""
        self._error = self._error or error
        self._wake.set()

    def gone(self) -> None:
        """The client has left."""
        self.fail(bad_http("the connection ended before the body did"))

    def leave(self) -> None:
        """Nobody reads any more: what is held is dropped."""
        self._pieces.clear()
        self._held_bytes = 0
        self._go_on()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises GatewayError."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._held_bytes -= len(piece)
                if self._held_bytes <= UNREAD_BYTES_MAX // 2:
                    self._go_on()
                yield piece
            if self._error is not None:
                raise self._error
            if self.ended:
                return
            self._wake.clear()
            await self._wake.wait()

    def _go_on(self) -> None:
        if self.paused:
            self.paused = False
            self._resume()
