"""What an invitation allows, case by case."""

from __future__ import annotations

import pytest

from covey_mesh.core.invitation import ATTEMPTS_MAX, OUTSTANDING_MAX, REMEMBERED_S, Invitation, Refusal, remembered

OPEN = Invitation("t", "s", expires_at_unix_s=100.0, uses=2)


@pytest.mark.parametrize(
    ("invitation", "node_id", "now_s", "refusal"),
    [
        (OPEN, "a", 0.0, None),
        (OPEN, "a", 99.9, None),
        (OPEN, "a", 100.0, Refusal.EXPIRED),
        (OPEN.with_use("a"), "b", 0.0, None),
        (OPEN.with_use("a").with_use("b"), "c", 0.0, Refusal.USED),
        (OPEN.with_use("a").with_use("b"), "a", 0.0, None),
        (OPEN.with_use("a").with_use("a"), "b", 0.0, None),
        (OPEN.with_use("a").with_use("b"), "a", 100.0, Refusal.EXPIRED),
    ],
)
def test_refusals(invitation: Invitation, node_id: str, now_s: float, refusal: Refusal | None) -> None:
    assert invitation.refusal_for(node_id, now_s) is refusal


def test_outstanding_ends_with_the_last_use() -> None:
    assert OPEN.with_use("a").outstanding(0.0)
    assert not OPEN.with_use("a").with_use("b").outstanding(0.0)


def test_wrong_proofs_close_it() -> None:
    invitation = OPEN
    for _ in range(ATTEMPTS_MAX):
        assert invitation.outstanding(0.0)
        invitation = invitation.with_failure()
    assert not invitation.outstanding(0.0)
    assert invitation.refusal_for("a", 0.0) is Refusal.EXPIRED


def test_spent_ones_are_remembered_for_a_while_and_bounded() -> None:
    assert remembered((OPEN,), 100.0 + REMEMBERED_S - 1) == (OPEN,)
    assert remembered((OPEN,), 100.0 + REMEMBERED_S) == ()
    assert len(remembered((OPEN,) * 10 * OUTSTANDING_MAX, 0.0)) == 2 * OUTSTANDING_MAX


def test_the_secret_is_not_shown() -> None:
    assert "deadbeef" not in repr(Invitation("t", "deadbeef", 1.0))
