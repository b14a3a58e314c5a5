"""Who is in the pool: large pools, where not every pair is linked."""

from __future__ import annotations

import pytest
from tests.support.membership import A, C, D, Machine, dials, linger

from covey_mesh.core.ballot import Ballot
from covey_mesh.core.effects import CloseLink
from covey_mesh.core.events import (
    DialFailed,
    LinkDown,
    LinkUp,
)
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad
from covey_mesh.core.messages import ViewReport
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.timing import LAN


def crowd(machine: Machine) -> None:
    """A leader A vouches for a hundred machines with ids below everybody's: the deputies are among them."""
    machine.link(A)
    machine.link(C)
    machine.link(D)
    machine.follow(A)
    others = [NodeId(f"{n:032x}") for n in range(100)]
    for start in range(0, 100, 50):
        members = tuple(
            Member(NodeFacts(n, "x", "0", 1, 1, ("10.9.0.1:1",)), NodeLoad(n, 1, 1), True)
            for n in others[start : start + 50]
        )
        machine.hears(A, ViewReport(Ballot(1, A), 1, members))


def test_in_a_large_pool_the_side_that_dialed_decides_whether_a_link_is_needed() -> None:
    machine = Machine()
    crowd(machine)
    number, _ = machine.link(NodeId("e" * 32), dialed=False, address="10.0.0.5")
    assert CloseLink(number, LinkLoss.CLOSED) not in linger(machine, number, 45, 0)


@pytest.mark.parametrize(("asks_per_s", "kept"), [(0, False), (4, True)])
def test_in_a_large_pool_a_link_that_nobody_uses_is_let_go_and_the_machine_stays(asks_per_s: int, kept: bool) -> None:
    machine = Machine()
    crowd(machine)
    number, _ = machine.link(NodeId("e" * 32), address="10.0.0.5:7420")
    effects = linger(machine, number, 45, asks_per_s)
    assert (CloseLink(number, LinkLoss.CLOSED) not in effects) is kept
    assert NodeId("e" * 32) in machine.reachable()


def test_who_was_let_go_does_not_come_running_back() -> None:
    machine = Machine()
    crowd(machine)
    number, _ = machine.link(NodeId("e" * 32), dialed=False, address="10.0.0.5")
    effects = machine.does(LinkDown(number, LinkLoss.CLOSED))
    assert dials(effects) == []
    assert NodeId("e" * 32) in machine.reachable()


def test_whoever_takes_the_place_of_a_lost_deputy_is_dialed_at_once() -> None:
    machine = Machine()
    machine.link(A)
    machine.follow(A)
    others = [NodeId(f"{n:032x}") for n in range(50)]
    for n, node_id in enumerate(others):
        known = NodeFacts(node_id, "x", "0", 1, 1, (f"10.9.0.{n}:7420",))
        machine.does(LinkUp(100 + n, known, False, f"10.9.0.{n}"))
    for n in range(3, 50):
        assert dials(machine.does(LinkDown(100 + n, LinkLoss.CLOSED))) == [], "only three are deputies"
    machine.now_s += LAN.simultaneous_s
    assert dials(machine.does(LinkDown(100, LinkLoss.RESET))) == ["10.9.0.0:7420"]
    machine.does(DialFailed("10.9.0.0:7420", LinkLoss.SILENT))
    assert dials(machine.later(0.0)) == ["10.9.0.3:7420"]
