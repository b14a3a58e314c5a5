"""The rules of trying again: pauses, whom to leave out and for how long, when to stop."""

from __future__ import annotations

import pytest

from covey_gateway.core.retrying import (
    BUSY_EXCLUDED_MAX_S,
    BUSY_EXCLUDED_MIN_S,
    AttemptLedger,
    BufferBudget,
    backoff_s,
)
from covey_gateway.core.settings import RequestSettings
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.names import NodeId

A, B, C = (NodeId(letter * 32) for letter in "abc")
SETTINGS = RequestSettings()
FULL = FailureCode.RESOURCE_EXHAUSTED


def ledger(*failures: tuple[NodeId, FailureCode], retry_after_ms: int = 0) -> AttemptLedger:
    """What failed at second 0."""
    found = AttemptLedger(SETTINGS)
    for node_id, code in failures:
        found.note(0.0, node_id, Failure(code, "because", retry_after_ms))
    return found


@pytest.mark.parametrize(
    ("round_number", "at_least_s", "random_unit", "pause_s"),
    [
        (0, 0.0, 0.0, SETTINGS.backoff_first_s),
        (1, 0.0, 0.0, SETTINGS.backoff_first_s * 2),
        (0, 0.0, 1.0, SETTINGS.backoff_first_s * 1.5),
        (99, 0.0, 0.0, SETTINGS.backoff_max_s),
        (0, SETTINGS.backoff_max_s / 2, 0.0, SETTINGS.backoff_max_s / 2),
        (0, 1e9, 0.0, SETTINGS.backoff_max_s),
    ],
)
def test_backoff(round_number: int, at_least_s: float, random_unit: float, pause_s: float) -> None:
    assert backoff_s(round_number, at_least_s, SETTINGS, random_unit) == pytest.approx(pause_s)


@pytest.mark.parametrize(
    ("code", "retry_after_ms", "left_out_s"),
    [
        (FULL, 2500, 2.5),
        (FULL, 0, BUSY_EXCLUDED_MIN_S),
        (FULL, 3_600_000, BUSY_EXCLUDED_MAX_S),
        (FailureCode.DRAINING, 0, BUSY_EXCLUDED_MIN_S),
        (FailureCode.ENGINE_FAILED, 1, SETTINGS.failed_machine_excluded_s),
    ],
)
def test_how_long_a_machine_is_left_out(code: FailureCode, retry_after_ms: int, left_out_s: float) -> None:
    found = ledger((A, code), retry_after_ms=retry_after_ms)
    assert set(found.excluded(left_out_s - 0.01)) == {A}
    assert found.next_return_s(0.0) == left_out_s
    assert found.excluded(left_out_s) == {}
    assert found.next_return_s(left_out_s) == 0.0


def test_the_first_machine_that_is_back_ends_the_wait() -> None:
    found = ledger((A, FailureCode.ENGINE_FAILED), (B, FULL))
    assert found.next_return_s(0.0) == BUSY_EXCLUDED_MIN_S
    assert found.busy(0.0)
    assert not found.busy(BUSY_EXCLUDED_MIN_S), "nobody is merely full any more"


def test_a_place_that_freed_forgives_those_that_were_full_and_nobody_else() -> None:
    found = ledger((A, FailureCode.ENGINE_FAILED), (B, FULL), (C, FailureCode.DRAINING))
    found.forgive_full()
    assert set(found.excluded(0.0)) == {A}


@pytest.mark.parametrize(
    ("code", "most"),
    [
        (FailureCode.LINK_LOST, SETTINGS.attempts_max),
        (FailureCode.ENGINE_FAILED, SETTINGS.engine_failures_max),
        (FULL, SETTINGS.refusals_max),
        (FailureCode.DRAINING, SETTINGS.refusals_max),
    ],
)
def test_how_many_attempts_there_are(code: FailureCode, most: int) -> None:
    assert not ledger(*[(A, code)] * (most - 1)).exhausted()
    assert ledger(*[(A, code)] * most).exhausted()


def test_a_new_link_proves_alive_once_and_only_what_was_left_out_for_a_lost_one() -> None:
    found = ledger((A, FailureCode.LINK_LOST))
    assert not found.linked_again(B)
    assert found.linked_again(A)
    assert found.excluded(0.0) == {}
    assert not found.linked_again(A)
    found.note(0.0, A, Failure(FailureCode.LINK_LOST, "again"))
    assert not found.linked_again(A), "a link that flaps"
    mended = ledger((B, FailureCode.LINK_LOST), (B, FailureCode.ENGINE_FAILED))
    assert not mended.linked_again(B), "it was left out for its engine"


def test_a_budget_is_never_passed() -> None:
    budget = BufferBudget(10)
    assert budget.take(10)
    assert not budget.take(1)
    assert budget.used == 10
    budget.give_back(4)
    assert budget.take(4)
    with pytest.raises(AssertionError):
        budget.give_back(11)
