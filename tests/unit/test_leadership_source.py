"""Who may stand: what the election does as a candidature opens, is renewed, runs out and closes."""

from __future__ import annotations

from typing import Any

import pytest

from covey_mesh.core.ballot import COUNTER_LEAP_MAX, Ballot
from covey_mesh.core.effects import LeadershipChanged, Persist, Send
from covey_mesh.core.election import Election
from covey_mesh.core.events import (
    CandidacyClosed,
    CandidacyOpened,
    ElectionReceived,
    PeerLinked,
    Persisted,
    Promise,
    Tick,
)
from covey_mesh.core.leadership_source import NOT_ALLOWED, UNRESTRICTED, Candidature, OwnElection
from covey_mesh.core.leading import NEVER
from covey_mesh.core.messages import GrantReply, GrantRequest, LeaseReleased, PreVoteReply, PreVoteRequest
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN
from covey_mesh.core.transitions import Role

A, B = NodeId("a" * 32), NodeId("b" * 32)
READY_S = LAN.boot_listen_s
"""When the first campaign is due."""


def machine(stored: Promise | None = None, candidature: Candidature = NOT_ALLOWED) -> Election:
    return Election(B, LAN, stored, 0.0, lambda: 0.0, candidature)


def opened(counter: int, until_s: float) -> CandidacyOpened:
    return CandidacyOpened(Candidature(counter, until_s))


def write(election: Election, now_s: float, effects: list[Any]) -> list[Any]:
    """What follows once the disk has done its work."""
    return [
        e for wanted in effects if isinstance(wanted, Persist) for e in election.step(now_s, Persisted(wanted.promise))
    ]


def lead(election: Election, now_s: float, event: Any) -> None:
    write(election, now_s, election.step(now_s, event))
    assert election.role is Role.LEADING


def test_without_a_candidature_it_never_campaigns_nor_wakes_up_for_it() -> None:
    election = machine()
    assert election.step(100.0, Tick()) == []
    assert election.role is Role.LEADERLESS
    assert election.wake_at_s == NEVER


def test_without_a_candidature_it_still_grants() -> None:
    election = machine()
    election.step(READY_S, PeerLinked(A))
    effects = election.step(READY_S, ElectionReceived(A, GrantRequest(Ballot(7, A), 1, 1.0)))
    write(election, READY_S, effects)
    assert election.role is Role.FOLLOWING
    assert election.may_obey(Ballot(7, A), READY_S)


def test_the_built_in_source_opens_for_everybody_and_for_ever() -> None:
    class Recorder:
        self_id, leads = B, False

        def __init__(self) -> None:
            self.seen: list[Candidature] = []

        def candidacy_opened(self, candidature: Candidature) -> None:
            self.seen.append(candidature)

        def candidacy_closed(self) -> None:
            raise AssertionError("never")

    recorder = Recorder()
    OwnElection().start(recorder)
    assert recorder.seen == [UNRESTRICTED]


@pytest.mark.parametrize(
    ("promised", "counter", "expected"),
    [
        (0, 40, 40),
        (39, 40, 40),
        (40, 40, 41),
        (90, 40, 91),
        (5, 5 + COUNTER_LEAP_MAX, 5 + COUNTER_LEAP_MAX),
        (5, 6 + COUNTER_LEAP_MAX, 6),
        (5, -1, 6),
    ],
)
def test_ballots_count_from_the_candidature_unless_others_would_ignore_that(
    promised: int, counter: int, expected: int
) -> None:
    election = machine(Promise(Ballot(promised, A), 0.0) if promised else None)
    lead(election, READY_S, opened(counter, 10.0))
    assert election.ballot(READY_S) == Ballot(expected, B)


def test_it_listens_before_its_first_campaign_also_with_a_candidature() -> None:
    election = machine()
    election.step(0.0, opened(3, 10.0))
    assert election.role is Role.LEADERLESS
    assert election.wake_at_s == READY_S


def test_a_leader_whose_candidature_is_over_steps_down_by_its_own_clock_and_says_so() -> None:
    election = machine()
    election.step(0.0, PeerLinked(A))
    request = next(
        e.message
        for e in election.step(READY_S, opened(3, 4.0))
        if isinstance(e, Send) and isinstance(e.message, PreVoteRequest)
    )
    reply = PreVoteReply(request.ballot, request.round, True)
    lead(election, READY_S, ElectionReceived(A, reply))
    for tenths in range(6, 40):
        election.step(tenths / 10, Tick())
    assert election.role is Role.LEADING
    assert election.wake_at_s <= 4.0
    effects = election.step(4.0, Tick())
    assert Send(A, LeaseReleased(Ballot(3, B))) in effects
    assert any(isinstance(e, LeadershipChanged) and e.leader is None for e in effects)
    assert election.role is Role.LEADERLESS
    assert not election.may_obey(Ballot(3, B), 4.0)
    assert election.wake_at_s == NEVER


def test_a_leader_wakes_for_the_end_of_its_candidature() -> None:
    election = machine()
    lead(election, READY_S, opened(3, READY_S + 0.2))
    assert election.wake_at_s == READY_S + 0.2


def test_a_renewed_candidature_keeps_the_leader_and_its_ballot() -> None:
    election = machine()
    lead(election, READY_S, opened(3, 4.0))
    for second in range(1, 30):
        election.step(float(second), opened(3, second + 4.0))
        assert election.ballot(float(second)) == Ballot(3, B)


def test_a_leader_steps_down_at_once_when_its_candidature_is_closed() -> None:
    election = machine()
    lead(election, READY_S, opened(3, 10.0))
    election.step(1.0, CandidacyClosed())
    assert election.role is Role.LEADERLESS
    assert election.step(9.0, Tick()) == []


def test_a_machine_that_slept_through_its_candidature_wakes_up_as_nobody() -> None:
    election = machine()
    lead(election, READY_S, opened(3, 4.0))
    late = GrantReply(Ballot(3, B), 1, True)
    election.step(500.0, ElectionReceived(A, late))
    assert election.leader(500.0) is None
    assert election.step(501.0, opened(3, 4.0)) == []
    assert election.step(510.0, Tick()) == [], "what is over does not open again"


def test_closing_ends_a_canvass() -> None:
    election = machine()
    election.step(0.0, PeerLinked(A))
    election.step(READY_S, opened(3, 10.0))
    assert election.role is Role.CANVASSING
    election.step(READY_S, CandidacyClosed())
    assert election.role is Role.LEADERLESS
    late = PreVoteReply(Ballot(3, B), 1, True)
    assert election.step(READY_S, ElectionReceived(A, late)) == []


def test_closing_while_the_ballot_is_written_leaves_a_promise_and_no_leader() -> None:
    election = machine()
    effects = election.step(READY_S, opened(3, 10.0))
    assert election.role is Role.STANDING
    election.step(READY_S, CandidacyClosed())
    write(election, READY_S, effects)
    assert election.role is Role.LEADERLESS
    assert election.grants.promise.ballot == Ballot(3, B)
    lead(election, READY_S + 1, opened(9, 10.0))
    assert election.ballot(READY_S + 1) == Ballot(9, B)


def test_closing_twice_or_after_the_stop_changes_nothing() -> None:
    election = machine()
    assert election.step(1.0, CandidacyClosed()) == []
    lead(election, 1.0, opened(3, 10.0))
    election.step(2.0, CandidacyClosed())
    assert election.step(2.0, CandidacyClosed()) == []
