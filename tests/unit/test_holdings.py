"""Who holds how many places where."""

from __future__ import annotations

from tests.support.scheduling import GATEWAY, MODEL, node

from covey_scheduler.core.holdings import Holdings
from covey_scheduler.core.inflight import Reservation


def place(user: str, number: int, model: str = MODEL, batch: bool = False, answer_charge: float = 0.0) -> Reservation:
    """On the machine of that number."""
    return Reservation(
        (GATEWAY, "r"), 1, node(number), model, 10, 0.0, user=user, batch=batch, answer_charge=answer_charge
    )


def test_places_are_counted_by_user_and_machine_and_given_back() -> None:
    holdings = Holdings()
    places = [
        place("anna", 1, answer_charge=5.0),
        place("anna", 1, batch=True, answer_charge=7.0),
        place("anna", 2),
    ]
    for each in places:
        holdings.began(each)
    assert (holdings.of(MODEL, "anna"), holdings.by_machine(MODEL, "anna")) == (3, {node(1): 2, node(2): 1})
    assert (holdings.batch(MODEL), holdings.answers_charged(MODEL, "anna")) == ({node(1): 1}, 12.0)
    holdings.ended(places[1])
    assert (holdings.of(MODEL, "anna"), holdings.by_machine(MODEL, "anna")) == (2, {node(1): 1, node(2): 1})
    assert (holdings.batch(MODEL), holdings.answers_charged(MODEL, "anna")) == ({}, 5.0)
    holdings.ended(places[0])
    holdings.ended(places[2])
    assert (len(holdings), holdings.of(MODEL, "anna"), holdings.by_machine(MODEL, "anna")) == (0, 0, {})


def test_users_are_those_who_hold_and_those_who_wait() -> None:
    holdings = Holdings()
    annas = place("anna", 1)
    holdings.began(annas)
    holdings.began(place("eva", 1, model="another model"))
    assert holdings.users_with(MODEL, "anna", ()) == 1
    assert holdings.users_with(MODEL, "ben", ()) == 2
    assert holdings.users_with(MODEL, "ben", ("anna", "carl", "ben")) == 3
    holdings.ended(annas)
    assert holdings.users_with(MODEL, "anna", ()) == 1
