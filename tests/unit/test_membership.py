"""Who is in the pool: links, one event at a time."""

from __future__ import annotations

import pytest
from tests.support.membership import HOST, A, B, C, Machine, dials, facts, linger, sent, told

from covey_mesh.core.dials import DIALS_MAX
from covey_mesh.core.effects import CloseLink, Dial, MemberLost
from covey_mesh.core.events import (
    DialFailed,
    Hinted,
    InUse,
    LinkDown,
    PeerFresh,
    PeerGone,
    PeerLinked,
    PeerUnlinked,
    Probe,
    Published,
    Tick,
)
from covey_mesh.core.facts import NodeLoad
from covey_mesh.core.messages import Heartbeat, LoadReport, PeerList
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.timing import LAN, idle_heartbeat_s


def test_a_link_makes_a_member_and_exchanges_peer_lists_and_loads() -> None:
    machine = Machine()
    machine.does(Published(NodeLoad(B, 1, 5)))
    machine.link(A)
    _, effects = machine.link(C, dialed=False)
    assert told(effects)[0] == PeerLinked(C)
    assert sent(effects, PeerList, C) == [PeerList((facts(A),))]
    assert sent(effects, LoadReport, C) == [LoadReport(NodeLoad(B, 1, 5))]
    assert machine.reachable() == {A, B, C}


def test_a_lost_link_is_redialed_at_once_and_refusal_proves_the_process_gone() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.now_s += 10
    effects = machine.does(LinkDown(number, LinkLoss.RESET))
    assert told(effects) == [PeerUnlinked(C)]
    assert MemberLost(C, LinkLoss.RESET) in effects
    assert dials(effects) == [HOST[C]]
    assert machine.reachable() == {B}
    assert PeerGone(C) in told(machine.does(DialFailed(HOST[C], LinkLoss.REFUSED)))


@pytest.mark.parametrize(
    ("address", "loss"), [(HOST[C], LinkLoss.SILENT), (HOST[C], LinkLoss.UNTRUSTED), ("10.9.9.9:1", LinkLoss.REFUSED)]
)
def test_no_other_failure_proves_that(address: str, loss: LinkLoss) -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.does(Hinted(("10.9.9.9:1",), C))
    machine.now_s += 10
    effects = machine.does(LinkDown(number, LinkLoss.RESET))
    if address != HOST[C]:
        machine.does(DialFailed(HOST[C], LinkLoss.SILENT))
        effects = machine.later(1.0)
    assert address in dials(effects)
    assert PeerGone(C) not in told(machine.does(DialFailed(address, loss)))


def test_a_new_incarnation_replaces_at_once_and_proves_the_old_one_gone() -> None:
    machine = Machine()
    old, _ = machine.link(C)
    new, effects = machine.link(C, dialed=False, incarnation=2)
    assert CloseLink(old, LinkLoss.RESTARTED) in effects
    assert told(effects)[:2] == [PeerGone(C), PeerLinked(C)]
    assert machine.membership.link_to(C) == new
    assert machine.does(LinkDown(old, LinkLoss.RESTARTED)) == []
    assert C in machine.reachable()


def test_of_a_simultaneous_dial_one_link_stays_and_the_other_lingers() -> None:
    machine = Machine()
    dialed, _ = machine.link(C, dialed=True)
    accepted, effects = machine.link(C, dialed=False)
    assert machine.membership.link_to(C) == dialed, "B is the lower id: its own dial stays"
    assert not [e for e in effects if isinstance(e, CloseLink)]
    assert CloseLink(accepted, LinkLoss.REPLACED) in machine.later(LAN.replaced_linger_s)


def test_a_later_dial_of_the_same_process_replaces_and_the_earlier_link_lingers() -> None:
    machine = Machine()
    first, _ = machine.link(C, dialed=True)
    second, effects = machine.link(C, dialed=True)
    assert machine.membership.link_to(C) == second
    assert not [e for e in effects if isinstance(e, CloseLink | MemberLost)]
    assert CloseLink(first, LinkLoss.REPLACED) in machine.later(LAN.replaced_linger_s)


def test_the_load_of_a_process_that_ended_is_forgotten() -> None:
    machine = Machine()
    machine.link(C)
    machine.hears(C, LoadReport(NodeLoad(C, 1, 5)))
    machine.link(C, incarnation=2)
    assert machine.membership.view(machine.now_s).members[C].load == NodeLoad(C, 2, 0)


@pytest.mark.parametrize(
    ("up_s", "loss", "pause_s"),
    [
        (10.0, LinkLoss.RESET, 0.0),
        (0.1, LinkLoss.RESET, LAN.dial_backoff_s),
        (10.0, LinkLoss.REPLACED, LAN.dial_backoff_max_s),
    ],
)
def test_when_a_lost_link_is_dialed_again(up_s: float, loss: LinkLoss, pause_s: float) -> None:
    """At once; but links that die young would make a storm, and of a link replaced the other side has a better one."""
    machine = Machine()
    number, _ = machine.link(C)
    machine.now_s += up_s
    tried = dials(machine.does(LinkDown(number, loss)))
    if pause_s:
        assert tried + dials(machine.later(pause_s - 0.01)) == []
        tried = dials(machine.later(0.02))
    assert tried == [HOST[C]]


@pytest.mark.parametrize("loss", list(LinkLoss))
def test_which_losses_prove_that_the_process_has_ended(loss: LinkLoss) -> None:
    machine = Machine()
    number, _ = machine.link(C)
    gone = PeerGone(C) in told(machine.does(LinkDown(number, loss)))
    assert gone is (loss in (LinkLoss.REFUSED, LinkLoss.RESTARTED))


def test_the_election_is_told_when_a_link_stops_carrying_both_ways_and_when_it_does_again() -> None:
    machine = Machine()
    machine.link(C)
    (question,) = sent(machine.later(idle_heartbeat_s(2)), Heartbeat, C)
    assert PeerFresh(C, False) in told(machine.later(LAN.fresh_window_s))
    assert told(machine.hears(C, Heartbeat(echo=question.token))) == [PeerFresh(C, True)]


def test_a_process_that_restarted_while_nobody_was_linked_is_proven_gone_too() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.does(LinkDown(number, LinkLoss.SILENT))
    assert told(machine.link(C, incarnation=2)[1])[:2] == [PeerGone(C), PeerLinked(C)]


def test_a_new_link_is_told_the_load_again() -> None:
    machine = Machine()
    machine.does(Published(NodeLoad(B, 1, 1)))
    for _ in range(2):
        number, effects = machine.link(C)
        assert sent(effects, LoadReport, C) == [LoadReport(NodeLoad(B, 1, 1))]
        machine.does(LinkDown(number, LinkLoss.RESET))


def test_a_lost_machine_is_looked_for_where_it_was_last_seen() -> None:
    machine = Machine()
    machine.does(Hinted((HOST[A], "10.9.9.9:7"), C))
    machine.later(1.0)
    number, _ = machine.link(C, dialed=False, address="10.9.9.9")
    machine.later(LAN.simultaneous_s)
    assert dials(machine.does(LinkDown(number, LinkLoss.RESET))) == ["10.9.9.9:7"]


def test_a_link_that_died_young_is_dialed_again_where_it_was() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.does(Hinted(("10.9.9.9:7",), C))
    assert dials(machine.does(LinkDown(number, LinkLoss.RESET)) + machine.later(LAN.dial_backoff_s)) == [HOST[C]]


def test_a_dial_from_before_the_loss_proves_nothing() -> None:
    machine = Machine()
    assert dials(machine.does(Hinted((HOST[C],), C))) == [HOST[C]]
    machine.later(0.1)
    number, _ = machine.link(C, dialed=False)
    machine.later(0.1)
    machine.does(LinkDown(number, LinkLoss.RESET))
    assert PeerGone(C) not in told(machine.does(DialFailed(HOST[C], LinkLoss.REFUSED)))


def test_who_answers_where_a_person_pointed_is_looked_for_for_ever() -> None:
    machine = Machine()
    machine.does(Hinted((HOST[C],), None, pinned=True))
    machine.link(C)
    record = machine.membership.peers.get(C)
    assert record is not None
    assert record.target.pinned


def test_dials_at_a_time_are_bounded() -> None:
    machine = Machine()
    tried = []
    for n in range(DIALS_MAX + 10):
        tried += dials(machine.does(Hinted((f"10.9.0.{n}:1",), NodeId(f"{n + 4096:032x}".replace("0", "c")))))
    assert len(tried) == DIALS_MAX


def test_a_stranger_at_a_hinted_address_makes_it_forgotten() -> None:
    machine = Machine()
    machine.does(Hinted((HOST[C],), C))
    machine.does(DialFailed(HOST[C], LinkLoss.UNTRUSTED))
    assert not machine.membership.knows_address(C)


def test_a_dial_that_the_transport_never_ended_is_written_off() -> None:
    machine = Machine()
    assert dials(machine.does(Hinted((HOST[C],), C))) == [HOST[C]]
    assert dials(machine.later(LAN.dial_deadline_s - 0.01)) == []
    assert dials(machine.later(1.0)) == [HOST[C]]


def test_no_address_is_dialed_twice_at_a_time() -> None:
    machine = Machine()
    effects = machine.does(Hinted((HOST[A],), A)) + machine.does(Hinted((HOST[A],), NodeId("0" * 32)))
    effects += machine.later(1.0)
    assert dials(effects) == [HOST[A]]
    for _ in range(3):
        effects += machine.does(DialFailed(HOST[A], LinkLoss.SILENT)) + machine.later(0.5)
    assert {e.expected for e in effects if isinstance(e, Dial)} == {A, NodeId("0" * 32)}, "in turn"


def test_an_address_whose_machine_is_linked_is_left_alone() -> None:
    machine = Machine()
    machine.does(Hinted((HOST[C],), None, pinned=True))
    machine.link(C)
    assert dials(linger(machine, 0, 20, 0)) == []


def test_a_stranger_at_a_proven_address_does_not_make_it_forgotten() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.now_s += 10.0
    machine.does(LinkDown(number, LinkLoss.RESET))
    machine.does(DialFailed(HOST[C], LinkLoss.UNTRUSTED))
    assert machine.membership.remembered() == [(C, (HOST[C],))]


def test_a_silent_link_is_closed_and_an_answer_prevents_it() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    for _ in range(10):
        for heartbeat in sent(machine.later(1.0), Heartbeat, C):
            machine.membership.heard(number, machine.now_s)
            machine.hears(C, Heartbeat(echo=heartbeat.token))
    assert C in machine.reachable()
    assert CloseLink(number, LinkLoss.SILENT) in machine.later(idle_heartbeat_s(2) + LAN.answer_deadline_s + 0.01)
    assert C not in machine.reachable()


def test_a_link_in_use_is_asked_sooner() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.does(InUse(C, True))
    assert CloseLink(number, LinkLoss.SILENT) in machine.later(LAN.link_heartbeat_s + LAN.answer_deadline_s + 0.01)


def test_a_machine_whose_answer_is_awaited_is_asked_at_once() -> None:
    machine = Machine()
    assert machine.does(Probe(C)) == []
    machine.link(C)
    assert len(sent(machine.does(Probe(C)), Heartbeat, C)) == 1


def test_a_machine_that_is_needed_now_is_dialed_now() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.does(LinkDown(number, LinkLoss.SILENT))
    for _ in range(5):
        machine.does(DialFailed(HOST[C], LinkLoss.SILENT))
        machine.later(LAN.dial_backoff_max_s)
    machine.does(DialFailed(HOST[C], LinkLoss.SILENT))
    machine.later(0.2)
    assert dials(machine.does(Tick())) == []
    assert dials(machine.does(InUse(C, True))) == [HOST[C]]


def test_our_own_stall_accuses_nobody() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    assert sent(machine.later(idle_heartbeat_s(2) + 0.1), Heartbeat, C), "a question is on its way"
    machine.now_s += 30.0
    assert CloseLink(number, LinkLoss.SILENT) not in machine.does(Tick())
    assert CloseLink(number, LinkLoss.SILENT) in machine.later(LAN.answer_deadline_s + 0.01)


def test_after_a_long_stall_every_link_is_asked_for_the_others_may_have_closed_theirs() -> None:
    machine = Machine()
    machine.link(A)
    machine.link(C)
    machine.follow(A)
    machine.now_s += 30.0
    effects = machine.does(Tick())
    assert len(sent(effects, Heartbeat, A)) == len(sent(effects, Heartbeat, C)) == 1


def test_a_question_is_echoed_and_carries_the_load() -> None:
    machine = Machine()
    machine.link(A)
    machine.link(C)
    machine.follow(A)
    machine.does(Published(NodeLoad(B, 1, 1)))
    effects = machine.hears(C, Heartbeat(token=7))
    assert sent(effects, Heartbeat, C) == [Heartbeat(echo=7)]
    assert sent(effects, LoadReport, C) == [LoadReport(NodeLoad(B, 1, 1))]
    assert sent(machine.hears(C, Heartbeat(token=8)), LoadReport, C) == [], "once"
