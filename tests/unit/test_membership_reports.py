"""Who is in the pool: what machines and the leader say of themselves and others, and the view made of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.membership import HOST, A, B, C, D, Machine, dials, facts, linger, member, sent

from covey_mesh.core.ballot import Ballot
from covey_mesh.core.effects import MemberChanged, Send
from covey_mesh.core.events import (
    DialFailed,
    FollowerJoined,
    Hinted,
    LinkDown,
    OwnFactsChanged,
    Published,
)
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad
from covey_mesh.core.messages import FactsReport, Heartbeat, LoadReport, PeerList, ViewReport
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.reports import PEER_LIST_MAX, VIEW_CHUNK
from covey_mesh.core.timing import LAN
from covey_mesh.core.view import OWN_FAILURE_COUNTS_S, SNAPSHOT_AGE_MAX_S


def test_loads_are_believed_from_the_machine_itself_in_order() -> None:
    machine = Machine()
    machine.link(C)
    machine.hears(C, LoadReport(NodeLoad(C, 1, 5)))
    machine.hears(C, LoadReport(NodeLoad(C, 1, 4)))
    machine.hears(C, LoadReport(NodeLoad(C, 99, 6)))
    machine.hears(C, LoadReport(NodeLoad(A, 1, 6)))
    assert machine.membership.view(machine.now_s).members[C].load.sequence == 5


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
