"""Who holds how many places where."""

from __future__ import annotations

from tests.support.scheduling import GATEWAY, MODEL, node

from covey_scheduler.core.holdings import Holdings


def test_places_are_counted_by_user_and_machine_and_given_back() -> None:
    holdings = Holdings()
    holdings.began((GATEWAY, "r1"), MODEL, "anna", node(1), answer_charge=5.0)
    holdings.began((GATEWAY, "r2"), MODEL, "anna", node(1), batch=True, answer_charge=7.0)
    holdings.began((GATEWAY, "r3"), MODEL, "anna", node(2))
    assert (holdings.of(MODEL, "anna"), holdings.by_machine(MODEL, "anna")) == (3, {node(1): 2, node(2): 1})
    assert (holdings.batch(MODEL), holdings.answers_charged(MODEL, "anna")) == ({node(1): 1}, 12.0)
    holdings.ended((GATEWAY, "r2"))
    holdings.ended((GATEWAY, "r2"))
    assert (holdings.of(MODEL, "anna"), holdings.by_machine(MODEL, "anna")) == (2, {node(1): 1, node(2): 1})
    assert (holdings.batch(MODEL), holdings.answers_charged(MODEL, "anna")) == ({}, 5.0)


def test_a_request_holds_one_place_wherever_its_attempts_ran() -> None:
    holdings = Holdings()
    holdings.began((GATEWAY, "r"), MODEL, "anna", node(1), batch=True, answer_charge=5.0)
    holdings.began((GATEWAY, "r"), MODEL, "anna", node(2), answer_charge=3.0)
    assert holdings.by_machine(MODEL, "anna") == {node(2): 1}
    assert (holdings.batch(MODEL), holdings.answers_charged(MODEL, "anna"), len(holdings)) == ({}, 3.0, 1)


def test_users_are_those_who_hold_and_those_who_wait() -> None:
    holdings = Holdings()
    holdings.began((GATEWAY, "r1"), MODEL, "anna", node(1))
    holdings.began((GATEWAY, "r2"), "another model", "eva", node(1))
    assert holdings.users_with(MODEL, []) == 1
    assert holdings.users_with(MODEL, ["anna", "ben"]) == 2
    holdings.ended((GATEWAY, "r1"))
    assert holdings.users_with(MODEL, []) == 0
