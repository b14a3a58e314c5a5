"""What a streaming client was sent so far, as raw bytes: the price of being able to continue while all is well.

One append a chunk and nothing parsed; read only when a machine fails (emitted.py). Bounded per request and over all:
an answer that outgrows its bound is forgotten, and can then no longer be continued.
"""

from __future__ import annotations

from covey_gateway.core.retrying import BufferBudget

GRANT_BYTES = 32 * 1024
"""Taken from the common budget at a time, so that most chunks cost an append and an addition."""


class KeptAnswer:
    """The whole events of one stream, in order."""

    __slots__ = ("_budget", "_chunks", "_granted", "_limit", "_size", "overflowed")

    def __init__(self, budget: BufferBudget, limit_bytes: int) -> None:
        self._budget = budget
        self._limit = limit_bytes
        self._chunks: list[bytes] = []
        self._size = self._granted = 0
        self.overflowed = False

    def add(self, chunk: bytes) -> None:
        """Whole events only."""
        self._size = size = self._size + len(chunk)
        if size <= self._granted:
            self._chunks.append(chunk)
        elif not self.overflowed:
            self._add_beyond_grant(chunk)

    def _add_beyond_grant(self, chunk: bytes) -> None:
        grant = max(self._size - self._granted, min(GRANT_BYTES, self._limit - self._granted))
        if self._size > self._limit or not self._budget.take(grant):
            self.drop()
            self.overflowed = True
            return
        self._granted += grant
        self._chunks.append(chunk)

    def all(self) -> bytes:
        """Everything kept; not to be called once it overflowed."""
        assert not self.overflowed, "the answer outgrew its bound"
        return b"".join(self._chunks)

    def drop(self) -> None:
        """Gives the budget back."""
        self._budget.give_back(self._granted)
        self._chunks, self._size, self._granted = [], 0, 0
