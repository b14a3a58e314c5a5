"""Deliberately broken covey: each mutant must be caught by the properties, or the properties prove nothing.

A mutant replaces one function, in one way. Leadership first, then links and the path of requests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from tests.sim.link import SimLink
from tests.sim.machine import Machine, SimStores

from covey_gateway.core import grants, request
from covey_gateway.core import request_events as ev
from covey_gateway.core.request import Phase, RequestMachine
from covey_gateway.io import flight
from covey_gateway.io.flight import Flight
from covey_mesh.core import candidacy
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.candidacy import Canvass, Leadership, Verdict
from covey_mesh.core.election import Election
from covey_mesh.core.election_state import ElectionState
from covey_mesh.core.events import Promise
from covey_mesh.core.grants import Grants, PendingGrant, Refusal
from covey_mesh.core.hearing import Hearing
from covey_mesh.core.leading import Leading
from covey_mesh.core.liveness import LinkLiveness
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import Timing
from covey_mesh.core.transitions import Role
from covey_mesh.io.opened import OpenedAttempt, OpenedAttempts
from covey_node.core.admission import Admission, Place

Patch = tuple[Any, str, Any]

# --- leadership -----------------------------------------------------------------------------------------------------

_refusal = Grants.refusal
_begin = Grants.begin
_now_s = Machine.now_s


def _no_fencing(self: Grants, now_s: float, ballot: Ballot, lease_s: float) -> Refusal | None:
    refusal = _refusal(self, now_s, ballot, lease_s)
    return None if refusal is Refusal.STALE else refusal


def _higher_ballot_breaks_live_grant(self: Grants, now_s: float, ballot: Ballot, lease_s: float) -> Refusal | None:
    refusal = _refusal(self, now_s, ballot, lease_s)
    breaks = refusal is Refusal.LIVE_GRANT and self.pending is None and ballot > self.promise.ballot
    return None if breaks else refusal


def _never_steps_down(self: Leadership, node_id: NodeId, now_s: float) -> bool:
    return node_id == self.self_id or node_id in self.held


def _keeps_leading(self: Election, now_s: float) -> None:
    if self.role is Role.FOLLOWING and self.grants.live(now_s) == NO_BALLOT:
        self._following.lose_leader(now_s)


_grants_init = Grants.__init__


def _does_not_abstain(self: Grants, stored: Promise | None, started_at_s: float, timing: Timing) -> None:
    _grants_init(self, stored, started_at_s, timing)
    self.abstains_until_s = started_at_s


def _grants_before_writing(self: Grants, now_s: float, ballot: Ballot, lease_s: float, round_: int) -> Any:
    promise = _begin(self, now_s, ballot, lease_s, round_)
    if promise is not None:
        self._grant(ballot, now_s + lease_s)
    return promise


def _clock_that_stops_in_suspend(self: Machine) -> float:
    """CLOCK_MONOTONIC instead of CLOCK_BOOTTIME."""
    asleep_s = self.process.slept_s
    if self.process._suspended_at_s is not None:
        asleep_s += self.network.loop.now_s - self.process._suspended_at_s
    return _now_s(self) - asleep_s * self.clock_rate


# --- links ----------------------------------------------------------------------------------------------------------

_on_data = OpenedAttempt.on_data
_items_arrived = SimLink._items_arrived


def _data_twice(self: OpenedAttempt, chunk: bytes) -> None:
    _on_data(self, chunk)
    _on_data(self, chunk)


def _delivered_twice(self: SimLink, items: list[Any]) -> None:
    _items_arrived(self, items)
    _items_arrived(self, items)


# --- requests -------------------------------------------------------------------------------------------------------

_step = RequestMachine.step
_go_on = RequestMachine._go_on
_deliver_end = Flight._deliver_end
_release = Admission.release


def _granted_for_ever(self: grants.Grants, place: Any, now_s: float) -> None:
    place.until_s = place.renew_at_s = float("inf")
    self._places[place.model] = place


def _late_assignment_obeyed(self: RequestMachine, now_s: float, event: Any) -> Any:
    waits = self.phase in (Phase.ASKING, Phase.QUEUED)
    if waits and isinstance(event, ev.Assigned) and event.attempt < self.attempt:
        event = dataclasses.replace(event, attempt=self.attempt)
    return _step(self, now_s, event)


def _starts_again(self: RequestMachine, *arguments: Any) -> Any:
    effects = _go_on(self, *arguments)
    self._continuing = None
    return effects


def _end_twice(self: Flight, effect: ev.DeliverEnd) -> None:
    _deliver_end(self, effect)
    _deliver_end(self, effect)


def _room_not_given_back(self: Admission, ticket: Any) -> Any:
    held = ticket.reserved_tokens if ticket.place is Place.RUNNING else 0
    started = _release(self, ticket)
    self._reserved_tokens += held
    return started


def _deaf_to_new_leaders(self: RequestMachine, now_s: float, event: Any) -> list[Any]:
    return []


_TRANSITIONS = {
    key: _deaf_to_new_leaders if key[0] in (Phase.ASKING, Phase.QUEUED) and key[1] is ev.LeaderChanged else handler
    for key, handler in request.TRANSITIONS.items()
}

MUTANTS: dict[str, list[Patch]] = {
    "no fencing of lower ballots": [(Grants, "refusal", _no_fencing)],
    "no step-down when the lease is over": [
        (Leadership, "holds", _never_steps_down),
        (Leadership, "drop_expired", lambda self, now_s: None),
        (Election, "_pass_time", _keeps_leading),
    ],
    "sticky lease": [
        (Grants, "live", lambda self, now_s: self._ballot),
        (Grants, "until_s", property(lambda self: float("inf"))),
    ],
    "ballot lost on restart": [(SimStores, "load", lambda self: None)],
    "a higher ballot breaks a live grant": [(Grants, "refusal", _higher_ballot_breaks_live_grant)],
    "granted before it is on disk": [(Grants, "begin", _grants_before_writing)],
    "no abstaining after a restart": [(Grants, "__init__", _does_not_abstain)],
    "pre-vote that hides a live leader": [(Grants, "claimed", lambda self, now_s: NO_BALLOT)],
    "pre-vote that waits for nobody": [(Canvass, "verdict", lambda self, now_s, any_fresh_unanswered: Verdict.WON)],
    "rivals that ignore each other": [(Leading, "meet_rival", lambda self, now_s, sender, request: None)],
    "never above a promised ballot": [(Leading, "_rise_above", lambda self, now_s, promised: None)],
    "late ballot thrown away": [(ElectionState, "ballot_to_stand_with", ElectionState.next_ballot)],
    "claimed until it is written": [(PendingGrant, "claimed_until_s", property(lambda self: float("inf")))],
    "leader's word not heard": [(Hearing, "_take_word", lambda self, now_s, member: None)],
    "lease counted from the answer": [(candidacy, "leader_lease_s", lambda lease_s, timing: lease_s + 1.0)],
    "clock that stops in suspend": [(Machine, "now_s", _clock_that_stops_in_suspend)],
    "skipped heartbeat check": [(LinkLiveness, "_silent_at_s", lambda self: float("inf"))],
    "items of a link delivered twice": [(SimLink, "_items_arrived", _delivered_twice)],
    "bytes of an answer delivered twice": [(OpenedAttempt, "on_data", _data_twice)],
    "attempts not told of a lost link": [(OpenedAttempts, "lose_all", lambda self, why: None)],
    "late assignment of an old attempt obeyed": [(RequestMachine, "step", _late_assignment_obeyed)],
    "started again after the first byte": [(RequestMachine, "_go_on", _starts_again)],
    "end delivered twice": [(flight, "EFFECTS", {**flight.EFFECTS, ev.DeliverEnd: _end_twice})],
    "granted places used again": [(grants.Place, "take", lambda self, prompt_tokens: True)],
    "grants that never end": [(grants.Grants, "told", _granted_for_ever)],
    "admission ignored": [(Admission, "_fits", lambda self, ticket: True)],
    "room not given back": [(Admission, "release", _room_not_given_back)],
    "queued requests deaf to a new leader": [(request, "TRANSITIONS", _TRANSITIONS)],
}
"""Name -> what is replaced by what."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """While this lasts, covey is broken in this one way."""
    with ExitStack() as patches:
        for owner, attribute, broken in MUTANTS[name]:
            patches.enter_context(mock.patch.object(owner, attribute, broken))
        yield
