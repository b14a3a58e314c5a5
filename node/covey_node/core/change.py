"""The fast path: has this machine become slower or faster than it is known to be, a moment ago?

Every observation is compared with what was expected of it; RUN of them in a row beyond the limit, on the same side,
are a change (a run rule of control charts: Western Electric, 1956), told at once as a factor. One stall, or one absurd
value, is never a run. A change that lasts is adopted: it is then what is expected. It is over once most of what came
last is usual again: on a busy machine no RUN may ever be all one or all the other.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

RUN = 3
REMEMBERED = 2 * RUN - 1
"""RUN of these are most of them."""

LIMIT_FACTOR = 1.3
"""A change by less than this is left to the slow estimate."""

LIMIT_SPREADS = 2.0
"""... and so is one within this many deviations of what is usual here."""

LIMIT_FACTOR_MAX = 3.0
ADOPTED_AFTER_S = 120.0
FORGOTTEN_AFTER_S = 60.0
"""A run must be of observations no further apart than this; a change not confirmed for as long is over: whatever it was
(a game, a compiler), it need not be there any more. What is neither slow nor usual confirms nothing."""


class Change:
    """`factor`: present pace against the known one; 1.0 while nothing has changed."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=REMEMBERED)
        self._factor = 1.0
        self._since_s = 0.0
        self._confirmed_s = -math.inf
        self._seen_s = -math.inf

    @property
    def newest_s(self) -> float:
        """Of the last observation."""
        return self._seen_s

    @property
    def since_s(self) -> float:
        """When the present change was noticed."""
        return self._since_s

    @property
    def usual(self) -> bool:
        """True: `factor` is 1 at any time, as it nearly always is."""
        return self._factor == 1.0

    def factor(self, now_s: float) -> float:
        """Above 1: slower."""
        return 1.0 if now_s - self._confirmed_s > FORGOTTEN_AFTER_S else self._factor

    def observe(self, ratio: float, spread: float, now_s: float) -> float | None:
        """`ratio`: seen pace over expected pace; `spread`: of what is expected. Returns the factor that has lasted for
        ADOPTED_AFTER_S, once; the caller then expects that."""
        if now_s - self._seen_s > FORGOTTEN_AFTER_S:
            self._recent.clear()
        self._factor = self.factor(now_s)
        self._seen_s = now_s
        self._recent.append(min(max(ratio, 1e-3), 1e3))
        limit = limit_factor(spread)
        run = list(self._recent)[-RUN:]
        slower, faster = min(run) > limit, max(run) < 1.0 / limit
        if len(run) == RUN and (slower or faster):
            return self._changed(statistics.median(run), now_s)
        if sum(1.0 / limit <= each <= limit for each in self._recent) >= RUN:
            self._factor = 1.0
        return None

    def _changed(self, factor: float, now_s: float) -> float | None:
        """A run confirms it. Returns it once it has lasted."""
        if self._factor == 1.0 or (self._factor > 1.0) != (factor > 1.0):
            self._since_s = now_s
        self._factor, self._confirmed_s = factor, now_s
        if now_s - self._since_s < ADOPTED_AFTER_S:
            return None
        self._factor = 1.0
        self._recent.clear()
        return factor


def limit_factor(spread: float) -> float:
    """Beyond this ratio an observation is not usual."""
    return min(LIMIT_FACTOR_MAX, max(LIMIT_FACTOR, 1.0 + LIMIT_SPREADS * spread))
