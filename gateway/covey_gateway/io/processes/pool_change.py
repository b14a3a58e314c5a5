"""The pool's view on its way from the agent to a gateway process: what changed since the change before.

Not here: when one is sent (port.py) and what follows from it there (agent_mesh.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from covey_mesh.core.facts import Member, PoolView
from covey_mesh.core.limits import PEERS_MAX
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.io.codec_facts import member_from_wire, member_to_wire
from covey_mesh.io.codec_values import ballot_from_wire, ballot_to_wire, bounded, node_id, node_id_or_none
from covey_mesh.wire.v1 import link_pb2

SILENCE_CHANGED_S = 1.0
"""A machine of which nothing but its silence changed is told again after so much more of it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one message did to a copy of the view."""

    view: PoolView
    changed: tuple[NodeId, ...]
    lost: tuple[tuple[NodeId, LinkLoss], ...]


class ChangeWriter:
    """The agent's side, one for each process: remembers what was sent."""

    def __init__(self) -> None:
        self._sent: PoolView | None = None

    def change(self, view: PoolView, lost: Iterable[tuple[NodeId, LinkLoss]] = ()) -> link_pb2.PoolChange | None:
        """None where the other side has it all."""
        before = self._sent
        known = {} if before is None else before.members
        members = [member for member in view.members.values() if _differs(known.get(member.node_id), member)]
        gone = [each for each in known if each not in view.members]
        losses = [link_pb2.PoolChange.LostLink(node_id=each, loss=loss.name) for each, loss in lost]
        led_alike = before is not None and (before.leader, before.ballot) == (view.leader, view.ballot)
        if led_alike and not (members or gone or losses):
            return None
        # What was not told again stays as it was told: silences add up until they count.
        told = {**{each: known[each] for each in view.members if each in known}, **{m.node_id: m for m in members}}
        self._sent = replace(view, members=told)
        return link_pb2.PoolChange(
            version=view.version,
            leader_node_id=view.leader or "",
            ballot=ballot_to_wire(view.ballot),
            members=[member_to_wire(member) for member in members],
            gone=gone,
            lost=losses,
        )


def _differs(known: Member | None, member: Member) -> bool:
    if known is None:
        return True
    if known.facts is not member.facts or known.load is not member.load or known.reachable != member.reachable:
        return True
    silence_s = abs(member.silent_for_s - known.silent_for_s)
    return known.round_trip_s != member.round_trip_s or silence_s >= SILENCE_CHANGED_S


def changed_view(view: PoolView, message: link_pb2.PoolChange) -> Change:
    """`view` as the message leaves it. Raises PeerProtocolError."""
    arrived = [member_from_wire(each) for each in bounded(message.members, PEERS_MAX, "members")]
    gone = {node_id(each) for each in bounded(message.gone, PEERS_MAX, "machines gone")}
    members = {each: member for each, member in view.members.items() if each not in gone}
    members.update((member.node_id, member) for member in arrived)
    bounded(members, PEERS_MAX + 1, "members")
    lost = tuple((node_id(each.node_id), _loss(each.loss)) for each in bounded(message.lost, PEERS_MAX, "lost links"))
    after = PoolView(
        view.self_id,
        message.version,
        node_id_or_none(message.leader_node_id),
        ballot_from_wire(message.ballot),
        members,
    )
    return Change(after, tuple(member.node_id for member in arrived), lost)


def _loss(name: str) -> LinkLoss:
    return LinkLoss.__members__.get(name, LinkLoss.CLOSED)
