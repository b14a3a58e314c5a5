"""Every policy by hand-computed costs of three machines, and ours against the terms that people are shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.scheduling import Leader, ask, candidate, member, model_load, node

from covey_mesh.core.asking import Outcome
from covey_scheduler.core.policies import POLICIES, policy_named
from covey_scheduler.core.policies.load_only import NEVER
from covey_scheduler.core.prediction import Question, predict
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing, standing_of

SETTINGS = SchedulerSettings(tokens_per_block=100, answer_weight=0.5, batch_slowdown=0.0)
QUESTION = Question(ask(prompt_tokens=1000), 200, now_s=50.0, turn=4)


def machine(load: dict[str, Any], **own: Any) -> Standing:
    held = load.pop("held", 0)
    made = model_load(kv_cache_tokens_total=10_000, kv_cache_tokens_free=10_000 - held, running_limit=99, **load)
    return replace(standing_of(candidate(made, **own), SETTINGS), attention_per_token=0.0)


def three() -> list[Standing]:
    """1,000, 500 and 2,000 prompt tokens/s, 100 output tokens/s each; 2, 0, 3 + 1 requests; 1 s of prompts before the
    first; 600, 0, 2,000 tokens held."""
    return [
        machine({"running_requests": 2, "held": 600}, prompts_done_at_s=51.0, indexed_blocks=7),
        machine({"prefill_tokens_per_s": 500.0}, indexed_blocks=2),
        machine(
            {"prefill_tokens_per_s": 2000.0, "running_requests": 3, "held": 2000}, reserved_requests=1, indexed_blocks=5
        ),
    ]


@pytest.mark.parametrize(
    ("name", "cached", "expected"),
    [
        ("round-robin", (0, 0, 0), [2, 0, 1]),
        ("jsq", (0, 0, 0), [2, 0, 4]),
        ("jsq-speed", (0, 0, 0), [3 / 1000, 1 / 500, 5 / 2000]),
        ("cache-aware", (0, 0, 0), [7, 2, 5]),  # no match: the smallest tree
        ("cache-aware", (600, 0, 700), [-600, 0, -700]),
        ("cache-aware", (500, 0, 0), [7, 2, 5]),  # a match of half the prompt is not enough
        ("aibrix", (0, 0, 0), [2, 0, 4]),
        ("aibrix", (600, 0, 600), [2 - 600 * 5, NEVER, NEVER]),  # mean 2, deviation 1.63: four are too many
        # blocks of 100: prompts to compute + what would be held
        ("dynamo", (0, 0, 0), [20 + 16, 10 + 10, 10 + 30]),
        ("dynamo", (900, 0, 500), [11 + 16, 10 + 10, 5 + 30]),
        ("lmetric", (0, 0, 0), [2000 * 3, 1000 * 1, 1000 * 5]),
        ("lmetric", (900, 0, 900), [1100 * 3, 1000 * 1, 100 * 5]),
        ("lmetric-speed2", (0, 0, 900), [6000 / 1e6, 1000 / 250_000, 500 / 4e6]),
        # prompts before + own prompt x (1 + half the streams that wait for it) + half of 2 s of answer
        ("predicted", (0, 0, 0), [1 + 1 * 2 + 1, 2 + 1, 0.5 * 3 + 1]),
        ("predicted", (900, 0, 0), [1 + 0.1 * 2 + 1, 2 + 1, 0.5 * 3 + 1]),
    ],
)
def test_costs(name: str, cached: tuple[int, ...], expected: list[float]) -> None:
    assert POLICIES[name].costs(QUESTION, three(), cached, SETTINGS) == pytest.approx(expected)


def test_sglang_follows_the_load_when_it_is_uneven() -> None:
    machines = [machine({"running_requests": running}) for running in (70, 5)]
    assert POLICIES["cache-aware"].costs(QUESTION, machines, (900, 0), SETTINGS) == [70, 5]


def test_aibrix_follows_the_load_when_it_spreads_too_far() -> None:
    machines = [machine({"running_requests": running}) for running in (9, 0)]
    assert POLICIES["aibrix"].costs(QUESTION, machines, (900, 0), SETTINGS) == [9, 0]


def test_power_of_two_looks_at_two_different_machines_drawn_by_the_turn() -> None:
    drawn = set()
    for turn in range(200):
        costs = POLICIES["power-of-two"].costs(replace(QUESTION, turn=turn), three(), (0, 0, 0), SETTINGS)
        looked_at = tuple(index for index, cost in enumerate(costs) if cost != NEVER)
        assert len(looked_at) == 2
        drawn.add(looked_at)
    assert drawn == {(0, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize("name", POLICIES)
def test_one_machine_is_always_good_enough(name: str) -> None:
    (cost,) = POLICIES[name].costs(QUESTION, three()[:1], (0,), SETTINGS)
    assert cost < NEVER


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 50_000),
    st.integers(0, 100_000),
    st.floats(0, 100),
    st.integers(0, 20),
    st.sampled_from([0.0, 10.0, 5000.0]),
    st.integers(0, 3),
)
def test_ours_without_the_delay_of_others_is_the_sum_of_the_terms_shown(
    prompt: int, cached: int, done_at_s: float, running: int, speed: float, failures: int
) -> None:
    own = SchedulerSettings(answer_weight=1.0)
    load = model_load(running_requests=running, running_limit=10, prefill_tokens_per_s=speed)
    shown = standing_of(candidate(load, prompts_done_at_s=done_at_s, recent_failures=failures), own)
    question, cached = Question(ask(prompt_tokens=prompt), 100, 50.0), min(cached, prompt - 1)
    (cost,) = POLICIES["predicted"].costs(question, [replace(shown, crowding=1.0)], [cached], own)
    assert cost == pytest.approx(predict(question, shown, cached, own).last_token_s)


@pytest.mark.parametrize("name", POLICIES)
def test_any_policy_can_be_chosen(name: str) -> None:
    leader = Leader([member(node(n), model_load()) for n in (1, 2)], SchedulerSettings(policy=name))
    answers = [leader.ask(ask(f"r{i}"))[0] for i in range(4)]
    assert {answer.outcome for answer in answers} == {Outcome.ASSIGNED}
    assert {answer.node_id for answer in answers} == {node(1), node(2)}
    assert answers[0].decision is not None
    assert answers[0].decision.policy == name


def test_an_unknown_policy_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"policy must be one of predicted, round-robin, .*, not 'fastest'"):
        policy_named("fastest")
