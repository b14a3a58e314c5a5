"""Counting a decision's verdicts without working them out, against counting them."""

from __future__ import annotations

import random

import pytest
from tests.support.scheduling import Leader, ask, member, model_load, node

from covey_mesh.core.asking import Outcome
from covey_scheduler.core.decisions import Verdicts
from covey_scheduler.core.settings import SchedulerSettings


@pytest.mark.parametrize("seed", range(20))
def test_a_tally_is_what_the_verdicts_count(seed: int) -> None:
    dice = random.Random(seed)
    members = []
    for number in range(1, dice.randint(2, 14)):
        loads = [model_load(running_requests=dice.choice((0, 2, 4)))] if dice.random() < 0.8 else []
        members.append(member(node(number), *loads, reachable=dice.random() < 0.8))
    leader = Leader(members, SchedulerSettings(candidates_recorded_max=dice.choice((3, 8, 32))))
    for number in range(4):
        for answer in leader.ask(ask(f"r{number}")):
            assert answer.decision is not None
            found = answer.decision.candidates
            assert isinstance(found, Verdicts)
            passed, rejected = found.tally()
            because = [verdict.rejected_because for verdict in found]
            assert (passed, rejected) == (because.count(""), len(because) - because.count("")), seed
            assert found.tally() == (passed, rejected), "once worked out"
            if answer.outcome is Outcome.ASSIGNED:
                assert f"best of {passed}, {rejected} rejected" in answer.decision.why
