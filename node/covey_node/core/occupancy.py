"""How many there were at once, on average over any time: an integral that is looked at twice."""

from __future__ import annotations


class Occupancy:
    """`count` of something that begins and ends (streams of a batch, prompts being computed)."""

    __slots__ = ("_seconds", "_since_s", "count")

    def __init__(self) -> None:
        self.count = 0
        self._seconds = 0.0
        self._since_s = 0.0

    def seconds(self, now_s: float) -> float:
        """Of all together so far: the difference of two looks, over the time between them, is the mean count."""
        elapsed_s = now_s - self._since_s
        return self._seconds + self.count * elapsed_s if elapsed_s > 0.0 else self._seconds

    def change(self, by: int, now_s: float) -> float:
        """Returns the `seconds` of this moment."""
        elapsed_s, self._since_s = now_s - self._since_s, now_s
        if elapsed_s > 0.0:
            self._seconds += self.count * elapsed_s
        self.count += by
        return self._seconds


class Presence:
    """As above, but `seconds` are those in which there was at least one."""

    __slots__ = ("_seconds", "_since_s", "count")

    def __init__(self) -> None:
        self.count = 0
        self._seconds = 0.0
        self._since_s = 0.0

    def seconds(self, now_s: float) -> float:
        return self._seconds + max(0.0, now_s - self._since_s) if self.count else self._seconds

    def change(self, by: int, now_s: float) -> float:
        """Returns the `seconds` of this moment."""
        self._seconds, self._since_s = self.seconds(now_s), now_s
        self.count += by
        return self._seconds
