"""A gateway's own choice without a leader: filters, weights, two choices."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tests.support.scheduling import ask, member, model_load, node, view

from covey_mesh.core.asking import Outcome
from covey_scheduler.core.leaderless import choose_alone, weighted_index


@pytest.mark.parametrize(
    ("weights", "unit", "expected"),
    [
        ([1.0], 0.0, 0),
        ([1.0, 1.0], 0.49, 0),
        ([1.0, 1.0], 0.5, 1),
        ([3.0, 1.0], 0.74, 0),
        ([3.0, 1.0], 0.76, 1),
        ([0.0, 1.0], 0.0, 1),
        ([1.0, 0.0], 0.999999, 0),
        ([1.0, 1.0], 1.0, 1),
    ],
)
def test_weighted_index(weights: list[float], unit: float, expected: int) -> None:
    assert weighted_index(weights, unit) == expected


def test_same_filters_and_a_record() -> None:
    pool = view(member(node(1)), member(node(2), model_load(), reachable=False), member(node(3), model_load()))
    chosen, decision = choose_alone(ask(), pool, {}, lambda: 0.0)
    assert chosen == node(3)
    assert (decision.decided_by, decision.decider, decision.outcome) == ("gateway", node(1), Outcome.ASSIGNED)
    assert [v.rejected_because for v in decision.candidates] == [
        "",
        "does not offer the model",
        "cannot be reached now",
    ]
    assert "by gateway" in decision.why


def test_nobody() -> None:
    chosen, decision = choose_alone(
        ask(excluded={node(3): "refused"}), view(member(node(3), model_load())), {}, lambda: 0.0
    )
    assert (chosen, decision.outcome) == (None, Outcome.NO_CANDIDATE)


def test_a_machine_that_looked_full_in_an_old_view_is_still_asked() -> None:
    chosen, _ = choose_alone(ask(), view(member(node(3), model_load(running_requests=4))), {}, lambda: 0.5)
    assert chosen == node(3)


def spread(speeds: dict[int, float], own: Counter[object], count: int, keep: bool) -> Counter[object]:
    seed = 7
    print(f"seed {seed}")
    draw = random.Random(seed).random
    pool = view(
        *(
            member(node(n), model_load(decode_tokens_per_s=s, prefill_tokens_per_s=10 * s, running_limit=64))
            for n, s in speeds.items()
        )
    )
    placed: Counter[object] = Counter()
    for i in range(count):
        chosen, _ = choose_alone(ask(f"r{i}"), pool, own, draw)  # type: ignore[arg-type]
        placed[chosen] += 1
        if keep:
            own[chosen] += 1
    return placed


def test_faster_machines_get_more_and_no_machine_gets_all() -> None:
    placed = spread({1: 100.0, 2: 50.0, 3: 25.0}, Counter(), 300, keep=True)
    assert placed[node(1)] > placed[node(2)] > placed[node(3)] > 0, placed


def test_the_draw_is_by_speed() -> None:
    """By speed the fast machine is among the two drawn in about 3 of 4 cases; evenly, in 2 of 11."""
    placed = spread({1: 100.0} | dict.fromkeys(range(2, 12), 10.0), Counter(), 300, keep=False)
    assert placed[node(1)] > 180, placed


def test_own_requests_in_flight_count() -> None:
    placed = spread({1: 100.0, 2: 100.0}, Counter({node(1): 20}), 100, keep=False)
    assert placed[node(1)] == 0, placed


def test_many_gateways_with_the_same_view_do_not_all_pick_one() -> None:
    placed = spread(dict.fromkeys(range(1, 5), 100.0), Counter(), 400, keep=False)
    assert len(placed) >= 3, placed
