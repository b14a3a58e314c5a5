"""The tally of one pre-vote, and what a leader may count on: each rule by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.candidacy import Canvass, Leadership, Verdict
from covey_mesh.core.messages import GrantReply, PreVoteReply
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN, leader_lease_s

A, B, C, D = (NodeId(letter * 32) for letter in "abcd")
MINE = Ballot(5, B)
YES = PreVoteReply(MINE, 3, True, NO_BALLOT, NO_BALLOT)
NO = replace(YES, willing=False)
LED = replace(NO, granted=Ballot(4, D))
DEADLINE_S = 10.0


def canvass(*waiting: NodeId) -> Canvass:
    return Canvass(MINE, 3, DEADLINE_S, set(waiting))


# --- the pre-vote -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "reply"),
    [
        (A, replace(NO, round=2)),
        (A, replace(NO, ballot=Ballot(4, B))),
        (D, NO),
    ],
    ids=["another round", "a ballot of an earlier life", "a stranger"],
)
def test_what_answers_something_else_is_not_counted(sender: NodeId, reply: PreVoteReply) -> None:
    asked = canvass(A, C)
    asked.take(sender, replace(reply, promised=Ballot(9, D)))
    assert (asked.answered, asked.waiting, asked.highest) == (0, {A, C}, NO_BALLOT)
    assert asked.verdict(0.0, False) is Verdict.OPEN


def test_a_second_answer_of_one_machine_is_not_counted() -> None:
    asked = canvass(A, C)
    asked.take(A, YES)
    asked.take(A, NO)
    assert asked.answered == 1
    assert not asked.outbid


def test_a_grant_of_the_candidates_own_is_no_other_leader() -> None:
    asked = canvass(A)
    asked.take(A, replace(YES, granted=Ballot(4, B)))
    assert asked.verdict(0.0, False) is Verdict.WON


def test_it_waits_for_all_until_the_deadline_and_no_longer() -> None:
    asked = canvass(A, C)
    asked.take(A, YES)
    assert asked.verdict(DEADLINE_S - 0.01, True) is Verdict.OPEN
    assert asked.verdict(DEADLINE_S, True) is Verdict.WON


@pytest.mark.parametrize(
    ("replies", "any_fresh_unanswered", "verdict"),
    [
        ([], True, Verdict.UNHEARD),
        ([], False, Verdict.WON),
        ([YES], True, Verdict.WON),
        ([NO], True, Verdict.OUTBID),
        ([YES, LED], True, Verdict.LEADER_LIVES),
        ([NO, LED], True, Verdict.LEADER_LIVES),
    ],
)
def test_what_a_pre_vote_came_to(replies: list[PreVoteReply], any_fresh_unanswered: bool, verdict: Verdict) -> None:
    asked = canvass(A, C, D)
    for sender, reply in zip((A, C), replies, strict=False):
        asked.take(sender, reply)
    assert asked.verdict(DEADLINE_S, any_fresh_unanswered) is verdict


# --- grants held ------------------------------------------------------------------------------------------------------


def leadership(self_until_s: float = 100.0) -> Leadership:
    return Leadership(B, MINE, self_until_s, 0.0)


def test_a_late_answer_to_an_earlier_round_does_not_shorten_a_grant() -> None:
    held = leadership()
    held.note_sent(0.0, 1, 2.0)
    held.note_sent(0.5, 2, 2.0)
    held.take(A, GrantReply(MINE, 2, True), LAN)
    held.take(A, GrantReply(MINE, 1, True), LAN)
    assert held.held[A] == 0.5 + leader_lease_s(2.0, LAN)


@pytest.mark.parametrize(
    "reply",
    [GrantReply(Ballot(4, B), 1, True), GrantReply(MINE, 2, True), GrantReply(MINE, 1, False)],
    ids=["under a ballot given up", "of a round never sent", "a refusal"],
)
def test_what_is_no_grant_of_this_ballot_is_not_counted(reply: GrantReply) -> None:
    held = leadership()
    held.note_sent(0.0, 1, 2.0)
    held.take(A, reply, LAN)
    assert held.held == {}


def test_nothing_is_held_beyond_the_leaders_own_lease() -> None:
    held = leadership(self_until_s=1.0)
    held.note_sent(0.0, 1, 2.0)
    held.take(A, GrantReply(MINE, 1, True), LAN)
    assert held.holds(A, 0.99)
    assert held.holds(B, 0.99)
    assert not held.holds(A, 1.0)
    assert not held.holds(B, 1.0)


def test_a_grant_that_has_ended_is_neither_counted_nor_kept() -> None:
    held = leadership()
    held.note_sent(0.0, 1, 2.0)
    held.take(A, GrantReply(MINE, 1, True), LAN)
    over_s = held.held[A]
    assert (held.count(over_s - 0.01), held.count(over_s)) == (2, 1)
    held.drop_expired(over_s - 0.01)
    assert held.held == {A: over_s}
    held.drop_expired(over_s)
    assert held.held == {}


def test_rounds_are_remembered_as_long_as_their_lease() -> None:
    held = leadership()
    for round_ in range(1, 1001):
        held.note_sent(round_ * 0.5, round_, 1.75)
    assert list(held.sent) == [997, 998, 999, 1000]
