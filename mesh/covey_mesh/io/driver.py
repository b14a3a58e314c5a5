"""Drives the mesh's two state machines: steps them with what happens, carries out what they decide, wakes them in time.

Effects run in the order in which they were decided; what an effect causes queues behind it, also when the outside
calls back at once. One timer for both, set to the earlier of their wake-ups; no polling. Not here: any decision
(core/), what the outside is (mesh.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from covey_mesh.core.effects import (
    CloseLink,
    Dial,
    FollowerGained,
    LeadershipChanged,
    MemberChanged,
    MemberLost,
    Persist,
    Send,
    TellElection,
)
from covey_mesh.core.election import Election
from covey_mesh.core.events import (
    ElectionEvent,
    FollowerJoined,
    LeaderChanged,
    MembershipEvent,
    PeerGone,
    Persisted,
    PersistFailed,
    Probe,
    Promise,
    Tick,
)
from covey_mesh.core.membership import Membership
from covey_mesh.core.messages import ControlMessage, PreVoteRequest
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.stores import PromiseStore

_log = logging.getLogger(__name__)


class Outside(Protocol):
    """What effects act on."""

    def send_control(self, node_id: NodeId, message: ControlMessage) -> bool:
        """False if there is no link to that machine now."""

    def dial(self, address: str, expected: NodeId | None) -> None: ...

    def close_link(self, number: int, loss: LinkLoss) -> None: ...

    def machine_gone(self, node_id: NodeId) -> None: ...

    def leadership_changed(self, change: LeadershipChanged) -> None: ...

    def member_changed(self, node_id: NodeId) -> None: ...

    def member_lost(self, lost: MemberLost) -> None: ...


class Driver:
    """Runs from `start` until `halt`; before and after, nothing is carried out."""

    def __init__(
        self, outside: Outside, membership: Membership, promises: PromiseStore, clock: Callable[[], float]
    ) -> None:
        self.running = False
        self.election: Election
        self._outside = outside
        self._membership = membership
        self._promises = promises
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop
        self._effects: deque[Any] = deque()
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = float("inf")

    def start(self, loop: asyncio.AbstractEventLoop, election: Election) -> None:
        """From now on effects are carried out and timers set; `drain` begins with what is waiting."""
        self._loop, self.election, self.running = loop, election, True

    def halt(self) -> None:
        """Nothing more happens."""
        self.running = False
        self._effects.clear()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def waiting_effects(self) -> int:
        return len(self._effects)

    # --- stepping ---------------------------------------------------------------------------------------------------

    def step_membership(self, event: MembershipEvent) -> None:
        """Also before `start`: its effects wait."""
        self._effects.extend(self._membership.step(self._clock(), event))
        self.drain()

    def step_election(self, event: ElectionEvent) -> None:
        """Nothing unless running."""
        if self.running:
            self._effects.extend(self.election.step(self._clock(), event))
            self.drain()

    def drain(self) -> None:
        """Carry out what is waiting, in order."""
        if self._draining or not self.running:
            return
        self._draining = True
        try:
            while self._effects:
                self._carry_out(self._effects.popleft())
        finally:
            self._draining = False
        self._set_timer()

    def _carry_out(self, effect: Any) -> None:
        if isinstance(effect, Send):
            self._carry_out_send(effect)
        elif isinstance(effect, TellElection):
            self.step_election(effect.event)
            if isinstance(effect.event, PeerGone):
                self._outside.machine_gone(effect.event.peer)
        elif isinstance(effect, Dial):
            self._outside.dial(effect.address, effect.expected)
        elif isinstance(effect, CloseLink):
            self._outside.close_link(effect.link, effect.loss)
        elif isinstance(effect, Persist):
            self._promises.save(effect.promise, lambda error: self._persisted(effect.promise, error))
        elif isinstance(effect, FollowerGained):
            self.step_membership(FollowerJoined(effect.node_id))
        elif isinstance(effect, LeadershipChanged):
            self.step_membership(LeaderChanged(effect.leader, effect.ballot))
            self._outside.leadership_changed(effect)
        elif isinstance(effect, MemberChanged):
            self._outside.member_changed(effect.node_id)
        else:
            self._outside.member_lost(effect)

    def _carry_out_send(self, effect: Send) -> None:
        sent = self._outside.send_control(effect.to, effect.message)
        if sent and isinstance(effect.message, PreVoteRequest):
            self.step_membership(Probe(effect.to))

    def _persisted(self, promise: Promise, error: Exception | None) -> None:
        if not self.running:
            return
        if error is not None:
            _log.error("cannot write the ballot: this machine neither leads nor grants a leader: %s", error)
        self.step_election(Persisted(promise) if error is None else PersistFailed(promise))

    # --- time -------------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        """An earlier timer that is already set may stay: it finds nothing due and sets the next."""
        due_s = min(self.election.wake_at_s, self._membership.wake_at_s)
        if due_s >= self._timer_due_s or due_s == float("inf"):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._loop.call_later(max(0.0, due_s - self._clock()), self._tick)

    def _tick(self) -> None:
        """Only who is due is woken, and the next timer is set once for both."""
        self._timer, self._timer_due_s = None, float("inf")
        now_s = self._clock()
        if self.running and now_s >= self.election.wake_at_s:
            self._effects.extend(self.election.step(now_s, Tick()))
        if now_s >= self._membership.wake_at_s:
            self._effects.extend(self._membership.step(now_s, Tick()))
        self.drain()
