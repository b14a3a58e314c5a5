"""What a streaming client was sent so far, as raw bytes: the price of being able to continue while all is well.

One append a chunk and nothing parsed; read only when a machine fails (emitted.py). Bounded per request and over all:
an answer that outgrows its bound is forgotten, and can then no longer be continued.
"""

from __future__ import annotations

from covey_gateway.core.retrying import BufferBudget


class KeptAnswer:
    """The whole events of one stream, in order."""

    __slots__ = ("_budget", "_chunks", "_limit", "_size", "overflowed")

    def __init__(self, budget: BufferBudget, limit_bytes: int) -> None:
        self._budget = budget
        self._limit = limit_bytes
        self._chunks: list[bytes] = []
        self._size = 0
        self.overflowed = False

    def add(self, chunk: bytes) -> None:
        """Whole events only."""
        if self.overflowed:
            return
        size = len(chunk)
        if self._size + size > self._limit or not self._budget.take(size):
            self.drop()
            self.overflowed = True
            return
        self._chunks.append(chunk)
        self._size += size

    def all(self) -> bytes:
        """Everything kept; not to be called once it overflowed."""
        assert not self.overflowed, "the answer outgrew its bound"
        return b"".join(self._chunks)

    def drop(self) -> None:
        """Gives the budget back."""
        self._budget.give_back(self._size)
        self._chunks, self._size = [], 0
