"""Named situations with requests in flight, over several seeds each; see stories.py."""

from __future__ import annotations

import pytest
from tests.sim import stories

from covey_gateway.core.settings import RequestSettings

SEEDS = range(6)
BOUNDS = RequestSettings()
ATTEMPTS_MAX = BOUNDS.attempts_max + BOUNDS.refusals_max


@pytest.mark.parametrize("seed", SEEDS)
def test_leader_reachable_by_the_gateway_but_not_by_the_node(seed: int) -> None:
    assert stories.leader_without_the_node(seed).outcomes == {"completed": 12}


@pytest.mark.parametrize("seed", SEEDS)
def test_leader_reachable_by_the_node_but_not_by_the_gateway(seed: int) -> None:
    assert stories.leader_without_the_gateway(seed).outcomes == {"completed": 12}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_machine_that_sends_but_does_not_hear_harms_nobody(seed: int) -> None:
    mine, theirs = stories.sends_but_does_not_hear(seed)
    assert mine.outcomes == theirs.outcomes == {"completed": 24}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_laptop_back_from_isolation_with_a_high_counter_disturbs_nothing(seed: int) -> None:
    assert stories.back_with_a_high_counter(seed).outcomes == {"completed": 24}


@pytest.mark.parametrize("seed", SEEDS)
def test_requests_queued_when_the_leader_dies_are_served(seed: int) -> None:
    told = stories.queued_when_the_leader_dies(seed)
    assert told.outcomes == {"completed": 30}
    assert told.attempts_most <= 6


def test_overload_without_a_leader_is_no_storm() -> None:
    for seed in SEEDS:
        told = stories.overload_without_a_leader(seed)
        print(f"attempts a request: mean {told.attempts_mean:.1f}, most {told.attempts_most}; {told.outcomes}")
        assert told.outcomes == {"completed": 60}
        assert told.attempts_most <= ATTEMPTS_MAX
        assert told.attempts_mean <= 8


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_answers_too_late_costs_nothing_but_its_advice(seed: int) -> None:
    assert stories.slow_leader_of_a_full_pool(seed).outcomes == {"completed": 48}
