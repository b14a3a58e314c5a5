"""What the scheduler's core is told, and what it wants done: the whole vocabulary of Scheduler.step."""

from __future__ import annotations

from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import PoolView
from covey_mesh.core.frozen import frozen
from covey_mesh.core.names import NodeId


@frozen
class AskReceived:
    """Dropped while this machine does not lead: the gateway notices the missing acknowledgement."""

    gateway: NodeId
    ask: Ask


@frozen
class Reported:
    gateway: NodeId
    report: AttemptReport


@frozen
class Worked:
    """What a gateway started under grants, in sums."""

    gateway: NodeId
    work: GrantedWork


@frozen
class ViewChanged:
    view: PoolView


@frozen
class GatewayLost:
    """The link to it is gone; it will ask again when it is back."""

    gateway: NodeId


@frozen
class BecameLeader:
    ballot: Ballot


@frozen
class LostLeadership:
    pass


@frozen
class Tick:
    """Time has passed; due at Scheduler.wake_at_s."""


Event = AskReceived | Reported | Worked | ViewChanged | GatewayLost | BecameLeader | LostLeadership | Tick


@frozen
class Reply:
    """Send this answer to that gateway."""

    gateway: NodeId
    answer: Answer


Effect = Reply
