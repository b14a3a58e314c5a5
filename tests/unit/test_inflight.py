"""Reservations and failures: what ends them, their bounds, and what they add to a machine's report."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.scheduling import GATEWAY, MODEL, member, model_load, node, updated, view

from covey_mesh.core.facts import Member
from covey_mesh.core.marks import mark_of
from covey_scheduler.core.inflight import FAILURES_COUNTED_MAX, Inflight, RecentFailures, Reservation
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.unfinished import OVERRUN

SETTINGS = SchedulerSettings(reservation_s=2.0, settle_s=0.15, reservations_max=5)


def reserve(inflight: Inflight, number: int, at_s: float = 0.0, prompt_s: float = 1.0) -> None:
    key = (GATEWAY, f"r{number}")
    inflight.reserve(Reservation(key, 1, node(2), MODEL, 100, at_s, 50, prompt_s), (1, 1))


def extra(inflight: Inflight) -> tuple[int, int]:
    found = inflight.extra(node(2), MODEL)
    return found.requests, found.tokens


def report(before: Member, running: int, prompts: int = 0) -> Member:
    return updated(before, model_load(running_requests=running, queued_prompt_tokens=prompts))


def test_counts_requests_and_tokens_of_one_machine_and_model() -> None:
    inflight = Inflight(SETTINGS)
    reserve(inflight, 1)
    reserve(inflight, 2)
    reserve(inflight, 2)
    assert extra(inflight) == (2, 200)
    assert inflight.extra(node(2), "other").requests == 0
    inflight.release((GATEWAY, "r1"))
    inflight.release((GATEWAY, "r1"))
    assert extra(inflight) == (1, 100)
    assert inflight.changed == {MODEL: {node(2)}}


def test_expiry_and_bound() -> None:
    inflight = Inflight(SETTINGS)
    for number in range(9):
        reserve(inflight, number, at_s=float(number) / 10)
    assert len(inflight) == 5
    inflight.expire(2.59)
    assert extra(inflight) == (3, 300)
    inflight.expire(99.0)
    assert extra(inflight) == (0, 0)


def test_only_a_new_report_late_enough_includes_an_assignment() -> None:
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    reserve(inflight, 1, at_s=10.0)
    inflight.observe(view(machine), 10.5)
    assert extra(inflight) == (1, 100), "the same report as before says nothing new"
    second = report(machine, 1)
    inflight.observe(view(second), 10.1)
    assert extra(inflight) == (1, 100), "sent before the request can have arrived"
    inflight.observe(view(second), 10.5)
    assert extra(inflight) == (1, 100), "the same early report, seen again"
    inflight.observe(view(report(second, 1)), 10.6)
    assert extra(inflight) == (0, 0), "included in the report now"
    inflight.expire(99.0)
    assert len(inflight) == 1, "and remembered until it ends"


def named(before: Member, *numbers: int, prompts: int = 0, others: int = 0) -> Member:
    """A report that names the requests it holds."""
    marks = frozenset(mark_of(f"r{number}", 1) for number in numbers)
    load = model_load(running_requests=len(numbers) + others, queued_prompt_tokens=prompts, marks=marks)
    return updated(before, load)


def test_a_report_that_names_its_requests_includes_those_and_no_others() -> None:
    """A gateway that a thousand clients call at once opens an attempt long after it was assigned."""
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    for number in (1, 2, 3):
        reserve(inflight, number, at_s=10.0)
    second = named(machine, 2, others=5)
    inflight.observe(view(second), 11.0)
    assert extra(inflight) == (2, 200), "1 and 3 are still on their way, whatever time has passed"
    third = named(second, 1, 2, 3)
    inflight.observe(view(third), 11.01)
    assert extra(inflight) == (0, 0), "and here a moment later"
    inflight.observe(view(named(third, 1, 3, others=1)), 11.02)
    assert (len(inflight), extra(inflight)) == (2, (0, 0)), "2 has ended there: its gateway's word is on its way"
    inflight.release((GATEWAY, "r2"), served_at_s=11.03)
    assert extra(inflight) == (0, 0), "counted once"


def test_prompts_on_their_way_are_still_to_be_computed() -> None:
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    for number in (1, 2, 3):
        reserve(inflight, number, at_s=10.0, prompt_s=0.1)
    inflight.observe(view(named(machine, 1)), 11.0)
    assert inflight.extra(node(2), MODEL).prompts_done_at_s == pytest.approx(11.2)


@pytest.mark.parametrize(
    ("reported", "ended", "expected"),
    [
        (2, 0, (0, 0)),
        (2, 1, (-1, -100)),
        (5, 2, (-2, -200)),  # three of them are others'
        (1, 1, (0, 0)),  # one had ended already when the machine reported
        (0, 2, (0, 0)),
    ],
)
def test_what_has_ended_since_the_report_is_taken_off_it(reported: int, ended: int, expected: tuple[int, int]) -> None:
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    reserve(inflight, 1)
    reserve(inflight, 2)
    inflight.observe(view(report(machine, reported)), 1.0)
    for number in range(1, ended + 1):
        inflight.release((GATEWAY, f"r{number}"), served_at_s=1.0)
    assert extra(inflight) == expected


@pytest.mark.parametrize(
    ("event", "expected_s"),
    [
        ("nothing", 16.0),  # at 10 s, three prompts of 2 s
        ("first answered", 15.0),  # at 11 s: the other two are left at most
        ("last answered", 11.0),
        ("last failed", 14.0),
        ("report of 60 prompt tokens left", 13.4),  # 2 s for 50 tokens
        ("report of an idle machine", 0.0),  # nothing of ours is left there
        ("report of more than was assigned", 16.0),
    ],
)
def test_when_the_prompts_given_to_a_machine_are_done(event: str, expected_s: float) -> None:
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    for number in (1, 2, 3):
        reserve(inflight, number, at_s=10.0, prompt_s=2.0)
    match event:
        case "first answered":
            inflight.release((GATEWAY, "r1"), served_at_s=11.0)
        case "last answered":
            inflight.release((GATEWAY, "r3"), served_at_s=11.0)
        case "last failed":
            inflight.release((GATEWAY, "r3"), unserved=True, served_at_s=11.0)
        case "report of 60 prompt tokens left":
            inflight.observe(view(report(machine, 3, prompts=60)), 11.0)
        case "report of an idle machine":
            inflight.observe(view(report(machine, 0)), 11.0)
        case "report of more than was assigned":
            inflight.observe(view(report(machine, 9, prompts=9000)), 11.0)
    assert inflight.extra(node(2), MODEL).prompts_done_at_s == pytest.approx(expected_s)


def test_a_machine_that_still_computes_a_prompt_is_not_done_when_it_was_predicted_to_be() -> None:
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    reservation = Reservation((GATEWAY, "r1"), 1, node(2), MODEL, 100, 10.0, 50, 2.0, whole_prompt_tokens=60)
    inflight.reserve(reservation, (1, 1))
    inflight.observe(view(report(machine, 1, prompts=60)), 13.0)
    assert inflight.extra(node(2), MODEL).prompts_done_at_s == pytest.approx(13.0 + OVERRUN * 2.0)


def test_a_machine_that_left_holds_nothing() -> None:
    inflight = Inflight(SETTINGS)
    reserve(inflight, 1)
    inflight.observe(view(member(node(3))), 0.01)
    assert len(inflight) == 0


def test_a_restarted_machine_holds_nothing_old() -> None:
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    reserve(inflight, 1)
    inflight.observe(view(replace(machine, load=replace(machine.load, incarnation=2))), 0.2)
    assert len(inflight) == 0


def test_failures_are_counted_within_a_window_and_forgotten_with_a_success() -> None:
    failures = RecentFailures(memory_s=30.0)
    for second in range(3):
        failures.failed(node(2), MODEL, float(second))
    assert failures.count(node(2), MODEL, 3.0) == 3
    assert failures.count(node(2), "other", 3.0) == 0
    assert failures.remembered(MODEL) == {node(2)}
    assert failures.count(node(2), MODEL, 31.5) == 1
    failures.succeeded(node(2), MODEL)
    assert failures.count(node(2), MODEL, 31.5) == 0
    for _ in range(100):
        failures.failed(node(2), MODEL, 40.0)
    assert failures.count(node(2), MODEL, 40.0) == FAILURES_COUNTED_MAX


def test_a_machine_that_reports_no_request_has_ended_ours() -> None:
    """The gateway's word of the end may be lost: without the machine's, a reservation would stay for ever."""
    inflight, machine = Inflight(SETTINGS), member(node(2), model_load())
    reserve(inflight, 1, at_s=10.0)
    busy = report(machine, 1)
    inflight.observe(view(busy), 10.5)
    inflight.observe(view(report(busy, 0)), 11.0)
    assert len(inflight) == 0
    assert extra(inflight) == (0, 0)
    inflight.release((GATEWAY, "r1"))
