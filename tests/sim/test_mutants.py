"""Every mutant is caught: by random seeds under faults, or by the situation that it breaks; and only by a violation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.sim import stories, test_cases
from tests.sim.chaos import run_seed
from tests.sim.cluster import Violation
from tests.sim.mutants import MUTANTS, mutated

SEEDS_MAX = 60

BY_STORY: dict[str, Callable[[int], Any]] = {
    "late assignment of an old attempt obeyed": stories.leader_wakes_with_old_answers,
    "queued requests deaf to a new leader": stories.queued_when_two_leaders_meet,
    "pre-vote that hides a live leader": lambda seed: test_cases.test_who_cannot_reach_a_known_leader_does_not_stand(),
    "pre-vote that waits for nobody": lambda seed: test_cases.test_who_cannot_reach_a_known_leader_does_not_stand(),
    "late ballot thrown away": (
        lambda seed: test_cases.test_disks_slower_than_a_lease_do_not_leave_a_pool_without_a_leader(3, 2)
    ),
    "claimed until it is written": lambda seed: test_cases.test_a_disk_that_hangs_does_not_hold_up_the_others(),
    "granted places used again": lambda seed: run_seed(seed, lone=True),
    "grants that never end": lambda seed: run_seed(seed, lone=True),
    "leader's word not heard": lambda seed: test_cases.test_a_frozen_machine_is_noticed_by_all_within_two_seconds(),
}
"""Needs more coincidence than a random schedule has in a few seeds, or breaks less than what a seed asks for."""


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    story = BY_STORY.get(name)

    def run_until_caught() -> None:
        for seed in range(SEEDS_MAX):
            if story is None:
                run_seed(seed)
            else:
                story(seed)

    caught: type[AssertionError] = Violation if story is None else AssertionError
    with mutated(name), pytest.raises(caught) as error:
        run_until_caught()
    print(str(error.value).splitlines()[0])
    if story is None:
        assert "replay: .venv/bin/python -m tests.sim.run --first" in str(error.value)
