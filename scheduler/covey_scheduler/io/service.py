"""Drives the scheduler's core: mesh events and the loop's timer in, answers out. Decides nothing.

Everything runs on the event loop's thread; timers are loop.call_at only, so a virtual-time loop can drive it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.names import NodeId, short
from covey_mesh.core.ports import LinkLoss, Mesh
from covey_scheduler.core import events
from covey_scheduler.core.events import Event, Reply
from covey_scheduler.core.scheduler import Scheduler
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.io.counters import SchedulerCounters

log = logging.getLogger(__name__)

VIEW_DELAY_S = 0.005
"""Changes of the view within this time are one event: a hundred reports at once are one look at the queue."""


class SchedulerService:
    """Implements covey_mesh.core.ports.MeshListener. `clock`: seconds of CLOCK_BOOTTIME; `unix_clock`: for records."""

    def __init__(
        self,
        mesh: Mesh,
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
        settings: SchedulerSettings | None = None,
    ) -> None:
        self._mesh = mesh
        self._clock = clock
        self._unix_clock = unix_clock
        self._core = Scheduler(mesh.self_id, settings)
        self._view_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._running = False
        self.counters = SchedulerCounters()

    def start(self) -> None:
        """Subscribe to the mesh; call once, inside the running loop. It may lead already (a restarted scheduler)."""
        assert not self._running, "started twice"
        self._running = True
        self._mesh.subscribe(self)
        view = self._mesh.view()
        self._step(events.ViewChanged(view))
        self.leadership_changed(view.leader, view.ballot)

    def stop(self) -> None:
        """No timer is left behind and nothing more is sent. Safe to call twice."""
        self._running = False
        for timer in (self._view_timer, self._tick_timer):
            if timer is not None:
                timer.cancel()
        self._view_timer = self._tick_timer = None

    @property
    def leading(self) -> bool:
        return self._core.leading

    def queue_lengths(self) -> dict[str, int]:
        """Asks waiting here, by model; empty while another machine leads."""
        return self._core.queue_lengths()

    # --- MeshListener -----------------------------------------------------------------------------------------

    def ask_received(self, gateway: NodeId, ask: Ask) -> None:
        if not self._core.leading:
            self.counters.asks_dropped += 1
        self._take_view()
        self._step(events.AskReceived(gateway, ask))

    def answer_received(self, leader: NodeId, answer: Answer) -> None:
        """For gateways."""

    def attempt_reported(self, gateway: NodeId, report: AttemptReport) -> None:
        self._step(events.Reported(gateway, report))

    def granted_work(self, gateway: NodeId, work: GrantedWork) -> None:
        self._step(events.Worked(gateway, work))

    def leadership_changed(self, leader: NodeId | None, ballot: Ballot) -> None:
        if leader == self._mesh.self_id:
            self._take_view()
            self._step(events.BecameLeader(ballot))
        elif self._core.leading:
            self._step(events.LostLeadership())

    def member_changed(self, node_id: NodeId) -> None:
        """Only a leader looks; who becomes one takes the whole view first."""
        if self._running and self._view_timer is None and self._core.leading:
            loop = asyncio.get_running_loop()
            self._view_timer = loop.call_at(loop.time() + VIEW_DELAY_S, self._take_view)

    def member_lost(self, node_id: NodeId, loss: LinkLoss) -> None:
        if self._core.leading and loss is not LinkLoss.REPLACED:
            self._step(events.GatewayLost(node_id))
        self.member_changed(node_id)

    # --- the core ---------------------------------------------------------------------------------------------

    def _take_view(self) -> None:
        """A pending change of the view is taken in before anything is decided on it."""
        if self._view_timer is None and self._core.leading:
            return
        if self._view_timer is not None:
            self._view_timer.cancel()
            self._view_timer = None
        self._step(events.ViewChanged(self._mesh.view()))

    def _tick(self) -> None:
        self._tick_timer = None
        self._step(events.Tick())

    def _step(self, event: Event) -> None:
        if not self._running:
            return
        for reply in self._core.step(self._clock(), event, self._unix_clock()):
            self._send(reply)
        self._schedule_tick()

    def _send(self, reply: Reply) -> None:
        answer = reply.answer
        assert answer.decision is not None, "the leader's answers carry their decision"
        self.counters.decided(answer.outcome, answer.decision.queued_for_s)
        if answer.grant is not None:
            self.counters.grants += 1
            self.counters.requests_granted += answer.grant.requests
        if not self._mesh.send(reply.gateway, answer):
            self.counters.answers_undeliverable += 1
            log.debug("answer not sent: no link", extra={"gateway": short(reply.gateway)})

    def _schedule_tick(self) -> None:
        wake_at_s = self._core.wake_at_s
        if self._tick_timer is not None:
            self._tick_timer.cancel()
            self._tick_timer = None
        if wake_at_s is not None and self._running:
            loop = asyncio.get_running_loop()
            self._tick_timer = loop.call_at(loop.time() + max(0.0, wake_at_s - self._clock()), self._tick)
