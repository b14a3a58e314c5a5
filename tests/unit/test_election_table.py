"""The tables of transitions.py say what the election does, no more and no less: compared with random lives."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.effects import Persist, Send
from covey_mesh.core.election import Election
from covey_mesh.core.election_state import ElectionState
from covey_mesh.core.events import (
    CandidacyClosed,
    CandidacyOpened,
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
from covey_mesh.core.timing import LAN
from covey_mesh.core.transitions import ANSWERS, CHANGES, Kinds, Role, Trigger

LIVES = 2500
EVENTS_OF_A_LIFE = 60
CROWDED, CROWD = 0.004, 450
"""Some leaders meet so many others that a longer lease must be written."""
SELF, *PEERS = (NodeId(letter * 32) for letter in "bac")
REASONS = (Refusal.STALE, Refusal.LIVE_GRANT, Refusal.ABSTAINING, Refusal.NOT_DURABLE)


def kinds(effects: list[Any]) -> Kinds:
    """What is done, in order; the same thing for several machines counts once."""
    found = [type(e.message) if isinstance(e, Send) else type(e) for e in effects]
    return tuple(kind for i, kind in enumerate(found) if i == 0 or found[i - 1] is not kind)


class Life:
    """One machine that anything may happen to; what it does is noted down."""

    def __init__(self, dice: random.Random, seen: Seen) -> None:
        self.now_s = 0.0
        self.dice = dice
        self.seen = seen
        stored = Promise(Ballot(3, SELF), 1.0) if dice.random() < 0.2 else None
        self.election = Election(SELF, LAN, stored, 0.0, dice.random)
        self.writing: Promise | None = None
        self.asked: list[Any] = []

    def does(self, event: Any) -> None:
        seen, election = self.seen, self.election
        seen.marks.clear()
        was = election.role
        effects = election.step(self.now_s, event)
        for effect in effects:
            if isinstance(effect, Persist):
                self.writing = effect.promise
            elif isinstance(effect, Send) and not isinstance(effect.message, GrantReply | PreVoteReply):
                self.asked = [*self.asked[-3:], effect.message]
        if not election._me.links:
            return
        if not seen.marks:  # no change of role
            seen.answers[was, type(getattr(event, "message", event))].add(kinds(effects))
            return
        ends = [at for _, _, at in seen.marks[1:]] + [len(effects)]
        for (role, trigger, at), end in zip(seen.marks, ends, strict=True):
            seen.changes[role, trigger].add(kinds(effects[at:end]))

    def live(self) -> None:
        crowd_due = self.dice.random() < CROWDED
        for _ in range(EVENTS_OF_A_LIFE):
            if crowd_due and self.election.role is Role.LEADING:
                crowd_due = False
                self.meet_a_crowd()
            self.now_s += self.dice.choice((0.0, 0.01, 0.1, 0.3, 0.3, 2.0))
            self.does(Tick())
            self.does(self.happening())

    def meet_a_crowd(self) -> None:
        for number in range(CROWD):
            self.does(PeerLinked(NodeId(f"{number:032x}")))

    def happening(self) -> Any:
        dice, peer = self.dice, self.dice.choice(PEERS)
        if self.writing is not None and dice.random() < 0.5:
            promise, self.writing = self.writing, None
            return Persisted(promise) if dice.random() < 0.8 else PersistFailed(promise)
        if dice.random() < 0.6:
            return ElectionReceived(peer, self.message(peer))
        if dice.random() < 0.6:
            return PeerLinked(peer)
        others = (PeerUnlinked(peer), PeerGone(peer), PeerFresh(peer, dice.random() < 0.5))
        rare = (CandidacyOpened(UNRESTRICTED), CandidacyClosed(), DeputyChanged(True), StopRequested())
        return dice.choice(others if dice.random() < 0.7 else rare)

    def message(self, peer: NodeId) -> Any:
        dice = self.dice
        counter = max(1, self.election.grants.promise.ballot.counter + dice.choice((-1, 0, 1)))
        ballot, mine = Ballot(counter, peer), Ballot(counter, SELF)
        rival = Ballot(counter, dice.choice((SELF, *PEERS)))
        asked = dice.choice(self.asked) if self.asked else None
        if isinstance(asked, PreVoteRequest) and dice.random() < 0.6:
            granted = rival if dice.random() < 0.3 else NO_BALLOT
            return PreVoteReply(asked.ballot, asked.round, dice.random() < 0.8, rival, granted)
        if isinstance(asked, GrantRequest) and dice.random() < 0.6:
            if dice.random() < 0.6:
                return GrantReply(asked.ballot, asked.round, True, asked.ballot)
            return GrantReply(asked.ballot, asked.round, False, rival, dice.choice(REASONS).value)
        return dice.choice(
            (
                GrantRequest(ballot, 1, dice.choice((1.75, 1.75, 3.0)), dice.randint(1, 3)),
                PreVoteRequest(ballot, 1),
                LeaseReleased(dice.choice((ballot, mine))),
            )
        )


class Seen:
    """What random lives did: at a change of role, and on an event without one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changes: dict[tuple[Role, Trigger], set[Kinds]] = defaultdict(set)
        self.answers: dict[tuple[Role, type], set[Kinds]] = defaultdict(set)
        self.marks: list[tuple[Role, Trigger, int]] = []
        become = ElectionState.become

        def noted(state: ElectionState, trigger: Trigger) -> None:
            was = state.role
            become(state, trigger)
            self.marks.append((was, trigger, len(state.effects)))

        monkeypatch.setattr(ElectionState, "become", noted)
        for seed in range(LIVES):
            Life(random.Random(seed), self).live()


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    with pytest.MonkeyPatch.context() as patch:
        yield Seen(patch)


def test_every_change_of_role_and_what_comes_with_it_is_in_the_table_and_nothing_else(seen: Seen) -> None:
    assert seen.changes == {pair: set(change.effects) for pair, change in CHANGES.items()}


def test_every_other_answer_is_in_the_table_and_nothing_else(seen: Seen) -> None:
    answered = {pair: found for pair, found in seen.answers.items() if found != {()}}
    assert answered == {pair: set(alternatives) for pair, alternatives in ANSWERS.items()}


def test_every_event_was_met_in_every_role(seen: Seen) -> None:
    """Or the comparison proves little. What ends the pre-vote, or begins it, leaves no tick without a change."""
    for role in Role:
        met = {event for was, event in seen.answers if was is role}
        assert met >= {PeerLinked, PeerUnlinked, PeerGone, PeerFresh, PreVoteRequest, GrantRequest, LeaseReleased}
