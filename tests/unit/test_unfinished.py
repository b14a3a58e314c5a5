"""Which prompts a report says are not computed, newest assignments first."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from covey_scheduler.core.unfinished import OVERRUN, left


@dataclass
class Prompt:
    whole_prompt_tokens: int
    prompt_s: float


NEWEST_FIRST = (Prompt(100, 1.0), Prompt(4000, 40.0), Prompt(200, 2.0))


@pytest.mark.parametrize(
    ("queued_tokens", "at_least_s", "at_most_s"),
    [
        (100, OVERRUN * 1.0, 1.0),  # the newest is being computed
        (60, OVERRUN * 1.0, 1.0),  # counted a little differently there
        (4100, 1.0 + OVERRUN * 40.0, 41.0),  # the long one is, the newest waits
        (4300, 41.0 + OVERRUN * 2.0, 43.0),
        (9999, 41.0 + OVERRUN * 2.0, 43.0),  # others' prompts too
    ],
)
def test_the_newest_prompts_are_those_left(queued_tokens: int, at_least_s: float, at_most_s: float) -> None:
    found = left(NEWEST_FIRST, queued_tokens)
    assert found is not None
    assert (found.at_least_s, found.at_most_s) == pytest.approx((at_least_s, at_most_s))


@pytest.mark.parametrize("queued_tokens", [-5, 0, 49])
def test_nothing_is_said_of_them(queued_tokens: int) -> None:
    assert left(NEWEST_FIRST, queued_tokens) is None


def test_a_prompt_of_unknown_length_says_nothing() -> None:
    assert left((Prompt(0, 1.0),), 1000) is None
    assert left((), 1000) is None
