"""This gateway without a leader: it chooses machines itself, and calls those who wait in its own line.

Not here: which machine (covey_scheduler.core.leaderless), whose turn (core/waiting_line.py), how fast one user's
requests may follow each other (core/alone_pace.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from covey_gateway.core import offer
from covey_gateway.core import request_events as ev
from covey_gateway.core.alone_pace import AlonePace
from covey_gateway.core.waiting_line import CLOSED_S, WaitingLines, alone_full
from covey_gateway.io.flight import Cancellable, Timers
from covey_mesh.core.asking import Ask, Decision
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import Mesh

ChooseAlone = Callable[[Ask, PoolView, Mapping[NodeId, int], Callable[[], float]], tuple[NodeId | None, Decision]]
"""covey_scheduler.core.leaderless.choose_alone: (ask, view, own requests in flight, random numbers)."""


class Alone:
    """`call` tells a request that it is its turn: (request id, whether a place has freed)."""

    def __init__(
        self,
        mesh: Mesh,
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
        jitter: Callable[[], float],
        choose: ChooseAlone,
        timers: Timers,
        lines: WaitingLines,
        call: Callable[[str, bool], None],
    ) -> None:
        self._mesh = mesh
        self._clock = clock
        self._unix_clock = unix_clock
        self._jitter = jitter
        self._choose = choose
        self._timers = timers
        self._lines = lines
        self._call = call
        self._timer: Cancellable | None = None
        self._pace = AlonePace()

    def decide(self, ask: Ask, in_flight: Mapping[NodeId, int]) -> ev.Assigned | ev.NoCandidate:
        """`in_flight`: this gateway's own attempts, per machine."""
        now_s = self._clock()
        if self._lines.must_wait(ask, now_s):
            return self._in_line(ask)
        view = self._mesh.view()
        full = alone_full(view, ask.model, in_flight) | self._pace.too_fast(ask, now_s)
        if full:
            ask = replace(ask, excluded={**ask.excluded, **full})
        chosen, decision = self._choose(ask, view, in_flight, self._jitter)
        decision = replace(decision, decided_at_unix_s=self._unix_clock())
        if chosen is not None:
            self._pace.given(ask, chosen, view, now_s)
            return ev.Assigned(ask.attempt, chosen, decision)
        pause_s = CLOSED_S * (1 + 0.5 * self._jitter())
        if not decision.turned_away and self._lines.nobody_has_room(ask, now_s, pause_s):
            return self._in_line(ask, decision)
        return ev.NoCandidate(ask.attempt, offer.standing(view, ask.model), decision)

    def left(self, request_id: str) -> None:
        """It asks a leader, or is over."""
        self._lines.left(request_id)

    def place_freed(self, model: str) -> None:
        """One of this gateway's own attempts has ended."""
        if len(self._lines):
            self._lines.place_freed(model, self._clock())
            self._plan()

    def _in_line(self, ask: Ask, decision: Decision | None = None) -> ev.NoCandidate:
        self._plan()
        return ev.NoCandidate(ask.attempt, ev.ModelStanding(known=True, hopeful=True), decision, in_line=True)

    def _plan(self) -> None:
        """The timer stands at the line's next call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at_s = self._lines.wake_at_s
        if wake_at_s is not None:
            self._timer = self._timers.call_later(max(0.0, wake_at_s - self._clock()), self._call_next)

    def _call_next(self) -> None:
        self._timer = None
        for request_id, place_freed in self._lines.call(self._clock()):
            self._call(request_id, place_freed)
        self._plan()
