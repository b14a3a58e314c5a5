"""Cutting a request: everything is in exactly one part, parts shrink, bounds hold; how long a pool would take."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.support.gateway import A, B, C, member

from covey_mesh.core.facts import EngineState
from covey_scheduler.core.sharding import (
    Part,
    ShardingSettings,
    Worker,
    choices_worth_it,
    cut_choices,
    cut_inputs,
    in_flight_limit,
    workers_of,
)

SETTINGS = ShardingSettings()


def workers(*speeds: float, measured: bool = True, free: int = 8) -> list[Worker]:
    return [Worker(speed, speed / 50, measured, free) for speed in speeds]


def finished_s(parts: Sequence[Part], tokens: Sequence[int], speeds: Sequence[float], part_s: float = 0.0) -> float:
    """Each machine takes the next part when it is free: when the last one ends."""
    free = [(0.0, speed) for speed in speeds]
    heapq.heapify(free)
    ends = []
    for begin, end in parts:
        now_s, speed = heapq.heappop(free)
        ends.append(now_s + part_s + sum(tokens[begin:end]) / speed)
        heapq.heappush(free, (ends[-1], speed))
    return max(ends)


def covers(parts: Sequence[Part], count: int) -> bool:
    return [unit for begin, end in parts for unit in range(begin, end)] == list(range(count))


@pytest.mark.parametrize("seed", range(300))
def test_every_input_is_in_exactly_one_part_and_parts_are_bounded(seed: int) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    count = dice.choice((1, 2, 31, 32, 100, 1000, 5000))
    tokens = [dice.choice((1, 5, 20, 20, 500)) for _ in range(count)]
    pool = workers(*(dice.choice((1e2, 1e4, 3e4)) for _ in range(dice.randint(0, 9))), measured=dice.random() < 0.7)
    settings = replace(SETTINGS, parts_max=dice.choice((2, 8, 256)))
    parts = cut_inputs(tokens, pool, settings)
    assert covers(parts, count)
    assert all(end > begin for begin, end in parts)
    assert len(parts) <= settings.parts_max


def test_parts_get_smaller() -> None:
    parts = cut_inputs([10] * 10_000, workers(2e4, 2e4, 1e4, 1e4), SETTINGS)
    sizes = [end - begin for begin, end in parts]
    assert sizes[:12] == sorted(sizes[:12], reverse=True)
    assert len(set(sizes[:12])) == 12
    assert sizes[0] > 3 * min(sizes[:-1])


@pytest.mark.parametrize("speeds", [(1, 1, 0.5, 0.5), (1, 0.25), (1, 1, 1, 1, 1, 1, 1, 1), (1, 0.1, 0.1), (1, 1)])
def test_a_pool_of_unequal_machines_takes_little_longer_than_it_must(speeds: tuple[float, ...]) -> None:
    """5 ms a part; any machine may take any part: an upper bound for a leader that also knows the speeds."""
    tokens = [20] * 10_000
    parts = cut_inputs(tokens, workers(*(10_000 * speed for speed in speeds)), SETTINGS)
    best_s = sum(tokens) / (10_000 * sum(speeds))
    assert finished_s(parts, tokens, [10_000 * speed for speed in speeds], 0.005) < 1.08 * best_s


def test_equal_shares_would_take_much_longer() -> None:
    """What the cut is compared with: a part a machine."""
    tokens, speeds = [20] * 10_000, [10_000, 10_000, 5_000, 5_000]
    quarters = [Part(begin, begin + 2500) for begin in range(0, 10_000, 2500)]
    parts = cut_inputs(tokens, workers(*speeds), SETTINGS)
    assert finished_s(quarters, tokens, speeds) > 1.4 * finished_s(parts, tokens, speeds, 0.005)


@pytest.mark.parametrize(
    ("tokens", "pool"),
    [
        ([10] * 10_000, workers(1e4)),
        ([10] * 10_000, []),
        ([10] * 31, workers(1.0, 1.0)),
        ([10] * 199, workers(1e4, 1e4)),
    ],
    ids=["one machine", "none", "few inputs", "soon done"],
)
def test_what_is_left_whole(tokens: list[int], pool: list[Worker]) -> None:
    assert cut_inputs(tokens, pool, SETTINGS) == [Part(0, len(tokens))]


def test_without_measured_speeds_parts_are_bounded_by_their_inputs() -> None:
    parts = cut_inputs([10] * 64, workers(1e9, 1e9, measured=False), SETTINGS)
    assert 2 <= len(parts) <= 8
    assert min(end - begin for begin, end in parts) >= SETTINGS.inputs_min // 4


@pytest.mark.parametrize("prompts", [1, 2, 3, 7, 100, 1000])
@pytest.mark.parametrize("choices", [1, 2, 5, 128])
@pytest.mark.parametrize("most", [2, 10, 512])
def test_choices_are_cut_one_by_one_or_into_what_can_be_asked_for(prompts: int, choices: int, most: int) -> None:
    parts = cut_choices(prompts, choices, replace(SETTINGS, choices_parts_max=most))
    assert covers(parts, prompts * choices)
    assert len(parts) <= most or len(parts) == prompts
    if prompts * choices <= most:
        assert all(end - begin == 1 for begin, end in parts)
    for begin, end in parts:
        whole = begin % choices == 0 and end % choices == 0
        assert whole or begin // choices == (end - 1) // choices


@pytest.mark.parametrize(
    ("prompt", "output", "count", "worth"),
    [(100, 100, 2, True), (100, 100, 1, False), (100_000, 100, 2, False), (5000, 100, 2, True)],
)
def test_a_prompt_that_costs_more_than_the_answer_is_computed_once(
    prompt: int, output: int, count: int, worth: bool
) -> None:
    assert choices_worth_it(prompt, output, workers(*([5000.0] * count))) is worth


def test_parts_in_flight() -> None:
    assert in_flight_limit(workers(1, 1), False, SETTINGS) == 16
    assert in_flight_limit(workers(1, 1, free=20), True, SETTINGS) == 42
    assert in_flight_limit(workers(1, 1, free=5000), True, SETTINGS) == SETTINGS.parts_in_flight_max


def test_machines_that_can_take_parts() -> None:
    members = [member(A, "m"), member(B, "other"), member(C, "m", state=EngineState.STARTING)]
    assert len(workers_of("m", members)) == 1
    away = replace(member(C, "m"), reachable=False)
    assert len(workers_of("m", [member(A, "m"), member(B, "m"), away])) == 2


@pytest.mark.parametrize("values", [{"inputs_min": 1}, {"parts_max": 1}, {"share": 0.5}, {"worth_s": -1.0}])
def test_settings_are_checked(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        ShardingSettings(**values)  # type: ignore[arg-type]
