"""Who of those waiting goes where: by hand, against every possible plan, and through the leader."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from tests.support.scheduling import Leader, ask, member, model_load, node

from covey_mesh.core.asking import Outcome
from covey_scheduler.core.machine import Candidate, machines_of
from covey_scheduler.core.planning import PAIRS_MAX, plan, together_max
from covey_scheduler.core.policies import POLICIES
from covey_scheduler.core.policy import Ranking, rank
from covey_scheduler.core.prediction import Question
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import standing_of

SETTINGS = SchedulerSettings(answer_weight=0.0)
NOW_S = 10.0


def rankings(
    speeds: Sequence[float], ready_s: Sequence[float], prompts: Sequence[int], policy: str = "predicted"
) -> list[Ranking]:
    """Machines of these prompt tokens a second that are done with their prompts in so many seconds."""
    members = {node(i): member(node(i), model_load(prefill_tokens_per_s=s)) for i, s in enumerate(speeds)}
    machines = [
        replace(standing_of(Candidate(each, prompts_done_at_s=NOW_S + ready), SETTINGS), attention_per_token=0.0)
        for each, ready in zip(machines_of("tiny", members), ready_s, strict=True)
    ]
    questions = [Question(ask(f"r{n}", prompt_tokens=tokens), 0, NOW_S) for n, tokens in enumerate(prompts)]
    return [rank(each, machines, (0,) * len(machines), (), POLICIES[policy], SETTINGS) for each in questions]


@pytest.mark.parametrize(
    ("ready_s", "prompts", "waited_s", "urgent", "where", "first"),
    [
        # Alone, each takes the machine that is done with it first: 0 computes 1,000 tokens a second, 1 half of that.
        ((0.0, 0.0), (1000,), (0.0,), (), (0,), (0,)),
        ((1.5, 0.0), (1000,), (0.0,), (), (1,), (0,)),
        # Two of a second each: one after the other they take 1 s and 2 s, and on a machine each as well: the fast one.
        # A third would make two wait.
        ((0.0, 0.0), (1000, 1000), (0.0, 0.0), (), (0, 0), (0,)),
        ((0.0, 0.0), (1000, 1000, 1000), (0.0, 0.0, 0.0), (), (1, 0, 0), (0, 1)),
        # The long one keeps the fast machine for itself: 4.1^2 + .1^2 is more than 4^2 + .2^2 ...
        ((0.0, 0.0), (4000, 100), (0.0, 0.0), (), (0, 1), (0, 1)),
        # ... and less than 4^2 + 1.2^2; but it is more again once the long one has waited for 6 s, ...
        ((0.0, 1.0), (4000, 100), (0.0, 0.0), (), (0, 0), (1,)),
        ((0.0, 1.0), (4000, 100), (6.0, 0.0), (), (0, 1), (0, 1)),
        # ... unless the short one has, too.
        ((0.0, 1.0), (4000, 100), (6.0, 6.0), (), (0, 0), (1,)),
        # Who has waited long enough goes before all, and takes what is best for itself.
        ((0.0, 0.0), (4000, 100), (0.0, 0.0), (0,), (0, 1), (0, 1)),
        ((0.0, 9.0), (4000, 100), (0.0, 0.0), (0,), (0, 0), (0,)),
        ((0.0, 9.0), (4000, 100, 100), (0.0, 0.0, 0.0), (0, 1), (0, 0, 0), (0,)),
    ],
)
def test_by_hand(
    ready_s: tuple[float, ...],
    prompts: tuple[int, ...],
    waited_s: tuple[float, ...],
    urgent: tuple[int, ...],
    where: tuple[int, ...],
    first: tuple[int, ...],
) -> None:
    asks = rankings((1000.0, 500.0), ready_s, prompts)
    rows = plan(asks, waited_s, [n in urgent for n in range(len(prompts))])
    assert tuple(row.machine for row in rows) == where
    assert tuple(number for number, row in enumerate(rows) if row.first) == first
    assert [row.prompt_s for row in rows] == [
        tokens / (1000.0, 500.0)[index] for tokens, index in zip(prompts, where, strict=True)
    ]


def squares(speeds: Sequence[float], ready_s: Sequence[float], prompts: Sequence[int], where: Sequence[int]) -> float:
    """Sum over asks of the squared time to the first token, each machine taking the shortest first."""
    ends_s, total = list(ready_s), 0.0
    for tokens, machine in sorted(zip(prompts, where, strict=True)):
        ends_s[machine] += tokens / speeds[machine]
        total += ends_s[machine] ** 2
    return total


def test_close_to_the_best_of_all_plans() -> None:
    dice, shares = random.Random(7), []
    for _ in range(100):
        speeds = [dice.choice((1000.0, 500.0, 250.0)) for _ in range(3)]
        ready_s = [dice.choice((0.0, dice.expovariate(1.0))) for _ in range(3)]
        prompts = [max(1, round(dice.lognormvariate(6.5, 1.2))) for _ in range(5)]
        rows = plan(rankings(speeds, ready_s, prompts), [0.0] * 5, [False] * 5)
        best = min(squares(speeds, ready_s, prompts, where) for where in product(range(3), repeat=5))
        shares.append(squares(speeds, ready_s, prompts, [row.machine for row in rows]) / best)
    assert max(shares) < 1.25
    assert sum(shares) / len(shares) < 1.02


@pytest.mark.parametrize("policy", [name for name, each in POLICIES.items() if not each.ties_s])
def test_costs_that_are_no_seconds_are_not_weighed_against_seconds(policy: str) -> None:
    asks = rankings((1000.0, 500.0), (0.0, 0.0), (4000, 100, 100), policy)
    for rows in (plan(asks, [5.0] * 3, [False] * 3), plan(asks, [5.0] * 3, [True, False, True])):
        assert [row.machine for row in rows] == [each.best() for each in asks]


def test_fewer_asks_are_planned_together_in_a_very_large_pool() -> None:
    assert together_max(5, 8) == 8
    assert together_max(PAIRS_MAX // 4, 8) == 4
    assert together_max(10 * PAIRS_MAX, 8) == 1
    assert together_max(0, 8) == 8


def one_place_taken(settings: SchedulerSettings | None = None) -> Leader:
    """A leader whose only machine has one place, and that is taken."""
    leader = Leader([member(node(2), model_load(running_limit=1))], settings)
    assert leader.ask(ask("running"))[0].outcome is Outcome.ASSIGNED
    return leader


def started_next(leader: Leader) -> list[str]:
    answers = leader.report("running", node_id=node(2), output_tokens=10)
    return [each.request_id for each in answers if each.outcome is Outcome.ASSIGNED]


def test_of_one_users_asks_the_shorter_one_goes_first() -> None:
    leader = one_place_taken()
    leader.ask(ask("long", prompt_tokens=3000))
    leader.ask(ask("short", prompt_tokens=100))
    assert started_next(leader) == ["short"]


def test_nobody_is_overtaken_for_ever() -> None:
    leader = one_place_taken(SchedulerSettings(overtaking=2.0))
    leader.ask(ask("long", prompt_tokens=3000))
    leader.now_s += 6.5
    leader.ask(ask("short", prompt_tokens=100))
    assert started_next(leader) == ["long"], "it has waited twice its own 3 s"


def test_a_deadline_is_not_overtaken() -> None:
    leader = one_place_taken()
    leader.ask(ask("due", prompt_tokens=3000, deadline_s=60.0))
    leader.ask(ask("short", prompt_tokens=100))
    assert started_next(leader) == ["due"]


def test_a_shorter_ask_does_not_take_another_users_turn() -> None:
    leader = one_place_taken()
    leader.ask(ask("long", prompt_tokens=3000, user="a"))
    leader.ask(ask("short", prompt_tokens=100, user="b"))
    assert started_next(leader) == ["long"]
