"""A few scenarios of the chaos suite in every test run; `make chaos` plays all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tests.lan import lab
from tests.lan.chaos.report import table
from tests.lan.chaos.scenarios import SCENARIOS, SHORT
from tests.lan.chaos.stage import ChaosStage

pytestmark = pytest.mark.lan

SEED = random.SystemRandom().randrange(10_000)


@pytest.fixture(scope="module")
def stage() -> Iterator[ChaosStage]:
    reason = lab.missing_requirement()
    if reason is not None:
        pytest.skip(reason)
    print(f"seed {SEED}")
    with ChaosStage(SEED) as made:
        yield made


@pytest.mark.parametrize("name", SHORT)
def test_scenario(stage: ChaosStage, name: str) -> None:
    result = stage.play(SCENARIOS[name])
    print(f"python -m tests.lan.chaos --scenario {name} --seed {SEED}")
    print(table([result]))
    assert result.violations == []
    assert result.requests > 50


def test_there_are_at_least_twenty_scenarios() -> None:
    assert len(SCENARIOS) >= 20
    assert set(SHORT) <= set(SCENARIOS)
