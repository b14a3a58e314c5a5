"""The fast path: has this machine become slower or faster than it is known to be, a moment ago?

Every observation is compared with what was expected of it; RUN of them in a row beyond the limit, on the same side,
are a change (a run rule of control charts: Western Electric, 1956), told at once as a factor. One stall, or one absurd
value, is never a run. A change that lasts is adopted: it is then what is expected. Recovery is a change like any other.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

RUN = 3
LIMIT_FACTOR = 1.3
"""A change by less than this is left to the slow estimate."""

LIMIT_SPREADS = 2.0
"""... and so is one within this many deviations of what is usual here."""

LIMIT_FACTOR_MAX = 3.0
ADOPTED_AFTER_S = 120.0
FORGOTTEN_AFTER_S = 60.0
"""A run must be of observations no further apart than this; a change not confirmed for as long is over: whatever it was
(a game, a compiler), it need not be there any more."""


class Change:
    """`factor`: present pace against the known one; 1.0 while nothing has changed."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RUN)
        self._factor = 1.0
        self._since_s = 0.0
        self._seen_s = -math.inf

    @property
    def newest_s(self) -> float:
        """Of the last observation."""
        return self._seen_s

    @property
    def since_s(self) -> float:
        """When the present change was noticed."""
        return self._since_s

    def factor(self, now_s: float) -> float:
        """Above 1: slower."""
        return 1.0 if now_s - self._seen_s > FORGOTTEN_AFTER_S else self._factor

    def observe(self, ratio: float, spread: float, now_s: float) -> float | None:
        """`ratio`: seen pace over expected pace; `spread`: of what is expected. Returns the factor that has lasted for
        ADOPTED_AFTER_S, once; the caller then expects that."""
        if now_s - self._seen_s > FORGOTTEN_AFTER_S:
            self._recent.clear()
            self._factor = 1.0
        self._seen_s = now_s
        self._recent.append(min(max(ratio, 1e-3), 1e3))
        if len(self._recent) < RUN:
            return None
        limit = limit_factor(spread)
        slower, faster = min(self._recent) > limit, max(self._recent) < 1.0 / limit
        if not (slower or faster):
            if all(1.0 / limit <= each <= limit for each in self._recent):
                self._factor = 1.0
            return None
        if self._factor == 1.0 or (self._factor > 1.0) != slower:
            self._since_s = now_s
        self._factor = statistics.median(self._recent)
        if now_s - self._since_s < ADOPTED_AFTER_S:
            return None
        lasting, self._factor = self._factor, 1.0
        self._recent.clear()
        return lasting


def limit_factor(spread: float) -> float:
    """Beyond this ratio an observation is not usual."""
    return min(LIMIT_FACTOR_MAX, max(LIMIT_FACTOR, 1.0 + LIMIT_SPREADS * spread))
