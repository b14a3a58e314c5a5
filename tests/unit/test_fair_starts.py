"""What of a flood a gateway begins when, and how fast it follows while the gateway decides alone."""

from __future__ import annotations

import pytest
from tests.support.scheduling import MODEL, ask, member, model_load, node, view

from covey_gateway.core import alone_pace
from covey_gateway.core.alone_pace import FOLLOWS_WITHIN_S, AlonePace
from covey_gateway.core.fair_starts import FairStarts
from covey_gateway.core.waiting_line import FULL_REASONS

ONE = view(member(node(1), model_load()))
"""1,000 prompt tokens a second."""


def test_users_take_turns_and_each_ones_own_are_in_order() -> None:
    starts = FairStarts[str]()
    assert not starts
    for name in ("a1", "a2", "a3", "a4", "b1", "c1", "c2"):
        starts.add(name[0], name)
    assert starts.take(4) == ["a1", "b1", "c1", "a2"]
    starts.add("d", "d1")
    assert starts
    assert starts.take(8) == ["c2", "a3", "d1", "a4"]
    assert not starts
    assert starts.take() == []


def test_one_users_prompts_follow_each_other_as_fast_as_the_machine_computes_them() -> None:
    pace = AlonePace()
    heavy = ask("h", user="heavy", prompt_tokens=200)
    assert pace.too_fast(heavy, 10.0) == {}, "the first of a user goes at once"
    pace.given(heavy, node(1), ONE, 10.0)
    assert pace.too_fast(heavy, 10.0) == {}, "0.2 s of prompts: little enough"
    pace.given(heavy, node(1), ONE, 10.0)
    (reason,) = pace.too_fast(heavy, 10.0).values()
    assert reason == f"{FULL_REASONS[0]}: 0.40 s of this gateway's own prompts are before it"
    assert pace.too_fast(ask("l", user="light"), 10.0) == {}, "another's single request is not held back"
    assert pace.too_fast(ask("h", user="heavy", model="other"), 10.0) == {}
    assert pace.too_fast(heavy, 10.2) == {}, "as the prompts are computed"


def test_who_comes_back_later_is_a_single_request_again() -> None:
    pace = AlonePace()
    heavy = ask("h", user="heavy", prompt_tokens=60_000)
    pace.given(heavy, node(1), ONE, 10.0)
    assert pace.too_fast(heavy, 10.0 + FOLLOWS_WITHIN_S)
    assert not pace.too_fast(heavy, 10.1 + FOLLOWS_WITHIN_S)


def test_other_gateways_may_send_as_much() -> None:
    pace = AlonePace()
    three = view(*(member(node(number), model_load(), reachable=number < 4) for number in range(1, 6)))
    pace.given(ask("h", user="heavy", prompt_tokens=100), node(1), three, 10.0)
    assert list(pace.too_fast(ask("h", user="heavy"), 10.0)) == [node(1)], "three times 0.1 s"


def test_a_machine_of_unknown_speed_is_not_paced() -> None:
    pace = AlonePace()
    unmeasured = view(member(node(1), model_load(prefill_tokens_per_s=0.0)))
    for _ in range(99):
        pace.given(ask("h", user="heavy"), node(1), unmeasured, 10.0)
        pace.given(ask("h", user="heavy"), node(2), unmeasured, 10.0)
    assert pace.too_fast(ask("h", user="heavy"), 10.0) == {}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone_pace, "USERS_REMEMBERED_MAX", 3)
    monkeypatch.setattr(alone_pace, "MACHINES_REMEMBERED_MAX", 2)
    pace = AlonePace()
    many = view(*(member(node(number), model_load()) for number in range(1, 9)))
    for number in range(1, 9):
        pace.given(ask("h", user=f"u{number}", prompt_tokens=9999), node(number), many, 10.0)
    assert set(pace.too_fast(ask("h", user="u8", model=MODEL), 10.0)) == {node(7), node(8)}
    assert pace.too_fast(ask("h", user="u1"), 10.0) == {}
