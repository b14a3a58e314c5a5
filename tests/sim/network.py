"""An in-memory network with TCP's manners: in order, delayed, held back (not lost) while a direction is cut.

Implements the Transport and Link of covey_mesh.core.ports.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from tests.sim.machine import Machine, ProcessLoop

from covey_mesh.core.exchange import OpenRequest
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.messages import ControlMessage
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkEvents, LinkLoss

CONNECT_TIMEOUT_S = 1.5
RETRANSMISSION_S = 0.2


class SimLink:
    """One end. `other` is the far end."""

    def __init__(self, network: Network, owner: Machine, far: Machine, facts: NodeFacts, dialed: bool) -> None:
        assert owner.loop is not None
        self._network = network
        self.owner = owner
        self.process: ProcessLoop = owner.loop
        self.far = far
        self.facts = facts
        self.dialed = dialed
        self.address = far.address if dialed else far.address.rpartition(":")[0]
        self.events: LinkEvents
        self.other: SimLink
        self.ended = False
        self.last_arrival_s = 0.0

    @property
    def peer(self) -> NodeId:
        return self.far.node_id

    def send(self, message: ControlMessage) -> None:
        if not self.ended:
            self._network.count(self.owner.node_id, message)
            self._network.carry(self, lambda: self.other.arrived(message))

    def open(self, request: Any, sink: Any) -> Any:
        raise NotImplementedError("requests are not simulated here")

    def close(self, reason: LinkLoss) -> None:
        if not self.ended:
            self.finish(reason)
            told = reason if reason in (LinkLoss.CLOSED, LinkLoss.REPLACED) else LinkLoss.CLOSED
            self._network.carry(self, lambda: self.other.finish(told))

    def arrived(self, message: ControlMessage) -> None:
        if not self.ended:
            self.process.run(self._deliver, message)

    def _deliver(self, message: ControlMessage) -> None:
        if not self.ended:
            self.events.heard(self)  # type: ignore[arg-type]
            self.events.message(self, message)  # type: ignore[arg-type]

    def finish(self, loss: LinkLoss) -> None:
        if not self.ended:
            self.ended = True
            self._network.links.pop(self, None)
            self.process.run(self.events.down, self, loss)


class SimTransport:
    """One process's network card."""

    def __init__(self, network: Network, machine: Machine, facts: NodeFacts) -> None:
        self._network = network
        self.machine = machine
        self.facts = facts
        self.events: LinkEvents

    def dial(self, address: str, expected: NodeId | None) -> None:
        self._network.dial(self, address, expected)

    def set_facts(self, facts: NodeFacts) -> None:
        self.facts = facts

    def serve_requests(self, handler: OpenRequest) -> None:
        pass


class Network:
    """Everything between the machines. A direction is cut while its pair is in `cuts`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dice: random.Random) -> None:
        self.loop = loop
        self.dice = dice
        self.delay_s = (0.0005, 0.005)
        self.loss = 0.0
        self.machines: dict[str, Machine] = {}
        self.cuts: set[tuple[NodeId, NodeId]] = set()
        self.links: dict[SimLink, None] = {}
        self.held: list[tuple[SimLink, Callable[[], None]]] = []
        self.messages: dict[NodeId, int] = {}
        self.kinds: dict[str, int] = {}
        self.transports: dict[NodeId, SimTransport] = {}

    def add(self, machine: Machine) -> Machine:
        self.machines[machine.address] = machine
        return machine

    def transport(self, machine: Machine, facts: NodeFacts) -> SimTransport:
        self.transports[machine.node_id] = SimTransport(self, machine, facts)
        return self.transports[machine.node_id]

    def count(self, sender: NodeId, message: ControlMessage) -> None:
        self.messages[sender] = self.messages.get(sender, 0) + 1
        kind = type(message).__name__
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def _delay(self) -> float:
        lost = self.loss and self.dice.random() < self.loss
        return self.dice.uniform(*self.delay_s) + (RETRANSMISSION_S if lost else 0.0)

    def carries(self, source: Machine, to: Machine) -> bool:
        return (source.node_id, to.node_id) not in self.cuts and source.powered and to.powered

    # --- established links ----------------------------------------------------------------------------------------

    def carry(self, link: SimLink, arrive: Callable[[], None]) -> None:
        """From `link` to its other end, in order."""
        if not self.carries(link.owner, link.far) or any(held is link for held, _ in self.held):
            self.held.append((link, arrive))
            return
        link.last_arrival_s = max(link.last_arrival_s, self.loop.time() + self._delay())
        self.loop.call_at(link.last_arrival_s, self._arrive, link, arrive)

    def _arrive(self, link: SimLink, arrive: Callable[[], None]) -> None:
        """A cut that began meanwhile holds it back as well."""
        if self.carries(link.owner, link.far):
            arrive()
        else:
            self.held.append((link, arrive))

    def cut(self, source: Machine, to: Machine) -> None:
        self.cuts.add((source.node_id, to.node_id))

    def heal(self) -> None:
        """All cuts; what was held back arrives after a retransmission."""
        self.cuts.clear()
        held, self.held = self.held, []
        for link, arrive in held:
            if link.far.powered and link.owner.powered:
                link.last_arrival_s = max(link.last_arrival_s, self.loop.time() + RETRANSMISSION_S)
                self.loop.call_at(link.last_arrival_s, self._arrive, link, arrive)

    def process_ended(self, machine: Machine, told: bool) -> None:
        """The kernel of a killed process resets its connections; a dead host says nothing, ever."""
        for link in [link for link in self.links if link.owner is machine]:
            link.ended = True
            del self.links[link]
            if told:
                self.carry(link, lambda other=link.other: other.finish(LinkLoss.RESET))  # type: ignore[misc]

    # --- dialing --------------------------------------------------------------------------------------------------

    def dial(self, transport: SimTransport, address: str, expected: NodeId | None) -> None:
        source, to = transport.machine, self.machines.get(address)
        assert source.loop is not None
        process = source.loop
        if to is None or not self.carries(source, to) or not self.carries(to, source):
            self._fail(transport, process, address, LinkLoss.SILENT, CONNECT_TIMEOUT_S)
        elif not to.alive:
            self._fail(transport, process, address, LinkLoss.REFUSED, 2 * self._delay())
        elif not to.running:
            self._fail(transport, process, address, LinkLoss.SILENT, CONNECT_TIMEOUT_S)
        else:
            handshake_s = 4 * self._delay()
            self.loop.call_later(handshake_s, self._connected, transport, process, to, to.loop, address, expected)

    def _fail(
        self, transport: SimTransport, process: ProcessLoop, address: str, loss: LinkLoss, after_s: float
    ) -> None:
        self.loop.call_later(after_s, process.run, transport.events.dial_failed, address, loss, "simulated")

    def _connected(
        self,
        transport: SimTransport,
        process: ProcessLoop,
        to: Machine,
        far_process: ProcessLoop,
        address: str,
        expected: NodeId | None,
    ) -> None:
        source = transport.machine
        if process.dead:
            return
        if to.loop is not far_process or far_process.dead:
            self._fail(transport, process, address, LinkLoss.RESET, self._delay())
            return
        if not self.carries(source, to) or not self.carries(to, source):
            self._fail(transport, process, address, LinkLoss.SILENT, CONNECT_TIMEOUT_S)
            return
        if expected is not None and expected != to.node_id:
            self._fail(transport, process, address, LinkLoss.UNTRUSTED, self._delay())
            return
        self._join(transport, self.transports[to.node_id])

    def _join(self, dialer: SimTransport, accepter: SimTransport) -> None:
        near = SimLink(self, dialer.machine, accepter.machine, accepter.facts, dialed=True)
        far = SimLink(self, accepter.machine, dialer.machine, dialer.facts, dialed=False)
        near.other, far.other = far, near
        near.events, far.events = dialer.events, accepter.events
        self.links[near] = self.links[far] = None
        far.process.run(far.events.up, far)
        now_s = self.loop.time()
        far.last_arrival_s = near.last_arrival_s = now_s + self._delay()
        self.loop.call_at(far.last_arrival_s, self._up, near)

    @staticmethod
    def _up(link: SimLink) -> None:
        if not link.ended:
            link.process.run(link.events.up, link)
