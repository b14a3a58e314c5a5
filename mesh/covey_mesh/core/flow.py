"""Credit-based flow control of one answer: the sender sends no more than the reader has room for.

The same idea as HTTP/2's stream windows (RFC 9113, 5.2), one level up, since many answers share one HTTP/2 stream.
Not here: what is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.limits import STREAM_WINDOW_BYTES


@dataclass(slots=True)
class SendWindow:
    """The sender's side: bytes that may still be sent."""

    credit_bytes: int

    def take(self, wanted_bytes: int) -> int:
        """How many of those bytes may go now; they count as sent."""
        allowed = min(wanted_bytes, self.credit_bytes)
        self.credit_bytes -= allowed
        return allowed

    def take_all(self, wanted_bytes: int) -> bool:
        """All of them may go now, and count as sent; or none of them."""
        if wanted_bytes > self.credit_bytes:
            return False
        self.credit_bytes -= wanted_bytes
        return True

    def grant(self, more_bytes: int) -> None:
        """Never above the size of a window: a reader that grants without end gains nothing."""
        self.credit_bytes = min(self.credit_bytes + more_bytes, STREAM_WINDOW_BYTES)


@dataclass(slots=True)
class ReceiveWindow:
    """The reader's side: what was granted, and what may be granted again. `open_bytes`: granted and not yet come."""

    window_bytes: int = STREAM_WINDOW_BYTES
    paused: bool = False
    open_bytes: int = STREAM_WINDOW_BYTES

    def receive(self, chunk_bytes: int) -> bool:
        """False if the sender exceeded what it was granted."""
        self.open_bytes -= chunk_bytes
        return self.open_bytes >= 0

    def to_grant(self) -> int:
        """Bytes to grant now; 0 while the reader is paused or at least half of the window is still open."""
        if self.paused or self.open_bytes > self.window_bytes // 2:
            return 0
        granted = self.window_bytes - self.open_bytes
        self.open_bytes = self.window_bytes
        return granted
