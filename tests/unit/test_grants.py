"""The granting side: what is refused and why, what must be written first, how a grant ends."""

from __future__ import annotations

import pytest

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.events import Promise
from covey_mesh.core.grants import Grants, Refusal
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN

A, B = NodeId("a" * 32), NodeId("b" * 32)
LEASE_S = 1.75


def granted(ballot: Ballot, at_s: float = 0.0) -> Grants:
    """A node that granted `ballot` at that time."""
    grants = Grants(None, 0.0, LAN)
    promise = grants.begin(at_s, ballot, LEASE_S, 1)
    assert promise is not None
    assert grants.written(at_s, promise) is not None
    return grants


@pytest.mark.parametrize(
    ("now_s", "ballot", "lease_s", "refusal"),
    [
        (1.0, Ballot(3, A), LEASE_S, None),
        (1.0, Ballot(4, A), LEASE_S, None),
        (1.0, Ballot(2, A), LEASE_S, Refusal.STALE),
        (1.0, Ballot(2, B), LEASE_S, Refusal.LIVE_GRANT),
        (1.0, Ballot(9, B), LEASE_S, Refusal.LIVE_GRANT),
        (LEASE_S, Ballot(9, B), LEASE_S, None),
        (LEASE_S, Ballot(3, B), LEASE_S, None),
        (LEASE_S, Ballot(2, B), LEASE_S, Refusal.STALE),
        (LEASE_S, Ballot(3, A), LEASE_S, None),
        (1.0, Ballot(3, A), 0.0, Refusal.BAD_LEASE),
        (1.0, Ballot(3, A), 1e9, Refusal.BAD_LEASE),
        (1.0, Ballot(3, A), float("nan"), Refusal.BAD_LEASE),
    ],
)
def test_refusal_after_granting_3a_at_0(now_s: float, ballot: Ballot, lease_s: float, refusal: Refusal | None) -> None:
    assert granted(Ballot(3, A)).refusal(now_s, ballot, lease_s) is refusal


def test_after_a_restart_a_node_abstains_for_the_lease_that_it_may_have_granted() -> None:
    grants = Grants(Promise(Ballot(3, A), 1.5), 10.0, LAN)
    assert grants.refusal(11.4, Ballot(9, B), LEASE_S) is Refusal.ABSTAINING
    assert grants.refusal(11.5, Ballot(9, B), LEASE_S) is None
    assert grants.refusal(11.5, Ballot(2, B), LEASE_S) is Refusal.STALE


def test_a_node_without_a_stored_promise_does_not_abstain() -> None:
    assert Grants(None, 10.0, LAN).refusal(10.0, Ballot(1, A), LEASE_S) is None


def test_nothing_is_granted_before_it_is_written() -> None:
    grants = Grants(None, 0.0, LAN)
    promise = grants.begin(0.0, Ballot(1, A), LEASE_S, 1)
    assert promise == Promise(Ballot(1, A), LEASE_S)
    assert grants.live(0.1) == NO_BALLOT
    assert grants.refusal(0.1, Ballot(9, B), LEASE_S) is Refusal.LIVE_GRANT
    assert grants.written(0.2, promise) is not None
    assert grants.live(LEASE_S - 0.01) == Ballot(1, A), "counted from the receipt, not from the writing"
    assert grants.live(LEASE_S) == NO_BALLOT


def test_a_renewal_needs_no_writing_but_a_longer_lease_does() -> None:
    grants = granted(Ballot(3, A))
    assert grants.begin(1.0, Ballot(3, A), LEASE_S, 2) is None
    assert grants.live(1.0 + LEASE_S - 0.01) == Ballot(3, A)
    assert grants.begin(1.0, Ballot(3, A), 5.0, 3) == Promise(Ballot(3, A), 5.0)


def test_a_shorter_renewal_does_not_shorten_what_the_leader_counts_on() -> None:
    grants = granted(Ballot(3, A))
    grants.begin(0.1, Ballot(3, A), 0.5, 2)
    assert grants.live(LEASE_S - 0.01) == Ballot(3, A)


def test_the_longest_lease_that_was_granted_stays_on_disk() -> None:
    """After a restart the node abstains for it, whatever was granted since."""
    grants = granted(Ballot(3, A))
    assert grants.begin(0.1, Ballot(4, A), 0.5, 2) == Promise(Ballot(4, A), LEASE_S)


def test_a_promise_written_too_late_grants_nothing_but_binds() -> None:
    grants = Grants(None, 0.0, LAN)
    promise = grants.begin(0.0, Ballot(5, A), LEASE_S, 1)
    assert promise is not None
    assert grants.written(LEASE_S, promise) is None
    assert grants.live(LEASE_S) == NO_BALLOT
    assert grants.refusal(LEASE_S, Ballot(4, B), LEASE_S) is Refusal.STALE


def test_what_a_disk_has_not_written_after_two_leases_is_claimed_by_nobody() -> None:
    grants = Grants(None, 0.0, LAN)
    assert grants.begin(0.0, Ballot(5, A), LEASE_S, 1) is not None
    assert grants.claimed(2 * LEASE_S - 0.01) == Ballot(5, A)
    assert grants.refusal(2 * LEASE_S - 0.01, Ballot(6, B), LEASE_S) is Refusal.LIVE_GRANT
    assert grants.claimed(2 * LEASE_S) == NO_BALLOT
    assert grants.refusal(2 * LEASE_S, Ballot(6, B), LEASE_S) is Refusal.NOT_DURABLE


def test_a_disk_that_refuses_makes_the_node_refuse_for_a_while() -> None:
    grants = Grants(None, 0.0, LAN)
    promise = grants.begin(0.0, Ballot(1, A), LEASE_S, 1)
    assert promise is not None
    grants.not_written(0.1, promise)
    assert grants.refusal(0.2, Ballot(1, A), LEASE_S) is Refusal.NOT_DURABLE
    assert grants.refusal(0.1 + LAN.persist_retry_s, Ballot(1, A), LEASE_S) is None


def test_a_node_that_lost_its_disk_goes_on_renewing() -> None:
    grants = granted(Ballot(3, A))
    promise = grants.begin(0.5, Ballot(4, A), LEASE_S, 2)
    assert promise is not None
    grants.not_written(0.6, promise)
    assert grants.refusal(0.7, Ballot(3, A), LEASE_S) is None
    assert grants.refusal(0.7, Ballot(4, A), LEASE_S) is Refusal.NOT_DURABLE


def test_release_ends_the_grant_of_that_leader_only() -> None:
    grants = granted(Ballot(3, A))
    assert not grants.end(B)
    assert grants.live(0.5) == Ballot(3, A)
    assert grants.end(A)
    assert grants.live(0.5) == NO_BALLOT
    assert grants.refusal(0.5, Ballot(4, B), LEASE_S) is None


def test_a_leader_gone_while_its_promise_is_written_gets_no_grant() -> None:
    grants = Grants(None, 0.0, LAN)
    promise = grants.begin(0.0, Ballot(1, A), LEASE_S, 1)
    assert promise is not None
    assert grants.end(A)
    assert grants.claimed(0.1) == NO_BALLOT
    assert not grants.end(A), "once is enough"
    assert grants.written(0.1, promise) is None
    assert grants.live(0.1) == NO_BALLOT
