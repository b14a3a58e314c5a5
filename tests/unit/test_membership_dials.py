"""Who is in the pool: hints of machines, and when they are dialed."""

from __future__ import annotations

import pytest
from tests.support.membership import HOST, A, B, C, Machine, dials

from covey_mesh.core.dials import ADDRESS_HINTS_MAX
from covey_mesh.core.effects import CloseLink
from covey_mesh.core.events import (
    DialFailed,
    Hinted,
    LinkDown,
)
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.timing import LAN


def test_a_hint_is_dialed_and_lists_nobody() -> None:
    machine = Machine()
    assert dials(machine.does(Hinted((HOST[C],), C))) == [HOST[C]]
    assert machine.reachable() == {B}


def test_on_first_hints_the_higher_id_waits_a_little_for_the_other_to_dial() -> None:
    machine = Machine()
    assert dials(machine.does(Hinted((HOST[A],), A))) == []
    assert dials(machine.later(LAN.dial_courtesy_s)) == [HOST[A]]


@pytest.mark.parametrize("claimed", [B, NodeId("short"), NodeId("Z" * 32)], ids=["oneself", "short", "no hex"])
def test_hints_that_make_no_sense_are_ignored(claimed: NodeId) -> None:
    machine = Machine()
    assert machine.does(Hinted((HOST[C],), claimed)) == []
    assert len(machine.membership.peers) == 0


def test_address_hints_are_bounded_and_retried_for_ever_if_a_person_gave_them() -> None:
    machine = Machine()
    machine.does(Hinted((HOST[C],), None, pinned=True))
    machine.does(Hinted(tuple(f"10.1.0.{n}:1" for n in range(200)), None))
    assert len(machine.membership._dials.hints) == ADDRESS_HINTS_MAX
    count = 0
    for _ in range(300):
        for address in dials(machine.later(1.0)) or [HOST[C]]:
            count += address == HOST[C]
            machine.does(DialFailed(address, LinkLoss.SILENT))
    assert count > 100
    assert list(machine.membership._dials.hints) == [HOST[C]], "unproven ones are dropped"


def test_an_address_where_we_answer_ourselves_is_forgotten() -> None:
    machine = Machine()
    machine.does(Hinted(("127.0.0.1:7420",), None, pinned=True))
    number, effects = machine.link(B, address="127.0.0.1:7420")
    assert CloseLink(number, LinkLoss.CLOSED) in effects
    assert dials(machine.later(30.0)) == []


def test_a_false_address_for_a_real_machine_costs_one_dial() -> None:
    machine = Machine()
    machine.does(Hinted(("10.6.6.6:1", HOST[C]), C))
    effects = machine.does(DialFailed("10.6.6.6:1", LinkLoss.UNTRUSTED))
    assert dials(effects + machine.later(1.0)) == [HOST[C]]


def test_machines_seen_recently_are_dialed_every_second_at_the_latest() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.now_s += 60
    tried = dials(machine.does(LinkDown(number, LinkLoss.SILENT)))
    for _ in range(30):
        machine.does(DialFailed(HOST[C], LinkLoss.SILENT))
        tried += dials(machine.later(LAN.dial_backoff_max_s))
    assert len(tried) >= 31
