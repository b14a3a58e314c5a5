"""An engine's life as one table: which state follows which event, when to try again, when to give up.

Not here: starting and stopping anything (covey_node.io.supervisor), nor any clock: callers pass `now_s`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from covey_mesh.core.facts import EngineState

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 30.0
CRASHES_MAX = 6
"""Ends in a row, none followed by a healthy period, after which the engine is FAILED: 1+2+4+8+16 s of pauses."""

HEALTHY_AFTER_S = 60.0
"""READY for this long: what came before is forgiven, the next crash counts as the first."""


class Event(enum.Enum):
    """What happens to an engine."""

    START = "start"
    ANSWERED = "answered"
    SILENT = "silent"
    ENDED = "ended"
    BACKOFF_OVER = "backoff over"
    GIVE_UP = "give up"
    STOP = "stop"
    STOPPED = "stopped"


S, E = EngineState, Event
TRANSITIONS: dict[tuple[EngineState, Event], EngineState] = {
    (S.STOPPED, E.START): S.STARTING,
    (S.FAILED, E.START): S.STARTING,
    (S.STARTING, E.ANSWERED): S.READY,
    (S.STARTING, E.ENDED): S.BACKING_OFF,
    (S.STARTING, E.GIVE_UP): S.FAILED,
    (S.STARTING, E.STOP): S.STOPPING,
    (S.READY, E.SILENT): S.WEDGED,
    (S.WEDGED, E.ANSWERED): S.READY,
    (S.WEDGED, E.ENDED): S.BACKING_OFF,
    (S.WEDGED, E.GIVE_UP): S.FAILED,
    (S.WEDGED, E.STOP): S.STOPPING,
    (S.READY, E.ENDED): S.BACKING_OFF,
    (S.READY, E.GIVE_UP): S.FAILED,
    (S.READY, E.STOP): S.STOPPING,
    (S.BACKING_OFF, E.BACKOFF_OVER): S.STARTING,
    (S.BACKING_OFF, E.STOP): S.STOPPING,
    (S.FAILED, E.STOP): S.STOPPING,
    (S.STOPPING, E.STOPPED): S.STOPPED,
}
del S, E


class IllegalTransition(Exception):
    """A bug of ours: the event cannot happen in that state."""


def backoff_s(crashes_in_row: int) -> float:
    """Seconds to wait after the n-th end in a row (n >= 1): doubling from BACKOFF_FIRST_S, capped."""
    if crashes_in_row < 1:
        raise ValueError("there is nothing to wait for before the first end")
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(crashes_in_row - 1, 30))


@dataclass(frozen=True, slots=True)
class Retry:
    """What to do after an engine ended: wait and start again, or (None) leave it FAILED."""

    after_s: float | None


class Lifecycle:
    """One engine's state. `restarts` counts starts after the first, over the whole life of the supervisor."""

    def __init__(self, now_s: float) -> None:
        self.state = EngineState.STOPPED
        self.since_s = now_s
        self.restarts = 0
        self.crashes_in_row = 0

    def step(self, event: Event, now_s: float) -> None:
        """Follow the table; raises IllegalTransition for a pair that is not in it."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise IllegalTransition(f"{event.value!r} while {self.state.value}")
        if event is Event.BACKOFF_OVER:
            self.restarts += 1
        if event is Event.START or (event is Event.SILENT and self._healthy(now_s)):
            self.crashes_in_row = 0
        self.state = following
        self.since_s = now_s

    def ended(self, now_s: float, *, hopeless: bool = False) -> Retry:
        """The engine ended by itself; `hopeless` when a further start cannot go better (a wrong model path)."""
        if self._healthy(now_s):
            self.crashes_in_row = 0
        self.crashes_in_row += 1
        if hopeless or self.crashes_in_row >= CRASHES_MAX:
            self.step(Event.GIVE_UP, now_s)
            return Retry(None)
        self.step(Event.ENDED, now_s)
        return Retry(backoff_s(self.crashes_in_row))

    def _healthy(self, now_s: float) -> bool:
        return self.state is EngineState.READY and now_s - self.since_s >= HEALTHY_AFTER_S
