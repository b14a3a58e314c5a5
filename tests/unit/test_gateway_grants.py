"""What a gateway may start without asking, and the sums that it tells of it."""

from __future__ import annotations

from covey_gateway.core.grants import MODELS_MAX, USERS_MAX, Grants, Place, Worked
from covey_mesh.core.asking import Decision, Grant, GrantedWork, Outcome
from covey_mesh.core.names import NodeId

A, B = NodeId("a" * 32), NodeId("b" * 32)
DECISION = Decision("r", 1, "m", 0.0, "leader", A, Outcome.ASSIGNED, "predicted", chosen=A)


def place(model: str = "m", requests: int = 8, tokens: int = 800, now_s: float = 0.0, node_id: NodeId = A) -> Place:
    return Place(model, node_id, "host", Grant(requests, tokens, 1.0), DECISION, now_s)


def granted(*places: Place, now_s: float = 0.0) -> Grants:
    grants = Grants()
    for each in places:
        grants.told(each, now_s)
    return grants


def taken(grants: Grants, count: int, tokens: int = 1, now_s: float = 0.0) -> list[bool]:
    return [grants.take("m", tokens, now_s) is not None for _ in range(count)]


def test_one_request_asks_when_few_places_are_left_and_the_others_go_on() -> None:
    assert taken(granted(place(requests=8)), 10) == [True] * 6 + [False] + [True] * 2 + [False]


def test_one_request_asks_when_few_tokens_are_left() -> None:
    assert taken(granted(place(tokens=400)), 6, tokens=100) == [True] * 3 + [False, True, False]


def test_one_request_asks_when_little_time_is_left() -> None:
    grants = granted(place())
    assert taken(grants, 1, now_s=0.74) == [True]
    assert taken(grants, 3, now_s=0.75) == [False, True, True]
    assert taken(grants, 1, now_s=1.01) == [False]
    assert not grants


def test_nobody_passes_those_who_wait_to_ask_but_the_one_who_asks_for_all() -> None:
    grants = granted(place(requests=4))
    assert grants.take("m", 1, 0.0, others_wait=True) is None
    assert taken(grants, 4) == [True, True, True, False]
    assert grants.take("m", 1, 0.0, others_wait=True) is not None


def test_a_prompt_that_is_too_long_leaves_the_rest_to_others() -> None:
    grants = granted(place(tokens=400))
    assert grants.take("m", 401, 0.0) is None
    assert grants.take("m", 100, 0.0) is not None


def test_a_further_grant_comes_beside_what_is_left_which_is_used_first() -> None:
    grants = granted(place(requests=3, tokens=100), place(requests=2, tokens=50))
    found = grants.take("m", 1, 0.0)
    assert found is not None
    assert (found.rest_requests, found.rest_tokens, found.requests, found.tokens) == (2, 99, 2, 50)
    assert taken(grants, 6) == [True] * 2 + [True, False, True, False]


def test_what_is_left_of_a_grant_ends_when_the_grant_would_have_ended() -> None:
    """However often it is renewed: the leader has long given it to others."""
    grants = granted()
    for step in range(20):
        grants.told(place(requests=8, now_s=step * 0.75), step * 0.75)
        grants.take("m", 1, step * 0.75)
    assert sum(taken(grants, 40, now_s=19 * 0.75)) <= 16
    grants = granted(place(requests=8), now_s=0.0)
    grants.told(place(requests=2, now_s=0.9), 0.9)
    assert sum(taken(grants, 20, now_s=1.1)) == 2


def test_a_prompt_too_long_for_what_is_left_takes_of_the_new_grant() -> None:
    grants = granted(place(requests=3, tokens=100), place(requests=2, tokens=500))
    found = grants.take("m", 300, 0.0)
    assert found is not None
    assert (found.rest_requests, found.requests, found.tokens) == (3, 1, 200)


def test_a_grant_elsewhere_or_after_the_end_of_the_first_stands_alone() -> None:
    for later in (granted(place(), place(requests=2, node_id=B)), granted(place(now_s=-2.0), place(requests=2))):
        found = later.take("m", 1, 0.0)
        assert found is not None
        assert found.requests == 1


def test_the_number_of_models_is_bounded() -> None:
    grants = granted(*(place(f"m{number}") for number in range(MODELS_MAX + 1)))
    assert grants.take("m0", 1, 0.0) is None
    assert grants.take("m1", 1, 0.0) is not None
    assert grants.take(f"m{MODELS_MAX}", 1, 0.0) is not None


def test_a_machine_is_voided_without_others() -> None:
    grants = granted(place("m"), place("n", node_id=B))
    grants.void_machine(A)
    assert grants.take("m", 1, 0.0) is None
    assert grants.take("n", 1, 0.0) is not None
    grants.void()
    assert not grants


def test_work_is_told_once_in_sums_by_user_and_class() -> None:
    worked = Worked()
    worked.ended("m", A, "ada", 1, 10, 5, 2)
    worked.ended("m", A, "ada", 1, 20, 7, 0)
    worked.ended("m", A, "ada", 0, 1, 1, 0)
    worked.ended("m", A, "bob", 1, 0, 0, 0, failed=True)
    told: list[GrantedWork] = []
    worked.tell(told.append)
    assert told == [
        GrantedWork("m", A, "ada", 1, 2, 30, 12, 0, 2),
        GrantedWork("m", A, "ada", 0, 1, 1, 1, 0, 0),
        GrantedWork("m", A, "bob", 1, 1, 0, 0, 1, 0),
    ]
    assert not worked
    worked.tell(told.append)
    assert len(told) == 3


def test_many_users_are_told_at_once() -> None:
    worked = Worked()
    for number in range(USERS_MAX):
        assert not worked.full
        worked.ended("m", A, f"user-{number}", 1, 1, 1, 0)
    assert worked.full
