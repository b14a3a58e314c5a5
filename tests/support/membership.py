"""One machine's membership with a clock that only moves when told, and short words for its effects."""

from __future__ import annotations

from typing import Any

from covey_mesh.core.ballot import Ballot
from covey_mesh.core.effects import Dial, Send, TellElection
from covey_mesh.core.events import (
    LeaderChanged,
    LinkUp,
    MembershipReceived,
    Tick,
)
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad
from covey_mesh.core.membership import Membership
from covey_mesh.core.messages import Heartbeat
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN

A, B, C, D = (NodeId(letter * 32) for letter in "abcd")
HOST = {NodeId(letter * 32): f"10.0.0.{number}:7420" for number, letter in enumerate("abcde", 1)}


def facts(node_id: NodeId, incarnation: int = 1) -> NodeFacts:
    return NodeFacts(node_id, node_id[:1], "0", 1, incarnation, (HOST[node_id],))


class Machine:
    """B's membership, with a clock that only moves when told."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.links = 0
        self.membership = Membership(facts(B), LAN, self.now_s, lambda: 0.0)

    def does(self, event: Any) -> list[Any]:
        return list(self.membership.step(self.now_s, event))

    def later(self, seconds: float) -> list[Any]:
        """Lets time pass, waking whenever asked to."""
        effects, end_s = [], self.now_s + seconds
        while self.membership.wake_at_s <= end_s:
            self.now_s = max(self.now_s, self.membership.wake_at_s)
            effects += self.does(Tick())
        self.now_s = end_s
        return effects

    def link(self, peer: NodeId, dialed: bool = True, incarnation: int = 1, address: str = "") -> tuple[int, list[Any]]:
        self.links += 1
        address = address or (HOST[peer] if dialed else HOST[peer].partition(":")[0])
        return self.links, self.does(LinkUp(self.links, facts(peer, incarnation), dialed, address))

    def hears(self, sender: NodeId, message: Any) -> list[Any]:
        return self.does(MembershipReceived(sender, message))

    def follow(self, leader: NodeId | None, counter: int = 1) -> list[Any]:
        return self.does(LeaderChanged(leader, Ballot(counter, leader or NodeId(""))))

    def reachable(self) -> set[NodeId]:
        return {node_id for node_id, member in self.membership.view(self.now_s).members.items() if member.reachable}


def told(effects: list[Any]) -> list[Any]:
    return [effect.event for effect in effects if isinstance(effect, TellElection)]


def dials(effects: list[Any]) -> list[str]:
    return [effect.address for effect in effects if isinstance(effect, Dial)]


def sent(effects: list[Any], kind: type, to: NodeId | None = None) -> list[Any]:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, kind) and to in (None, e.to)]


def member(node_id: NodeId, reachable: bool = True, silent_for_s: float = 0.0, sequence: int = 1) -> Member:
    return Member(facts(node_id), NodeLoad(node_id, 1, sequence), reachable, 0.0, silent_for_s)


def linger(machine: Machine, number: int, seconds: int, asks_per_s: int) -> list[Any]:
    """Time passes; the far ends answer every question, and ask that often themselves."""
    effects = []
    for _ in range(seconds * 4):
        effects += machine.later(0.25)
        for live in range(1, machine.links + 1):
            machine.membership.heard(live, machine.now_s) if live != number else None
        for effect in [e for e in effects if isinstance(e, Send) and isinstance(e.message, Heartbeat)]:
            machine.hears(effect.to, Heartbeat(echo=effect.message.token))
        for _ in range(asks_per_s // 4):
            machine.membership.heard(number, machine.now_s)
    return effects
