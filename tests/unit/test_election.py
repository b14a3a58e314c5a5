"""Who leads: each transition, and each rule that DESIGN.md names, one event at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from covey_mesh.core.ballot import COUNTER_LEAP_MAX, COUNTER_MAX, NO_BALLOT, Ballot
from covey_mesh.core.effects import FollowerGained, LeadershipChanged, Persist, Send
from covey_mesh.core.election import Election
from covey_mesh.core.election_state import ElectionState
from covey_mesh.core.events import (
    DeputyChanged,
    ElectionReceived,
    PeerFresh,
    PeerGone,
    PeerLinked,
    PeerUnlinked,
    Persisted,
    PersistFailed,
    Promise,
    StopRequested,
    Tick,
)
from covey_mesh.core.grants import Refusal
from covey_mesh.core.leadership_source import UNRESTRICTED
from covey_mesh.core.messages import GrantReply, GrantRequest, LeaseReleased, PreVoteReply, PreVoteRequest
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN, leader_lease_s, lease_s
from covey_mesh.core.transitions import CHANGES, IllegalTransition, Role, Trigger

A, B, C = (NodeId(letter * 32) for letter in "abc")
LEASE_S = 1.75


class Machine:
    """An election with an obedient disk and a clock that only moves when told."""

    def __init__(self, self_id: NodeId = B, stored: Promise | None = None) -> None:
        self.now_s = 0.0
        self.election = Election(self_id, LAN, stored, 0.0, lambda: 0.0)
        self.disk_works = True

    def does(self, event: Any) -> list[Any]:
        """All effects, those after the disk's answer included."""
        effects = list(self.election.step(self.now_s, event))
        for effect in list(effects):
            if isinstance(effect, Persist):
                answer = Persisted(effect.promise) if self.disk_works else PersistFailed(effect.promise)
                effects += self.does(answer)
        return effects

    def hears(self, sender: NodeId, message: Any) -> list[Any]:
        return self.does(ElectionReceived(sender, message))

    def at(self, now_s: float) -> list[Any]:
        self.now_s = now_s
        return self.does(Tick())

    def leads(self, *followers: NodeId, ballot: Ballot | None = None) -> Machine:
        """Make it lead, with these grants."""
        self.at(LAN.boot_listen_s)
        assert self.role is Role.LEADING
        for follower in followers:
            request = sent_to(follower, self.does(PeerLinked(follower)), GrantRequest)[0]
            self.hears(follower, GrantReply(request.ballot, request.round, True))
        return self

    def follows(self, leader: NodeId, counter: int = 1) -> Machine:
        self.does(PeerLinked(leader))
        self.hears(leader, GrantRequest(Ballot(counter, leader), 1, LEASE_S))
        assert self.role is Role.FOLLOWING
        return self

    @property
    def role(self) -> Role:
        return self.election.role

    @property
    def leader(self) -> NodeId | None:
        return self.election.leader(self.now_s)


def sent_to(peer: NodeId, effects: Sequence[Any], kind: type) -> list[Any]:
    return [e.message for e in effects if isinstance(e, Send) and e.to == peer and isinstance(e.message, kind)]


# --- the table ----------------------------------------------------------------------------------------------------


def test_every_role_can_be_stopped_and_none_left_after() -> None:
    for role in Role:
        if role is not Role.STOPPED:
            assert CHANGES[role, Trigger.STOP].to is Role.STOPPED
    assert not [pair for pair in CHANGES if pair[0] is Role.STOPPED]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("trigger", list(Trigger))
def test_a_change_outside_the_table_raises(role: Role, trigger: Trigger) -> None:
    machine = ElectionState(B, LAN, None, 0.0, lambda: 0.0, UNRESTRICTED)
    machine.role = role
    if (role, trigger) in CHANGES:
        machine.become(trigger)
        assert machine.role is CHANGES[role, trigger].to
    else:
        with pytest.raises(IllegalTransition):
            machine.become(trigger)


# --- alone ----------------------------------------------------------------------------------------------------------


def test_alone_on_a_first_start_it_leads_itself_after_listening() -> None:
    machine = Machine()
    assert machine.at(LAN.boot_listen_s - 0.01) == []
    effects = machine.at(LAN.boot_listen_s)
    assert Persist(Promise(Ballot(1, B), LEASE_S)) in effects
    assert LeadershipChanged(B, Ballot(1, B)) in effects
    assert machine.election.may_obey(Ballot(1, B), machine.now_s)
    assert machine.election.grants_held(machine.now_s) == 1


def test_after_a_restart_it_abstains_before_it_stands_above_its_promise() -> None:
    machine = Machine(stored=Promise(Ballot(7, C), LEASE_S))
    machine.at(LEASE_S - 0.01)
    assert machine.role is Role.LEADERLESS
    machine.at(LEASE_S)
    assert machine.election.ballot(machine.now_s) == Ballot(8, B)


def test_who_cannot_write_does_not_stand() -> None:
    machine = Machine()
    machine.disk_works = False
    machine.at(LAN.boot_listen_s)
    assert machine.role is Role.LEADERLESS
    assert machine.at(machine.election.wake_at_s) == [], "the disk is spared for a while"
    assert machine.role is Role.LEADERLESS
    machine.disk_works = True
    assert machine.election.wake_at_s == LAN.boot_listen_s + LAN.persist_retry_s
    machine.at(LAN.boot_listen_s + LAN.persist_retry_s)
    assert machine.role is Role.LEADING


def test_a_ballot_that_came_to_disk_too_late_is_used_in_the_next_campaign_without_writing_it_again() -> None:
    machine = Machine()
    effects = machine.election.step(LAN.boot_listen_s, Tick())
    (promise,) = [effect.promise for effect in effects if isinstance(effect, Persist)]
    machine.now_s = LAN.boot_listen_s + LEASE_S
    assert machine.does(Persisted(promise)) == []
    assert machine.role is Role.LEADERLESS
    effects = machine.at(machine.now_s + LAN.campaign_settle_s)
    assert effects == [LeadershipChanged(B, promise.ballot)]


def test_a_ballot_that_was_led_under_is_never_used_again() -> None:
    machine = Machine()
    effects = machine.election.step(LAN.boot_listen_s, Tick())
    (promise,) = [effect.promise for effect in effects if isinstance(effect, Persist)]
    machine.now_s = LAN.boot_listen_s + LEASE_S
    machine.does(Persisted(promise))
    machine.at(machine.now_s + LAN.campaign_settle_s)
    assert machine.election.ballot(machine.now_s) == promise.ballot
    machine.at(machine.now_s + LEASE_S)
    machine.at(machine.election.wake_at_s)
    assert machine.election.ballot(machine.now_s) == Ballot(promise.ballot.counter + 1, B)


def test_a_late_ballot_below_one_that_was_heard_of_is_not_used() -> None:
    machine = Machine()
    effects = machine.election.step(LAN.boot_listen_s, Tick())
    (promise,) = [effect.promise for effect in effects if isinstance(effect, Persist)]
    machine.now_s = LAN.boot_listen_s + LEASE_S
    machine.does(Persisted(promise))
    machine.does(PeerLinked(C))
    asked = sent_to(C, machine.at(machine.now_s + LAN.campaign_settle_s), PreVoteRequest)[0]
    effects = machine.hears(C, PreVoteReply(asked.ballot, asked.round, True, Ballot(7, A)))
    assert machine.election.ballot(machine.now_s) == Ballot(8, B)
    assert [effect.promise.ballot for effect in effects if isinstance(effect, Persist)] == [Ballot(8, B)]


def test_a_leader_that_slept_through_its_lease_is_nobody_when_it_wakes() -> None:
    machine = Machine().leads(C)
    machine.now_s += 60.0
    effects = machine.hears(C, PreVoteRequest(Ballot(9, C), 1))
    assert machine.role is Role.LEADERLESS
    assert LeadershipChanged(None, NO_BALLOT) in effects
    assert not machine.election.holds(C, machine.now_s)
    assert sent_to(C, effects, PreVoteReply)[0].granted == NO_BALLOT


def test_a_lease_that_is_over_is_over_before_anybody_wakes() -> None:
    """What is read between two steps is as true as a step."""
    machine = Machine().leads(C)
    over_s = machine.now_s + leader_lease_s(LEASE_S, LAN)
    assert machine.election.leader(over_s - 0.01) == B
    assert machine.election.leader(over_s) is None
    machine.at(over_s)
    assert machine.role is Role.LEADERLESS


def test_the_same_words_from_oneself_are_nobodys() -> None:
    machine = Machine()
    for message in (PreVoteRequest(Ballot(9, B), 1), GrantRequest(Ballot(9, B), 1, LEASE_S)):
        assert machine.hears(B, message) == []


def test_what_is_said_of_a_link_that_is_gone_counts_for_nothing() -> None:
    machine = Machine()
    machine.does(PeerLinked(A))
    machine.does(PeerUnlinked(A))
    machine.does(PeerFresh(A, True))
    machine.at(LAN.boot_listen_s)
    assert machine.role is Role.LEADING, "nobody was asked"


def test_in_a_large_pool_the_deputies_stand_first() -> None:
    machine = Machine()
    machine.does(DeputyChanged(False))
    machine.at(LAN.campaign_handicap_s - 0.01)
    assert machine.role is Role.LEADERLESS
    machine.at(LAN.campaign_handicap_s)
    assert machine.role is Role.LEADING
    machine = Machine().follows(A)
    machine.does(DeputyChanged(False))
    machine.hears(A, LeaseReleased(Ballot(1, A)))
    assert machine.election.wake_at_s == LAN.campaign_settle_s + LAN.campaign_handicap_s
    machine.does(DeputyChanged(True))
    machine.follows(A).hears(A, LeaseReleased(Ballot(1, A)))
    assert machine.election.wake_at_s == LAN.campaign_settle_s


# --- the pre-vote ---------------------------------------------------------------------------------------------------


def canvassing(*peers: NodeId) -> tuple[Machine, PreVoteRequest]:
    machine = Machine()
    for peer in peers:
        machine.does(PeerLinked(peer))
    effects = machine.at(LAN.boot_listen_s)
    assert machine.role is Role.CANVASSING
    return machine, sent_to(peers[0], effects, PreVoteRequest)[0]


def test_no_objection_makes_a_leader_above_every_ballot_heard_of() -> None:
    machine, request = canvassing(A, C)
    machine.hears(A, PreVoteReply(request.ballot, request.round, True, promised=Ballot(41, C)))
    assert machine.role is Role.CANVASSING
    machine.hears(C, PreVoteReply(request.ballot, request.round, True))
    assert machine.election.ballot(machine.now_s) == Ballot(42, B)


def test_a_live_leader_elsewhere_is_respected_however_often_one_asks() -> None:
    machine, request = canvassing(A)
    for _ in range(20):
        machine.hears(A, PreVoteReply(request.ballot, request.round, False, Ballot(3, C), granted=Ballot(3, C)))
        assert machine.role is Role.LEADERLESS
        effects = machine.at(machine.election.wake_at_s)
        request = sent_to(A, effects, PreVoteRequest)[0]
    assert machine.now_s > 10, "asking becomes rare"


def test_silence_over_fresh_links_means_that_we_may_be_deaf() -> None:
    machine, _ = canvassing(A)
    machine.at(machine.election.wake_at_s)
    assert machine.role is Role.LEADERLESS
    machine.does(PeerFresh(A, False))
    machine.at(machine.election.wake_at_s)
    machine.at(machine.election.wake_at_s)
    assert machine.role is Role.LEADING, "a stale link's silence says nothing"


def test_one_answer_is_enough_when_the_others_are_late() -> None:
    machine, request = canvassing(A, C)
    machine.hears(A, PreVoteReply(request.ballot, request.round, True))
    machine.at(machine.election.wake_at_s)
    assert machine.role is Role.LEADING


def test_a_lost_link_is_not_waited_for() -> None:
    machine, _ = canvassing(A)
    machine.does(PeerUnlinked(A))
    assert machine.role is Role.LEADING


def test_answers_to_another_round_or_from_strangers_do_not_count() -> None:
    machine, request = canvassing(A, C)
    machine.hears(A, PreVoteReply(request.ballot, request.round + 1, True))
    machine.hears(NodeId("d" * 32), PreVoteReply(request.ballot, request.round, True))
    machine.hears(C, PreVoteReply(request.ballot, request.round, True))
    machine.hears(C, PreVoteReply(request.ballot, request.round, True))
    assert machine.role is Role.CANVASSING


@pytest.mark.parametrize(("rival", "yields"), [(C, True), (A, False)])
def test_of_two_candidates_the_higher_ballot_goes_first(rival: NodeId, yields: bool) -> None:
    machine, _ = canvassing(rival)
    reply = sent_to(rival, machine.hears(rival, PreVoteRequest(Ballot(1, rival), 1)), PreVoteReply)[0]
    assert reply.willing is yields
    assert (machine.role is Role.LEADERLESS) is yields


def test_who_was_outbid_leaves_time_for_the_other() -> None:
    machine, request = canvassing(A)
    machine.hears(A, PreVoteReply(request.ballot, request.round, False))
    assert machine.election.wake_at_s == machine.now_s + LAN.courtesy_s


def test_a_follower_is_willing_to_have_its_leader_again() -> None:
    machine = Machine().follows(A)
    reply = sent_to(A, machine.hears(A, PreVoteRequest(Ballot(2, A), 1)), PreVoteReply)[0]
    assert (reply.willing, reply.promised, reply.granted) == (True, Ballot(1, A), NO_BALLOT)


def test_courtesy_to_a_candidate_that_never_succeeds_ends() -> None:
    machine = Machine()
    machine.does(PeerLinked(C))
    for step in range(1, 20):
        machine.now_s = step * 0.2
        machine.hears(C, PreVoteRequest(Ballot(1, C), step))
        if machine.role is Role.CANVASSING:
            break
    assert machine.now_s < LAN.boot_listen_s + (LAN.courtesies_max + 1) * LAN.courtesy_s


def test_a_follower_tells_a_candidate_of_its_leader_and_a_leader_asks_for_the_grant() -> None:
    follower = Machine().follows(A)
    reply = sent_to(C, follower.hears(C, PreVoteRequest(Ballot(9, C), 1)), PreVoteReply)[0]
    assert (reply.willing, reply.granted) == (False, Ballot(1, A))
    leader = Machine().leads(C)
    effects = leader.hears(C, PreVoteRequest(Ballot(9, C), 1))
    assert sent_to(C, effects, PreVoteReply)[0].granted == Ballot(1, B)
    assert sent_to(C, effects, GrantRequest)


# --- granting -------------------------------------------------------------------------------------------------------


def test_a_grant_is_written_then_announced_then_renewed_without_writing() -> None:
    machine = Machine()
    effects = machine.hears(A, GrantRequest(Ballot(1, A), 1, LEASE_S))
    assert [type(e) for e in effects] == [Persist, Send, LeadershipChanged]
    assert effects[1].message == GrantReply(Ballot(1, A), 1, True, Ballot(1, A))
    machine.now_s = 1.0
    effects = machine.hears(A, GrantRequest(Ballot(1, A), 2, LEASE_S))
    assert [type(e) for e in effects] == [Send]
    machine.at(1.0 + LEASE_S - 0.01)
    assert machine.leader == A
    machine.at(1.0 + LEASE_S)
    assert machine.leader is None


def test_a_request_heard_again_while_it_is_written_is_neither_written_nor_granted_twice() -> None:
    machine = Machine()
    (persist,) = machine.election.step(0.0, ElectionReceived(A, GrantRequest(Ballot(1, A), 1, LEASE_S)))
    assert machine.hears(A, GrantRequest(Ballot(1, A), 2, LEASE_S)) == []
    effects = machine.does(Persisted(persist.promise))
    assert [reply.granted for reply in sent_to(A, effects, GrantReply)] == [True]
    assert machine.leader == A


def test_the_fence_obeys_only_the_live_grant() -> None:
    machine = Machine().follows(A, counter=4)
    obeys = machine.election.may_obey
    assert obeys(Ballot(4, A), 0.0)
    for ballot in (Ballot(3, A), Ballot(5, A), Ballot(4, C), Ballot(9, C), NO_BALLOT):
        assert not obeys(ballot, 0.0)
    assert not obeys(Ballot(4, A), LEASE_S)


def test_a_higher_ballot_alone_does_not_break_a_live_grant() -> None:
    machine = Machine().follows(A)
    effects = machine.hears(C, GrantRequest(Ballot(99, C), 1, LEASE_S, grants_held=50))
    assert sent_to(C, effects, GrantReply)[0] == GrantReply(
        Ballot(99, C), 1, False, Ballot(1, A), Refusal.LIVE_GRANT.value
    )
    assert machine.leader == A


def test_the_same_leader_may_rise() -> None:
    machine = Machine().follows(A, counter=1)
    machine.hears(A, GrantRequest(Ballot(8, A), 2, LEASE_S))
    assert machine.election.may_obey(Ballot(8, A), 0.0)
    assert not machine.election.may_obey(Ballot(1, A), 0.0)


@pytest.mark.parametrize(
    "ballot", [Ballot(3, C), Ballot(3, B), Ballot(COUNTER_MAX + 1, A)], ids=["another's", "ours", "absurd"]
)
def test_a_request_under_a_ballot_that_is_not_the_senders_is_ignored(ballot: Ballot) -> None:
    assert Machine().hears(A, GrantRequest(ballot, 1, LEASE_S)) == []


ABSURD = [COUNTER_MAX + 1, 2**64 - 1, 5 + COUNTER_LEAP_MAX + 1]


@pytest.mark.parametrize("counter", ABSURD)
def test_one_machine_cannot_push_the_ballots_of_all_to_their_end(counter: int) -> None:
    """A promise that no later ballot could exceed, told by a liar, would leave the pool without a leader for good."""
    far = Ballot(counter, A)
    machine, request = canvassing(A, C)
    machine.hears(A, PreVoteReply(request.ballot, request.round, True, promised=far))
    machine.hears(C, PreVoteReply(request.ballot, request.round, True))
    machine.at(machine.now_s + LAN.pre_vote_timeout_s)
    assert machine.role is Role.LEADING
    assert machine.election.grants.promise.ballot.counter == request.ballot.counter
    asked = sent_to(A, machine.at(machine.now_s + 1), GrantRequest)[-1]
    machine.hears(A, GrantReply(asked.ballot, asked.round, False, far, Refusal.STALE.value))
    assert machine.election.grants.promise.ballot.counter == request.ballot.counter


def test_a_leap_that_years_of_elections_could_explain_is_followed() -> None:
    machine = Machine().follows(A, counter=1)
    far = Ballot(1 + COUNTER_LEAP_MAX, A)
    machine.hears(A, GrantRequest(far, 2, LEASE_S))
    assert machine.election.may_obey(far, 0.0)


def test_who_cannot_write_does_not_grant() -> None:
    machine = Machine()
    machine.disk_works = False
    effects = machine.hears(A, GrantRequest(Ballot(1, A), 1, LEASE_S))
    assert sent_to(A, effects, GrantReply)[0].reason == Refusal.NOT_DURABLE.value
    assert machine.leader is None


def test_a_grant_being_written_ends_our_own_canvass() -> None:
    machine, request = canvassing(A, C)
    machine.hears(A, GrantRequest(Ballot(1, A), 1, LEASE_S))
    assert machine.leader == A
    machine.hears(C, PreVoteReply(request.ballot, request.round, True))
    assert machine.leader == A


# --- losing a leader ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [PeerGone(A), ElectionReceived(A, LeaseReleased(Ballot(1, A)))])
def test_a_leader_proven_gone_or_released_frees_the_node_at_once(event: Any) -> None:
    machine = Machine().follows(A)
    machine.does(PeerUnlinked(A))
    machine.does(event)
    assert machine.leader is None
    machine.at(machine.election.wake_at_s)
    assert machine.leader == B
    assert machine.now_s < 0.25


@pytest.mark.parametrize("event", [PeerUnlinked(A), PeerGone(C), ElectionReceived(C, LeaseReleased(Ballot(1, A)))])
def test_a_lost_link_or_somebody_elses_word_does_not(event: Any) -> None:
    machine = Machine().follows(A)
    machine.does(event)
    assert machine.leader == A


@pytest.mark.parametrize("released", [Ballot(4, A), Ballot(9, C)], ids=["an old one", "its grant of another leader"])
def test_a_release_of_something_else_does_not_end_a_grant(released: Ballot) -> None:
    machine = Machine().follows(A, counter=5)
    machine.hears(A, LeaseReleased(released))
    assert machine.leader == A


@pytest.mark.parametrize("led_by_itself", [False, True])
def test_who_had_a_leader_campaigns_afresh(led_by_itself: bool) -> None:
    """What it lost before, and held back before, is forgotten."""
    machine, request = canvassing(A)
    for _ in range(8):
        machine.hears(A, PreVoteReply(request.ballot, request.round, False, Ballot(3, C), granted=Ballot(3, C)))
        request = sent_to(A, machine.at(machine.election.wake_at_s), PreVoteRequest)[0]
    if led_by_itself:
        machine.hears(A, PreVoteReply(request.ballot, request.round, True))
        machine.now_s += 60.0
        machine.at(machine.now_s)
    else:
        machine.hears(A, GrantRequest(Ballot(9, A), 1, LEASE_S))
        machine.hears(A, LeaseReleased(Ballot(9, A)))
    assert machine.role is Role.LEADERLESS
    request = sent_to(A, machine.at(machine.election.wake_at_s), PreVoteRequest)[0]
    machine.hears(A, PreVoteReply(request.ballot, request.round, False, Ballot(3, C), granted=Ballot(3, C)))
    assert machine.election.wake_at_s == machine.now_s + LAN.canvass_retry_s


def test_who_is_refused_for_a_grant_that_is_being_written_learns_whose() -> None:
    machine = Machine()
    machine.election.step(0.0, ElectionReceived(A, GrantRequest(Ballot(1, A), 1, LEASE_S)))
    reply = sent_to(C, machine.hears(C, GrantRequest(Ballot(2, C), 1, LEASE_S)), GrantReply)[0]
    assert (reply.reason, reply.promised) == (Refusal.LIVE_GRANT.value, Ballot(1, A))


# --- leading --------------------------------------------------------------------------------------------------------


def test_a_leader_counts_a_grant_from_sending_and_stops_before_the_node() -> None:
    machine = Machine()
    machine.does(PeerLinked(C))
    machine.does(PeerFresh(C, False))
    machine.at(LAN.boot_listen_s)
    effects = machine.at(machine.election.wake_at_s)
    request, sent_at_s = sent_to(C, effects, GrantRequest)[0], machine.now_s
    machine.now_s += 0.2
    effects = machine.hears(C, GrantReply(request.ballot, request.round, True))
    assert FollowerGained(C) in effects
    machine.at(machine.election.wake_at_s)
    assert machine.election.holds(B, sent_at_s + LEASE_S), "it goes on leading itself"
    assert machine.election.holds(C, sent_at_s + LEASE_S * 0.97)
    assert not machine.election.holds(C, sent_at_s + LEASE_S * 0.985)


@pytest.mark.parametrize("event", [PeerGone(C), ElectionReceived(C, LeaseReleased(Ballot(1, B)))])
def test_a_follower_that_is_gone_or_withdraws_is_not_counted_on(event: Any) -> None:
    machine = Machine().leads(A, C)
    assert machine.election.grants_held(machine.now_s) == 3
    machine.does(event)
    assert machine.election.grants_held(machine.now_s) == 2
    assert not machine.election.holds(C, machine.now_s)
    assert machine.election.holds(A, machine.now_s)


def test_an_answer_to_a_request_long_ago_is_no_grant() -> None:
    machine = Machine()
    machine.leads()
    request = sent_to(C, machine.does(PeerLinked(C)), GrantRequest)[0]
    for _ in range(12):
        machine.at(machine.election.wake_at_s)
    effects = machine.hears(C, GrantReply(request.ballot, request.round, True))
    assert not machine.election.holds(C, machine.now_s)
    assert FollowerGained(C) not in effects


def test_grants_that_ended_are_forgotten() -> None:
    machine = Machine().leads(A, C)
    for _ in range(5):
        machine.at(machine.election.wake_at_s)
    assert machine.election.leadership is not None
    assert machine.election.leadership.held == {}


def test_a_pool_that_grows_has_a_longer_lease_once_that_is_on_disk() -> None:
    machine = Machine().leads()
    machine.disk_works = False
    for number in range(499):
        machine.does(PeerLinked(NodeId(f"{number:032}")))
    effects = machine.at(machine.election.wake_at_s)
    assert [effect.promise.lease_s for effect in effects if isinstance(effect, Persist)] == [lease_s(500)]
    assert machine.election.leadership is not None
    assert machine.election.leadership.self_until_s == machine.now_s + leader_lease_s(LEASE_S, LAN)
    refused_at_s = machine.now_s
    effects = machine.at(machine.election.wake_at_s)
    assert not [effect for effect in effects if isinstance(effect, Persist)], "not while the disk is known to refuse"
    machine.disk_works = True
    while machine.now_s < refused_at_s + LAN.persist_retry_s:
        machine.at(machine.election.wake_at_s)
    machine.at(machine.election.wake_at_s)
    assert machine.election.leadership.self_until_s == machine.now_s + leader_lease_s(lease_s(500), LAN)


def test_a_leader_rises_above_a_promise_it_hears_of_and_keeps_leading() -> None:
    machine = Machine().leads(C)
    machine.hears(A, GrantReply(Ballot(1, B), 1, False, Ballot(50, A), Refusal.STALE.value))
    assert machine.election.ballot(machine.now_s) == Ballot(51, B)
    assert machine.role is Role.LEADING


def test_a_leader_does_not_rise_above_what_it_has_risen_above() -> None:
    machine = Machine().leads(C)
    stale = GrantReply(Ballot(1, B), 1, False, Ballot(50, A), Refusal.STALE.value)
    machine.hears(A, stale)
    assert machine.hears(A, stale) == []
    assert machine.election.ballot(machine.now_s) == Ballot(51, B)


def test_a_leader_that_cannot_write_keeps_its_ballot_and_spares_the_disk() -> None:
    machine = Machine().leads(C)
    machine.disk_works = False
    stale = GrantReply(Ballot(1, B), 1, False, Ballot(50, A), Refusal.STALE.value)
    machine.hears(A, stale)
    assert machine.hears(A, stale) == []
    assert machine.election.ballot(machine.now_s) == Ballot(1, B)


@pytest.mark.parametrize(
    ("rival", "its_grants", "own_followers", "steps_down"),
    [
        (C, 1, [], True),
        (A, 1, [], False),
        (A, 2, [], True),
        (C, 1, [A], False),
        (C, 2, [A], True),
        (NodeId("0" * 32), 3, [A], True),
    ],
)
def test_merge_more_grants_win_ties_by_id(
    rival: NodeId, its_grants: int, own_followers: list[NodeId], steps_down: bool
) -> None:
    machine = Machine().leads(*own_followers)
    effects = machine.hears(rival, GrantRequest(Ballot(7, rival), 1, LEASE_S, its_grants))
    if steps_down:
        assert machine.leader == rival
        for follower in own_followers:
            assert sent_to(follower, effects, LeaseReleased) == [LeaseReleased(Ballot(1, B))]
    else:
        assert machine.election.ballot(machine.now_s) == Ballot(8, B)
        assert sent_to(rival, effects, GrantRequest), "the rival is asked at once"


def test_a_leader_of_itself_alone_gives_way_to_a_live_leader_it_cannot_reach() -> None:
    machine = Machine().leads()
    machine.hears(C, GrantReply(Ballot(1, B), 1, False, Ballot(1, A), Refusal.LIVE_GRANT.value))
    assert machine.leader is None
    with_follower = Machine().leads(NodeId("d" * 32))
    with_follower.hears(C, GrantReply(Ballot(1, B), 1, False, Ballot(1, A), Refusal.LIVE_GRANT.value))
    assert with_follower.leader == B


def test_a_leader_that_has_stepped_down_leaves_time_for_the_other() -> None:
    machine = Machine().leads()
    machine.hears(C, GrantReply(Ballot(1, B), 1, False, Ballot(1, A), Refusal.LIVE_GRANT.value))
    assert machine.election.wake_at_s == machine.now_s + LAN.campaign_settle_s + LAN.courtesy_s


@pytest.mark.parametrize("promised", [Ballot(1, C), Ballot(9, B), NO_BALLOT])
def test_a_refusal_that_names_no_other_leader_does_not_end_its_leadership(promised: Ballot) -> None:
    machine = Machine().leads()
    machine.hears(C, GrantReply(Ballot(1, B), 1, False, promised, Refusal.LIVE_GRANT.value))
    assert machine.leader == B


def test_stopping_hands_over() -> None:
    leader = Machine().leads(C)
    assert sent_to(C, leader.does(StopRequested()), LeaseReleased) == [LeaseReleased(Ballot(1, B))]
    assert leader.role is Role.STOPPED
    refusal = sent_to(A, leader.hears(A, GrantRequest(Ballot(9, A), 1, LEASE_S)), GrantReply)[0]
    assert refusal.reason == Refusal.STOPPED.value
    follower = Machine().follows(A)
    follower.does(PeerLinked(C))
    effects = follower.does(StopRequested())
    assert sent_to(A, effects, LeaseReleased) == [LeaseReleased(Ballot(1, A))]
    assert not sent_to(C, effects, LeaseReleased), "nobody else's business"
    assert not follower.election.may_obey(Ballot(1, A), 0.0)
    assert follower.does(StopRequested()) == []


def test_who_stops_while_a_grant_is_written_obeys_nobody_afterwards() -> None:
    machine = Machine()
    (persist,) = machine.election.step(0.0, ElectionReceived(A, GrantRequest(Ballot(1, A), 1, LEASE_S)))
    machine.does(StopRequested())
    assert machine.does(Persisted(persist.promise)) == []
    assert not machine.election.may_obey(Ballot(1, A), 0.0)
