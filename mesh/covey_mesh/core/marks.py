"""A request's mark: 32 bits by which a machine's report names the requests that it holds.

A leader must know which of its assignments a report includes. Time does not tell: a gateway that a thousand clients
call at once opens an attempt half a second after it was assigned. Two requests of one machine with the same mark (a
chance of one in a million among 64) make the leader believe once too early; nothing else depends on it.
"""

from __future__ import annotations

import zlib

MARKS_MAX = 1024
"""In one model's report; a machine that holds more requests tells none."""


def mark_of(request_id: str, attempt: int) -> int:
    """The same on every machine."""
    return zlib.crc32(request_id.encode("utf-8", "surrogatepass"), attempt)
