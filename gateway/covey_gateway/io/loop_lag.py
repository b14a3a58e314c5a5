"""How late this agent's event loop runs its timers: what makes everything else here late.

Not here: what a blocked loop costs others (they notice its silence by their own heartbeats).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

PERIOD_S = 0.25
"""As seldom as finds every standstill that a heartbeat would: an idle agent should sleep."""

TOLD_FROM_S = 1.0
"""More than half of a leader's lease: not much longer, and the others elect another."""


class _Timer(Protocol):
    def cancel(self) -> None: ...


class _Timers(Protocol):
    """An asyncio event loop fits."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> _Timer: ...


class LoopLag:
    """`observe` gets the seconds that a timer was late, four times a second, from `start` to `stop`.

    `clock`: in seconds; it must go on while the process is stopped and stand still while the machine sleeps.
    """

    def __init__(
        self, timers: _Timers, observe: Callable[[float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timers = timers
        self._observe = observe
        self._clock = clock
        self._armed_s = 0.0
        self._timer: _Timer | None = None

    def start(self) -> None:
        self._armed_s = self._clock()
        self._timer = self._timers.call_later(PERIOD_S, self._look)

    def stop(self) -> None:
        """Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        late_s = max(0.0, self._clock() - self._armed_s - PERIOD_S)
        self._observe(late_s)
        if late_s >= TOLD_FROM_S:
            text = "this agent stood still: the machine is overloaded, or the process was stopped"
            logger.warning(text, extra={"seconds": round(late_s, 3)})
        self.start()
