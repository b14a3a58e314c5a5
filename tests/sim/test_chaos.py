"""Seeds of faults: S1 is watched throughout, S2 within 5 s of calm; and mutants that these properties must catch."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.sim.chaos import run_seed
from tests.sim.cluster import Violation
from tests.sim.mutants import MUTANTS, mutated

SEEDS = 60
MUTANT_SEEDS_MAX = 60


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_properties_hold_under_faults(first: int) -> None:
    faults: Counter[str] = Counter()
    for seed in range(first, first + 10):
        faults += run_seed(seed).faults
    print(dict(faults))
    assert faults["quick_restart"], "the schedule injects restarts with a stored ballot"
    assert faults["partition"] + faults["one_way"], "the schedule injects cuts"
    assert faults["freeze"], "the schedule injects frozen machines"


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    def run_until_caught() -> None:
        for seed in range(MUTANT_SEEDS_MAX):
            run_seed(seed)

    with mutated(name), pytest.raises(Violation, match=r"replay: .* -m tests\.sim\.replay \d+"):
        run_until_caught()
