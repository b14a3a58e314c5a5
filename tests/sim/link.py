"""One end of a simulated connection: control messages as values, request bytes through the product's own tables.

The real link writes the same items into one gRPC stream (covey_mesh.io.link). Not here: delays, cuts and faults
(network.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.loop import ProcessTimer

from covey_mesh.core.exchange import ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.messages import ControlMessage
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkEvents, LinkLoss
from covey_mesh.io.batching import Outbox, flush_delay_s
from covey_mesh.io.opened import OpenedAttempts
from covey_mesh.io.served import ServedAttempts

if TYPE_CHECKING:
    from tests.sim.network import Network, SimTransport

_OPENED = frozenset({"head", "data", "end"})


class SimLink:
    """See covey_mesh.core.ports.Link. `other` is the far end; `peer_facts` is what the far side said in its Hello."""

    def __init__(
        self, network: Network, near: SimTransport, far: SimTransport, peer_facts: NodeFacts, dialed: bool
    ) -> None:
        self.owner, self.far = near.machine, far.machine
        self.process = near.process
        self.facts = peer_facts
        self.dialed = dialed
        self.address = far.machine.address if dialed else far.machine.address.rpartition(":")[0]
        self.peer: NodeId = peer_facts.node_id
        self.events: LinkEvents = near.events
        self.other: SimLink
        self.ended = False
        self.last_arrival_s = 0.0
        self.sent = 0
        self.outbox = Outbox()
        self.opened = OpenedAttempts(self.outbox, self.process.call_soon, self._wake)
        self.served = ServedAttempts(self.outbox, lambda: near.handler, self._wake)
        self._network = network
        self._transport = near
        self._last_flush_s = 0.0
        self._timer: ProcessTimer | None = None
        self._timer_due_s = 0.0

    def send(self, message: ControlMessage) -> None:
        if not self.ended:
            self._network.carry_message(self, message)

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        return self.opened.open(request, sink)

    def close(self, reason: LinkLoss) -> None:
        if not self.ended:
            told = reason if reason is LinkLoss.REPLACED else LinkLoss.CLOSED
            self._network.carry(self, self.other.finish, told)
            self._finish(reason)

    # --- arriving ---------------------------------------------------------------------------------------------------

    def arrived(self, message: ControlMessage) -> None:
        if not self.ended:
            self.process.enter(self._deliver, message)

    def _deliver(self, message: ControlMessage) -> None:
        if not self.ended:
            self.events.heard(self)  # type: ignore[arg-type]
            self.events.message(self, message)  # type: ignore[arg-type]

    def _items_arrived(self, items: list[Any]) -> None:
        if not self.ended:
            self.process.enter(self._receive, items)

    def _receive(self, items: list[Any]) -> None:
        if self.ended:
            return
        self.events.heard(self)  # type: ignore[arg-type]
        for item in items:
            case = item.WhichOneof("kind")
            (self.opened if case in _OPENED else self.served).receive(case, item)

    def finish(self, loss: LinkLoss) -> None:
        """The far side, or its kernel, ended it."""
        if not self.ended:
            self.process.enter(self._finish, loss)

    def _finish(self, loss: LinkLoss) -> None:
        if self.ended:
            return
        self.ended = True
        self._transport.links.pop(self, None)
        self.served.cancel_all()
        self.opened.lose_all(loss.value)
        self.process.call_soon(self.events.down, self, loss)

    # --- leaving ----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self.ended:
            return
        now_s = self.process.loop.now_s
        wait_s = flush_delay_s(now_s, self._last_flush_s, self.outbox.urgent, self.outbox.waiting_bytes)
        if self._timer is not None:
            if self._timer_due_s <= now_s + wait_s:
                return
            self._timer.cancel()
        self._timer, self._timer_due_s = self.process.call_later(wait_s, self._flush), now_s + wait_s

    def _flush(self) -> None:
        self._timer = None
        items = self.outbox.take()
        if self.ended or not items:
            return
        self._last_flush_s = self.process.loop.now_s
        self._network.carry(self, self.other._items_arrived, items)
        self.served.relieve()
        if not self.outbox.empty:
            self._wake()
