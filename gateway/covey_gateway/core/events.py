"""Server-sent events out of a byte stream, for readers that must understand them (gRPC, continuation).

The HTTP relay of a healthy answer never uses this: there, bytes pass unread (event_stream.py, whose framing this
shares). Source: the WHATWG HTML standard, section 9.2, reduced to what OpenAI-compatible engines send: `data:` lines,
an empty line between events, "[DONE]" last.
"""

from __future__ import annotations

from covey_gateway.core.event_stream import EVENT_END

EVENT_BYTES_MAX = 8 * 1024 * 1024
"""Largest single event; a machine that sends a longer one is at fault."""

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"


class EventTooLargeError(Exception):
    """The engine sent an event longer than EVENT_BYTES_MAX."""


class EventSplitter:
    """Feed chunks of any alignment, get the `data` of each complete event."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Data of the events completed by this chunk, "[DONE]" included. Raises EventTooLargeError."""
        whole, found, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").rpartition(EVENT_END)
        if len(self._rest) > EVENT_BYTES_MAX:
            raise EventTooLargeError(f"an event is longer than {EVENT_BYTES_MAX} bytes")
        return data_of_events(whole) if found else []


def data_of_events(whole: bytes) -> list[bytes]:
    """The `data` of each event that has any."""
    return [data for event in whole.split(EVENT_END) if (data := _data_of(event))]


def _data_of(event: bytes) -> bytes:
    lines = [line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
