"""Deliberately broken leaderships: each must be caught by the properties, or the properties prove nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tests.sim.machine import SimStores

from covey_mesh.core import candidacy, election, grants
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.candidacy import Leadership
from covey_mesh.core.election import Election
from covey_mesh.core.grants import Grants, Refusal
from covey_mesh.core.names import NodeId


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
    if self.role is election.Role.FOLLOWING and self.grants.live(now_s) == NO_BALLOT:
        self._lose_leader(now_s)


def _grants_before_writing(self: Grants, now_s: float, ballot: Ballot, lease_s: float, round_: int) -> Any:
    promise = _begin(self, now_s, ballot, lease_s, round_)
    if promise is not None:
        self._grant(ballot, now_s + lease_s)
    return promise


_refusal = grants.Grants.refusal
_begin = grants.Grants.begin

MUTANTS: dict[str, list[tuple[Any, str, Callable[..., Any]]]] = {
    "no fencing of lower ballots": [(Grants, "refusal", _no_fencing)],
    "no step-down when the lease is over": [
        (Leadership, "holds", _never_steps_down),
        (Leadership, "drop_expired", lambda self, now_s: None),
        (Election, "_pass_time", _keeps_leading),
    ],
    "ballot lost on restart": [(SimStores, "load", lambda self: None)],
    "a higher ballot breaks a live grant": [(Grants, "refusal", _higher_ballot_breaks_live_grant)],
    "granted before it is on disk": [(Grants, "begin", _grants_before_writing)],
    "lease counted from the answer": [
        (candidacy, "leader_lease_s", lambda lease_s, timing: lease_s + 1.0),
    ],
}
"""Name -> what is replaced by what."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """While this lasts, the leadership is broken in this one way."""
    patches = [mock.patch.object(owner, attribute, broken) for owner, attribute, broken in MUTANTS[name]]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
