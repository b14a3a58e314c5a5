"""Server-sent events out of a byte stream, for readers that must understand them (gRPC, continuation).

The HTTP relay never uses this: there, bytes pass unread. Source: the WHATWG HTML standard, section 9.2, reduced to what
OpenAI-compatible engines send: `data:` lines, an empty line between events, "[DONE]" last.
"""

from __future__ import annotations

EVENT_BYTES_MAX = 8 * 1024 * 1024
"""Largest single event; a machine that sends a longer one is at fault."""

DONE = b"[DONE]"


class EventTooLargeError(Exception):
    """The engine sent an event longer than EVENT_BYTES_MAX."""


class EventSplitter:
    """Feed chunks of any alignment, get the `data` of each complete event."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Data of the events completed by this chunk, "[DONE]" included. Raises EventTooLargeError."""
        parts = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        self._rest = parts.pop()
        if len(self._rest) > EVENT_BYTES_MAX:
            raise EventTooLargeError(f"an event is longer than {EVENT_BYTES_MAX} bytes")
        return [data for part in parts if (data := _data_of(part))]


def _data_of(event: bytes) -> bytes:
    lines = [line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
