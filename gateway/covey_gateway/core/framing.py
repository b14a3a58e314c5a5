"""Messages on a byte stream: each behind its length. Not here: what is in a message, reading and writing.

Four bytes, most significant first, then that many bytes of the message.
"""

from __future__ import annotations

from collections.abc import Iterator

LENGTH_BYTES = 4


class FramingError(Exception):
    """The other side announced a frame that no frame may be: nothing after it can be understood."""


def framed(message: bytes) -> bytes:
    """`message` behind its length."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


class FrameReader:
    """Cuts what arrives into messages. Holds one message of `message_bytes_max` at most, and what came with it."""

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete now. Raises FramingError; after it the reader is of no further use."""
        held = self._held
        held += data
        begin = 0
        try:
            while (end := self._end(begin)) <= len(held):
                message = bytes(memoryview(held)[begin + LENGTH_BYTES : end])
                begin = end
                yield message
        finally:
            del held[:begin]

    def _end(self, begin: int) -> int:
        """Where the frame that begins there ends; past everything while its length is not known yet."""
        prefix = self._held[begin : begin + LENGTH_BYTES]
        if len(prefix) < LENGTH_BYTES:
            return begin + len(self._held) + 1
        length = int.from_bytes(prefix, "big")
        if not 0 < length <= self._message_bytes_max:
            raise FramingError(f"a message of {length} bytes, at most {self._message_bytes_max} are allowed")
        return begin + LENGTH_BYTES + length
