"""An in-memory network with TCP's manners: in order, delayed, held back (not lost) while a direction is cut.

Lost packets come as a late retransmission. Beyond TCP, messages whose meaning allows it may be duplicated or overtake
each other: what covey calls idempotent is taken at its word. Implements the Transport of covey_mesh.core.ports.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from tests.sim.link import SimLink
from tests.sim.loop import ProcessLoop, VirtualLoop

from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork
from covey_mesh.core.exchange import OpenRequest
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.messages import ControlMessage, Heartbeat, LoadReport, PreVoteReply, PreVoteRequest
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkEvents, LinkLoss

if TYPE_CHECKING:
    from tests.sim.machine import Machine

CONNECT_TIMEOUT_S = 1.5
RETRANSMISSION_S = 0.2

OVERTAKING = frozenset({Ask, Answer, AttemptReport, GrantedWork, LoadReport, Heartbeat, PreVoteRequest, PreVoteReply})
"""Numbered by attempt, sequence, token or round, or sums: may arrive in another order. Grants and releases may not."""

OVERTAKEN_BY_S = 0.05

Arrival = tuple[int, Callable[..., None], tuple[Any, ...]]


class SimTransport:
    """One process's network card."""

    def __init__(self, network: Network, machine: Machine, process: ProcessLoop, facts: NodeFacts) -> None:
        self.machine = machine
        self.process = process
        self.facts = facts
        self.events: LinkEvents
        self.handler: OpenRequest | None = None
        self.links: dict[SimLink, None] = {}
        self._network = network

    def dial(self, address: str, expected: NodeId | None) -> None:
        self._network.dial(self, address, expected)

    def set_facts(self, facts: NodeFacts) -> None:
        self.facts = facts

    def serve_requests(self, handler: OpenRequest) -> None:
        self.handler = handler


class Network:
    """Everything between the machines. A direction is cut while its pair of addresses is in `cuts`."""

    def __init__(self, loop: VirtualLoop, dice: random.Random) -> None:
        self.loop = loop
        self.delay_s = (0.0005, 0.005)
        self.loss = 0.0
        self.duplicated = 0.0
        self.overtaking = 0.0
        self.machines: dict[str, Machine] = {}
        self.cuts: Counter[tuple[str, str]] = Counter()
        self.cut_since_s: dict[tuple[str, str], float] = {}
        self.held: dict[SimLink, list[Arrival]] = {}
        self.messages: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.befallen: Counter[str] = Counter()
        """What faults did in fact: a network that loses messages of a silent pool loses nothing."""
        self._random = dice.random

    def add(self, machine: Machine) -> Machine:
        self.machines[machine.address] = machine
        return machine

    def transport(self, machine: Machine, facts: NodeFacts) -> SimTransport:
        return SimTransport(self, machine, machine.process, facts)

    def _delay_s(self, source: Machine, to: Machine) -> float:
        low_s, high_s = self.delay_s
        delay_s = low_s + (high_s - low_s) * self._random()
        if self.loss and self._random() < self.loss:
            delay_s += RETRANSMISSION_S
            self.befallen["lost"] += 1
        extra_s = source.extra_delay_s + to.extra_delay_s
        return delay_s + extra_s * (0.5 + self._random()) if extra_s else delay_s

    def carries(self, source: Machine, to: Machine) -> bool:
        if self.cuts and (source.address, to.address) in self.cuts:
            return False
        return source.powered and to.powered

    # --- established links ----------------------------------------------------------------------------------------

    def carry_message(self, link: SimLink, message: ControlMessage) -> None:
        """A control message; see OVERTAKING."""
        self.messages[link.owner.address] += 1
        self.kinds[type(message).__name__] += 1
        overtaken = self.overtaking and type(message) in OVERTAKING and self._random() < self.overtaking
        if overtaken and link not in self.held and self.carries(link.owner, link.far):
            self.befallen["overtaken"] += 1
            late_s = self._delay_s(link.owner, link.far) + OVERTAKEN_BY_S * self._random()
            link.sent += 1
            self.loop.call_later(late_s, self._arrive, link, link.sent, link.other.arrived, (message,))
            return
        self.carry(link, link.other.arrived, message)
        if self.duplicated and self._random() < self.duplicated:
            self.befallen["duplicated"] += 1
            self.carry(link, link.other.arrived, message)

    def carry(self, link: SimLink, arrive: Callable[..., None], *args: Any) -> None:
        """From `link` to its other end, in order."""
        link.sent += 1
        if link in self.held or not self.carries(link.owner, link.far):
            self.befallen["held_back"] += 1
            self.held.setdefault(link, []).append((link.sent, arrive, args))
            return
        link.last_arrival_s = max(link.last_arrival_s, self.loop.now_s + self._delay_s(link.owner, link.far))
        self.loop.call_at(link.last_arrival_s, self._arrive, link, link.sent, arrive, args)

    def _arrive(self, link: SimLink, number: int, arrive: Callable[..., None], args: tuple[Any, ...]) -> None:
        """A cut that began meanwhile holds it back as well, before what was sent after it."""
        if link not in self.held and self.carries(link.owner, link.far):
            arrive(*args)
        else:
            self.held.setdefault(link, []).append((number, arrive, args))

    def cut(self, source: Machine, to: Machine) -> None:
        pair = (source.address, to.address)
        self.cuts[pair] += 1
        self.cut_since_s.setdefault(pair, self.loop.now_s)

    def mend(self, source: Machine, to: Machine) -> None:
        """Undo one cut."""
        pair = (source.address, to.address)
        self.cuts[pair] -= 1
        if self.cuts[pair] <= 0:
            del self.cuts[pair]
            self.cut_since_s.pop(pair, None)

    def heal(self) -> None:
        """All cuts."""
        self.cuts.clear()
        self.cut_since_s.clear()
        self.release()

    def release(self) -> None:
        """What was held back where nothing is cut any more arrives after a retransmission."""
        for link in list(self.held):
            if link.owner.powered and link.far.powered and not self.carries(link.owner, link.far):
                continue
            arrivals = self.held.pop(link)
            if not link.far.powered or not link.owner.powered:
                continue
            for number, arrive, args in sorted(arrivals, key=itemgetter(0)):
                link.last_arrival_s = max(link.last_arrival_s, self.loop.now_s + RETRANSMISSION_S)
                self.loop.call_at(link.last_arrival_s, self._arrive, link, number, arrive, args)

    def process_ended(self, transport: SimTransport, told: bool) -> None:
        """The kernel of a killed process resets its connections; a dead host says nothing, ever."""
        for link in list(transport.links):
            link.ended = True
            if told:
                self.carry(link, link.other.finish, LinkLoss.RESET)
        transport.links.clear()

    # --- dialing --------------------------------------------------------------------------------------------------

    def dial(self, transport: SimTransport, address: str, expected: NodeId | None) -> None:
        source, to = transport.machine, self.machines.get(address)
        if to is None or not self.carries(source, to) or not self.carries(to, source):
            self._fail(transport, address, LinkLoss.SILENT, CONNECT_TIMEOUT_S)
        elif not to.alive:
            self._fail(transport, address, LinkLoss.REFUSED, 2 * self._delay_s(source, to))
        elif not to.running:
            self._fail(transport, address, LinkLoss.SILENT, CONNECT_TIMEOUT_S)
        else:
            handshake_s = 4 * self._delay_s(source, to)
            self.loop.call_later(handshake_s, self._connected, transport, to.transport, address, expected)

    def _fail(self, transport: SimTransport, address: str, loss: LinkLoss, after_s: float) -> None:
        process = transport.process
        self.loop.call_later(after_s, process.enter, transport.events.dial_failed, address, loss, "simulated")

    def _connected(self, near: SimTransport, far: SimTransport, address: str, expected: NodeId | None) -> None:
        source, to = near.machine, far.machine
        if near.process.dead:
            return
        if far.process.dead:
            self._fail(near, address, LinkLoss.RESET, self._delay_s(source, to))
        elif not self.carries(source, to) or not self.carries(to, source):
            self._fail(near, address, LinkLoss.SILENT, CONNECT_TIMEOUT_S)
        elif expected is not None and expected != to.node_id:
            self._fail(near, address, LinkLoss.UNTRUSTED, self._delay_s(source, to))
        else:
            self._join(near, far)

    def _join(self, dialer: SimTransport, accepter: SimTransport) -> None:
        near = SimLink(self, dialer, accepter, accepter.facts, dialed=True)
        far = SimLink(self, accepter, dialer, dialer.facts, dialed=False)
        near.other, far.other = far, near
        dialer.links[near] = accepter.links[far] = None
        far.process.enter(self._up, far)
        far.last_arrival_s = near.last_arrival_s = self.loop.now_s + self._delay_s(dialer.machine, accepter.machine)
        self.loop.call_at(far.last_arrival_s, near.process.enter, self._up, near)

    @staticmethod
    def _up(link: SimLink) -> None:
        if not link.ended:
            link.events.up(link)  # type: ignore[arg-type]
