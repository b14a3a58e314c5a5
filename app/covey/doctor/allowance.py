"""How much this machine does for others' doctors: a token bucket. Pure; `now_s` is handed in."""

from __future__ import annotations


class Allowance:
    """At most `burst` at once and `per_s` in the long run; what is asked beyond that is refused, never queued."""

    def __init__(self, burst: float, per_s: float, now_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._left, self._at_s = burst, now_s

    def take(self, amount: float, now_s: float) -> bool:
        """True if that much is allowed now, and then it is used up."""
        earned = max(0.0, now_s - self._at_s) * self._per_s
        self._left, self._at_s = min(self._burst, self._left + earned), now_s
        if amount > self._left:
            return False
        self._left -= amount
        return True
