"""Who is in the pool: links, hints, reports, one event at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from covey_mesh.core.ballot import Ballot
from covey_mesh.core.dials import ADDRESS_HINTS_MAX, DIALS_MAX
from covey_mesh.core.effects import CloseLink, Dial, MemberChanged, MemberLost, Send, TellElection
from covey_mesh.core.events import (
    DialFailed,
    FollowerJoined,
    Hinted,
    InUse,
    LeaderChanged,
    LinkDown,
    LinkUp,
    MembershipReceived,
    OwnFactsChanged,
    PeerFresh,
    PeerGone,
    PeerLinked,
    PeerUnlinked,
    Probe,
    Published,
    Tick,
)
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad
from covey_mesh.core.membership import Membership
from covey_mesh.core.messages import FactsReport, Heartbeat, LoadReport, PeerList, ViewReport
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.reports import PEER_LIST_MAX, VIEW_CHUNK
from covey_mesh.core.timing import LAN, idle_heartbeat_s
from covey_mesh.core.view import OWN_FAILURE_COUNTS_S, SNAPSHOT_AGE_MAX_S

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


# --- hints and dials --------------------------------------------------------------------------------------------------


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


# --- links ------------------------------------------------------------------------------------------------------------


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


# --- reports ----------------------------------------------------------------------------------------------------------


def test_loads_are_believed_from_the_machine_itself_in_order() -> None:
    machine = Machine()
    machine.link(C)
    machine.hears(C, LoadReport(NodeLoad(C, 1, 5)))
    machine.hears(C, LoadReport(NodeLoad(C, 1, 4)))
    machine.hears(C, LoadReport(NodeLoad(C, 99, 6)))
    machine.hears(C, LoadReport(NodeLoad(A, 1, 6)))
    assert machine.membership.view(machine.now_s).members[C].load.sequence == 5


def member(node_id: NodeId, reachable: bool = True, silent_for_s: float = 0.0, sequence: int = 1) -> Member:
    return Member(facts(node_id), NodeLoad(node_id, 1, sequence), reachable, 0.0, silent_for_s)


def test_the_leaders_view_lists_machines_that_we_have_no_link_to() -> None:
    machine = Machine()
    machine.link(A)
    report = ViewReport(Ballot(1, A), 1, (member(C), member(B), member(A)))
    machine.hears(A, report)
    assert machine.reachable() == {A, B}, "it is not our leader"
    machine.follow(A)
    effects = machine.hears(A, report)
    assert machine.reachable() == {A, B, C}
    assert dials(effects) == [HOST[C]], "a small pool links every pair"


def test_a_view_under_an_older_ballot_is_not_believed() -> None:
    machine = Machine()
    machine.link(A)
    machine.follow(A, counter=5)
    machine.hears(A, ViewReport(Ballot(4, A), 1, (member(C),)))
    assert machine.reachable() == {A, B}


def test_own_knowledge_goes_before_the_leaders_unless_the_leaders_is_newer() -> None:
    machine = Machine()
    machine.link(A)
    number, _ = machine.link(C)
    machine.follow(A)
    machine.now_s += 0.5
    machine.membership.heard(number, machine.now_s)
    machine.now_s += 0.2
    effects = machine.hears(A, ViewReport(Ballot(1, A), 1, (member(C, False, silent_for_s=0.3),)))
    assert C in machine.reachable(), "we have heard of it later"
    assert sent(effects, Heartbeat, C), "but ask"
    machine.hears(A, ViewReport(Ballot(1, A), 2, (member(C, False, silent_for_s=0.1),)))
    assert C not in machine.reachable()
    machine.membership.heard(number, machine.now_s)
    assert C in machine.reachable()


def test_what_we_cannot_dial_is_unreachable_whatever_the_leader_says() -> None:
    machine = Machine()
    machine.link(A)
    number, _ = machine.link(C)
    machine.follow(A)
    machine.now_s += 5
    machine.does(LinkDown(number, LinkLoss.RESET))
    machine.hears(A, ViewReport(Ballot(1, A), 1, (member(C),)))
    assert C not in machine.reachable()
    machine.now_s += OWN_FAILURE_COUNTS_S
    machine.hears(A, ViewReport(Ballot(1, A), 2, (member(C),)))
    assert C not in machine.reachable()
    machine.now_s += 1.0
    machine.hears(A, ViewReport(Ballot(1, A), 3, (member(C),)))
    assert C in machine.reachable(), "that was long ago"
    machine.hears(A, ViewReport(Ballot(1, A), 4, (member(D),)))
    assert D in machine.reachable()
    assert MemberChanged(D) in machine.does(DialFailed(HOST[D], LinkLoss.SILENT))
    assert D not in machine.reachable(), "nor what we never could dial"


def test_the_leader_does_not_speak_for_who_has_a_link_to_us() -> None:
    machine = Machine()
    machine.link(A)
    machine.link(C)
    machine.follow(A)
    forged = Member(replace(facts(C), name="forged", facts_version=9), NodeLoad(C, 1, 1), True)
    machine.hears(A, ViewReport(Ballot(1, A), 1, (forged,)))
    assert machine.membership.view(machine.now_s).members[C].facts.name == "c"


def test_the_leader_tells_of_a_restart_that_we_did_not_see() -> None:
    machine = Machine()
    machine.link(A)
    machine.follow(A)
    for incarnation in (1, 2):
        word = Member(facts(D, incarnation), NodeLoad(D, incarnation, 1), True)
        machine.hears(A, ViewReport(Ballot(1, A), incarnation, (word,)))
        assert machine.membership.view(machine.now_s).members[D].facts.incarnation == incarnation


def test_how_long_a_lost_machine_has_been_silent_counts_from_its_last_byte() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.later(0.5)
    machine.membership.heard(number, machine.now_s)
    machine.later(0.25)
    machine.does(LinkDown(number, LinkLoss.RESET))
    assert machine.membership.view(machine.now_s).members[C].silent_for_s == 0.25


def test_a_leader_tells_everybody_what_changed_and_newcomers_everything() -> None:
    machine = Machine()
    machine.link(A)
    machine.follow(B)
    _, effects = machine.link(C)
    first = sent(effects, ViewReport, C)[0]
    assert {m.node_id for m in first.members} == {A, B}
    machine.later(1.0)
    effects = machine.hears(C, LoadReport(NodeLoad(C, 1, 3))) + machine.later(LAN.report_s)
    assert [m.node_id for report in sent(effects, ViewReport, A) for m in report.members] == [C]
    assert sent(effects, ViewReport, C) == [], "nothing about itself"
    effects = machine.hears(A, LoadReport(NodeLoad(A, 1, 3))) + machine.later(LAN.report_s)
    assert [m.node_id for report in sent(effects, ViewReport) for m in report.members] == [A], "once"


def test_what_was_untold_when_it_led_before_is_not_told_again() -> None:
    machine = Machine()
    machine.link(A)
    machine.link(C)
    machine.follow(B)
    machine.later(1.0)
    machine.hears(C, LoadReport(NodeLoad(C, 1, 3)))
    machine.hears(C, LoadReport(NodeLoad(C, 1, 4)))
    machine.follow(A, counter=2)
    machine.later(0.1)
    machine.follow(B, counter=3)
    machine.hears(A, LoadReport(NodeLoad(A, 1, 3)))
    reports = sent(machine.later(LAN.report_s), ViewReport)
    assert {m.node_id for report in reports for m in report.members} == {A}


def test_a_leader_that_calls_a_machine_silent_has_just_asked_it_in_vain() -> None:
    """However long ago it heard of it: what we heard since, the leader did not; what we heard before says nothing."""
    machine = Machine()
    machine.link(A)
    number, _ = machine.link(C)
    machine.follow(A)
    machine.later(0.4)
    machine.membership.heard(number, machine.now_s)
    machine.later(LAN.answer_deadline_s + 0.1)
    machine.hears(A, ViewReport(Ballot(1, A), 1, (member(C, reachable=False, silent_for_s=600.0),)))
    assert C not in machine.reachable()


def test_a_machine_that_has_just_granted_us_is_told_everything() -> None:
    machine = Machine()
    machine.link(A)
    machine.link(C)
    assert machine.does(FollowerJoined(C)) == [], "not our business"
    machine.follow(B)
    (report,) = sent(machine.does(FollowerJoined(C)), ViewReport, C)
    assert report.ballot == Ballot(1, B)
    assert {m.node_id for m in report.members} == {A, B}


def test_own_changes_go_to_those_who_need_them() -> None:
    machine = Machine()
    machine.link(A)
    machine.link(C)
    machine.follow(A)
    machine.later(1.0)
    effects = machine.does(Published(NodeLoad(B, 1, 1))) + machine.later(LAN.report_s)
    assert [e.to for e in effects if isinstance(e, Send) and isinstance(e.message, LoadReport)] == [A]
    changed = replace(facts(B), name="new name", facts_version=1)
    assert len(sent(machine.does(OwnFactsChanged(changed)), FactsReport)) == 2
    assert machine.membership.view(machine.now_s).members[B].facts == changed


def test_facts_that_changed_while_a_link_was_greeted_are_told_on_it() -> None:
    machine = Machine()
    changed = replace(facts(B), link_addresses=("10.0.0.2:1",), facts_version=1)
    assert sent(machine.link(C)[1], FactsReport) == []
    machine.does(OwnFactsChanged(changed))
    assert sent(machine.link(A)[1], FactsReport, A) == [FactsReport(changed)]


def test_a_load_without_news_is_told_to_nobody() -> None:
    machine = Machine()
    machine.link(A)
    machine.follow(A)
    machine.does(Published(NodeLoad(B, 1, 1, memory_free_bytes=100)))
    machine.later(1.0)
    effects = machine.does(Published(NodeLoad(B, 1, 2, memory_free_bytes=100))) + machine.later(LAN.report_s)
    effects += machine.does(Published(NodeLoad(B, 1, 3, memory_free_bytes=101))) + machine.later(LAN.report_s)
    assert sent(effects, LoadReport) == [], "nothing new, and a reading soon after the last"
    assert machine.membership.view(machine.now_s).members[B].load.memory_free_bytes == 101
    machine.later(LAN.report_readings_s)
    machine.link(A)
    effects = machine.does(Published(NodeLoad(B, 1, 3, memory_free_bytes=100))) + machine.later(LAN.report_s)
    assert sent(effects, LoadReport) == [], "nothing new, however long ago the last was told"
    effects = machine.does(Published(NodeLoad(B, 1, 4, memory_free_bytes=101))) + machine.later(LAN.report_s)
    assert [report.load.sequence for report in sent(effects, LoadReport)] == [4]
    effects = machine.does(Published(NodeLoad(B, 1, 5, draining=True))) + machine.later(LAN.report_s)
    assert [report.load.draining for report in sent(effects, LoadReport)] == [True]


def test_a_new_leader_is_told_the_load_at_once_though_others_have_heard_it() -> None:
    machine = Machine()
    machine.link(A)
    machine.link(C)
    machine.follow(None)
    machine.does(Published(NodeLoad(B, 1, 1)))
    assert len(sent(machine.later(LAN.report_s), LoadReport)) == 2, "without a leader everybody is told"
    effects = machine.follow(A, counter=2) + machine.later(0.001)
    (again,) = sent(effects, LoadReport)
    assert sent(machine.hears(C, Heartbeat(token=1)), LoadReport) == [], "who has heard it is not told again"
    assert again.load.newer_than(NodeLoad(B, 1, 1))
    effects = machine.does(Published(NodeLoad(B, 1, 2, draining=True))) + machine.later(LAN.report_s)
    (changed,) = sent(effects, LoadReport)
    assert changed.load.newer_than(again.load)


def test_a_load_said_again_keeps_its_number_when_there_is_no_news() -> None:
    machine = Machine()
    machine.link(A)
    machine.does(Published(NodeLoad(B, 1, 1)))
    machine.follow(A)
    said = machine.membership.view(machine.now_s).members[B].load.sequence
    machine.does(Published(NodeLoad(B, 1, 2)))
    assert machine.membership.view(machine.now_s).members[B].load.sequence == said == 2


def test_a_load_said_again_is_heard_here_and_told_to_nobody() -> None:
    machine = Machine()
    machine.link(A)
    machine.link(C)
    machine.follow(B)
    machine.hears(C, LoadReport(NodeLoad(C, 1, 3)))
    machine.later(1.0)
    effects = machine.hears(C, LoadReport(NodeLoad(C, 1, 4)))
    assert MemberChanged(C) in effects
    assert sent(effects + machine.later(LAN.report_s), ViewReport) == []


def test_facts_change_only_forwards_and_only_ones_own() -> None:
    machine = Machine()
    machine.link(C)
    machine.hears(C, FactsReport(replace(facts(C), name="two", facts_version=2)))
    assert machine.hears(C, FactsReport(replace(facts(C), name="again", facts_version=2))) == []
    machine.hears(C, FactsReport(replace(facts(C), name="one", facts_version=1)))
    machine.hears(C, FactsReport(replace(facts(A), name="forged", facts_version=9)))
    machine.hears(C, FactsReport(replace(facts(C, incarnation=8), name="other process", facts_version=9)))
    assert machine.membership.view(machine.now_s).members[C].facts.name == "two"


def test_peer_lists_go_round() -> None:
    machine = Machine()
    machine.link(A)
    machine.link(C)
    assert len(sent(linger(machine, 0, round(3 * LAN.gossip_s) + 1, 0), PeerList)) == 3


def test_facts_bring_new_addresses() -> None:
    machine = Machine()
    machine.link(C)
    machine.hears(C, FactsReport(replace(facts(C), link_addresses=("10.7.7.7:1",), facts_version=1)))
    assert machine.membership.remembered() == [(C, (HOST[C], "10.7.7.7:1"))]


@pytest.mark.parametrize("leads", [False, True])
def test_no_message_brings_more_machines_than_it_may_hold(leads: bool) -> None:
    machine = Machine()
    machine.link(A)
    machine.follow(A)
    crowd = [NodeFacts(NodeId(f"{n:032x}"), "x", "0", 1, 1, (f"10.9.0.1:{n + 1}",)) for n in range(500)]
    if leads:
        machine.hears(A, ViewReport(Ballot(1, A), 1, tuple(Member(f, NodeLoad(f.node_id, 1, 1), True) for f in crowd)))
    else:
        machine.hears(A, PeerList(tuple(crowd)))
    assert len(machine.membership.peers) == 1 + (VIEW_CHUNK if leads else PEER_LIST_MAX)


def test_peer_lists_are_hints() -> None:
    machine = Machine()
    machine.link(A)
    assert dials(machine.hears(A, PeerList((facts(C), facts(B))))) == [HOST[C]]
    assert machine.reachable() == {A, B}


# --- views ------------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_the_same_object_until_something_changes() -> None:
    machine = Machine()
    machine.link(C)
    first = machine.membership.view(machine.now_s)
    assert machine.membership.view(machine.now_s) is first
    machine.now_s += 2 * SNAPSHOT_AGE_MAX_S
    older = machine.membership.view(machine.now_s)
    assert (older is first, older.version) == (False, first.version), "only how long each is silent differs"
    machine.hears(C, LoadReport(NodeLoad(C, 1, 3)))
    second = machine.membership.view(machine.now_s)
    assert second.version > first.version
    assert first.members[C].load.sequence == 0, "snapshots do not change"


def test_a_machine_long_gone_is_no_longer_listed_and_comes_back_when_seen() -> None:
    machine = Machine()
    number, _ = machine.link(C)
    machine.does(LinkDown(number, LinkLoss.RESET))
    assert not machine.membership.view(machine.now_s).members[C].reachable
    effects = machine.later(LAN.listed_unreachable_s - LAN.sweep_s)
    assert MemberChanged(C) not in effects
    assert MemberChanged(C) in machine.later(2 * LAN.sweep_s)
    assert C not in machine.membership.view(machine.now_s).members
    machine.link(C, dialed=False, incarnation=2)
    assert C in machine.reachable()


def test_the_cache_remembers_proven_machines_only() -> None:
    machine = Machine()
    machine.link(C)
    machine.does(Hinted((HOST[D],), D))
    assert machine.membership.remembered() == [(C, (HOST[C],))]


# --- large pools ------------------------------------------------------------------------------------------------------


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
