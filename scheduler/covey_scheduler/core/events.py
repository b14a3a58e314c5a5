"""What the scheduler's core is told, and what it wants done: the whole vocabulary of Scheduler.step."""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.asking import Answer, Ask, AttemptReport
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId


@dataclass(frozen=True, slots=True)
class AskReceived:
    """Dropped while this machine does not lead: the gateway notices the missing acknowledgement."""

    gateway: NodeId
    ask: Ask


@dataclass(frozen=True, slots=True)
class Reported:
    gateway: NodeId
    report: AttemptReport


@dataclass(frozen=True, slots=True)
class ViewChanged:
    view: PoolView


@dataclass(frozen=True, slots=True)
class GatewayLost:
    """The link to it is gone; it will ask again when it is back."""

    gateway: NodeId


@dataclass(frozen=True, slots=True)
class BecameLeader:
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class LostLeadership:
    pass


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due at Scheduler.wake_at_s."""


Event = AskReceived | Reported | ViewChanged | GatewayLost | BecameLeader | LostLeadership | Tick


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this answer to that gateway."""

    gateway: NodeId
    answer: Answer


Effect = Reply
