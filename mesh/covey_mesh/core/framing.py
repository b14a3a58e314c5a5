"""Messages on a byte stream: each behind its length, four bytes, most significant first.

Not here: what a message means, and who sends it (covey_mesh.io.data_stream).
"""

from __future__ import annotations

LENGTH_BYTES = 4


class FrameTooLongError(ValueError):
    """The other side announces more than is ever taken."""


def frame(message: bytes) -> bytes:
    """What crosses the stream."""
    return len(message).to_bytes(LENGTH_BYTES) + message


class FrameReader:
    """Cuts what arrives into messages. Keeps at most one message that is not whole yet, `message_bytes_max` long."""

    __slots__ = ("_kept", "_max", "_wanted")

    def __init__(self, message_bytes_max: int) -> None:
        self._max = message_bytes_max
        self._kept = bytearray()
        self._wanted = LENGTH_BYTES

    @property
    def kept_bytes(self) -> int:
        """Of a message that is not whole yet."""
        return len(self._kept)

    def feed(self, received: bytes) -> list[bytes]:
        """The messages that are whole now, in order. Raises FrameTooLongError; the stream is of no use after it."""
        if self._kept:
            self._kept += received
            if len(self._kept) < self._wanted:
                return []
            received = bytes(self._kept)
            self._kept = bytearray()
        messages, at, end = [], 0, len(received)
        while True:
            begin = at + LENGTH_BYTES
            if begin > end:
                self._wanted = LENGTH_BYTES
                break
            length = int.from_bytes(received[at:begin])
            if length > self._max:
                raise FrameTooLongError(f"a message of {length} bytes, at most {self._max} are taken")
            if begin + length > end:
                self._wanted = LENGTH_BYTES + length
                break
            messages.append(received[begin : begin + length])
            at = begin + length
        if at < end:
            self._kept += received[at:]
        return messages
