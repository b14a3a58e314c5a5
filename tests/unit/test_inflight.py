"""Reservations and failures: what ends them, and their bounds."""

from __future__ import annotations

from dataclasses import replace

from tests.support.scheduling import GATEWAY, MODEL, member, model_load, node, updated, view

from covey_scheduler.core.inflight import FAILURES_COUNTED_MAX, Inflight, RecentFailures, Reservation
from covey_scheduler.core.settings import SchedulerSettings

SETTINGS = SchedulerSettings(reservation_s=2.0, settle_s=0.15, reservations_max=5)


def reserve(inflight: Inflight, number: int, at_s: float = 0.0) -> None:
    inflight.reserve(Reservation((GATEWAY, f"r{number}"), 1, node(2), MODEL, 100, at_s))


def test_counts_requests_and_tokens_of_one_machine_and_model() -> None:
    inflight = Inflight(SETTINGS)
    reserve(inflight, 1)
    reserve(inflight, 2)
    reserve(inflight, 2)
    assert inflight.reserved(node(2), MODEL) == (2, 200)
    assert inflight.reserved(node(2), "other") == (0, 0)
    inflight.release((GATEWAY, "r1"))
    inflight.release((GATEWAY, "r1"))
    assert inflight.reserved(node(2), MODEL) == (1, 100)


def test_expiry_and_bound() -> None:
    inflight = Inflight(SETTINGS)
    for number in range(9):
        reserve(inflight, number, at_s=float(number) / 10)
    assert len(inflight) == 5
    inflight.expire(2.59)
    assert inflight.reserved(node(2), MODEL) == (3, 300)
    inflight.expire(99.0)
    assert inflight.reserved(node(2), MODEL) == (0, 0)


def test_only_a_new_report_late_enough_includes_an_assignment() -> None:
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    reserve(inflight, 1, at_s=10.0)
    inflight.note_report(node(2), (1, 1))
    inflight.observe(view(machine), 10.5)
    assert len(inflight) == 1, "the same report as before says nothing new"
    second = updated(machine, model_load())
    inflight.observe(view(second), 10.1)
    assert len(inflight) == 1, "sent before the request can have arrived"
    inflight.observe(view(second), 10.5)
    assert len(inflight) == 1, "the same early report, seen again"
    inflight.observe(view(updated(second, model_load())), 10.6)
    assert len(inflight) == 0


def test_a_machine_that_left_holds_nothing() -> None:
    inflight = Inflight(SETTINGS)
    reserve(inflight, 1)
    inflight.note_report(node(2), (1, 1))
    inflight.observe(view(member(node(3))), 0.01)
    assert len(inflight) == 0


def test_a_restarted_machine_holds_nothing_old() -> None:
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    reserve(inflight, 1)
    inflight.note_report(node(2), (1, 1))
    inflight.observe(view(replace(machine, load=replace(machine.load, incarnation=2))), 0.2)
    assert len(inflight) == 0


def test_failures_are_counted_within_a_window_and_forgotten_with_a_success() -> None:
    failures = RecentFailures(memory_s=30.0)
    for second in range(3):
        failures.failed(node(2), MODEL, float(second))
    assert failures.count(node(2), MODEL, 3.0) == 3
    assert failures.count(node(2), "other", 3.0) == 0
    assert failures.count(node(2), MODEL, 31.5) == 1
    failures.succeeded(node(2), MODEL)
    assert failures.count(node(2), MODEL, 31.5) == 0
    for _ in range(100):
        failures.failed(node(2), MODEL, 40.0)
    assert failures.count(node(2), MODEL, 40.0) == FAILURES_COUNTED_MAX
