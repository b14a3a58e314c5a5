"""Deadlines at the leader and without one: what is hopeless, how sure that must be, when to come back, whose turn."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.scheduling import GATEWAY, MODEL, Leader, ask, member, model_load, node, updated, view

from covey_mesh.core.asking import TURNED_AWAY_DEADLINE, Answer, Outcome
from covey_mesh.core.facts import Member
from covey_scheduler.core.leaderless import choose_alone
from covey_scheduler.core.queues import Queues
from covey_scheduler.core.settings import SchedulerSettings


def machine(number: int = 1, **load: Any) -> Member:
    return member(node(number), model_load(**load))


def only(answers: list[Answer]) -> Answer:
    (answer,) = answers
    return answer


def turned_away(answer: Answer) -> bool:
    assert answer.decision is not None
    return answer.outcome is Outcome.NO_CANDIDATE and answer.decision.turned_away == TURNED_AWAY_DEADLINE


@pytest.mark.parametrize(
    ("load", "deadline_s", "hopeless", "retry_after_ms"),
    [
        # 100 tokens of prompt at 1,000 a second and 100 of answer at 100: 1.1 s, at best 0.7 x (0.1 + 0.5).
        ({}, 1.2, False, 0),
        ({}, 0.5, False, 0),
        ({}, 0.4, True, 0),
        ({"decode_tokens_per_s": 1000.0}, 0.4, False, 0),
        # A speed that is only a prior is trusted half as much.
        ({"prefill_tokens_per_s": 0.0, "decode_tokens_per_s": 0.0}, 0.02, True, 0),
        # All places taken, a place frees every 2.5 s: worth coming back.
        ({"running_requests": 4, "queued_tokens": 4000}, 1.5, True, 1600),
        ({"running_requests": 4, "queued_tokens": 8000}, 1.5, True, 4100),
        ({"running_requests": 4, "queued_tokens": 4000}, 60.0, False, 0),
        # 3,000 tokens of others' prompts first.
        ({"running_requests": 2, "queued_prompt_tokens": 3000}, 1.5, True, 2000),
    ],
)
def test_what_is_hopeless_and_when_to_come_back(
    load: dict[str, Any], deadline_s: float, hopeless: bool, retry_after_ms: int
) -> None:
    answer = only(Leader([machine(**load)]).ask(ask(deadline_s=deadline_s)))
    assert turned_away(answer) is hopeless
    assert abs(answer.retry_after_ms - retry_after_ms) <= 0.3 * retry_after_ms
    if hopeless:
        assert answer.decision is not None
        assert "its deadline is in" in answer.decision.why


def test_one_machine_that_can_keep_it_is_enough() -> None:
    leader = Leader([machine(1), machine(2, decode_tokens_per_s=1000.0, prefill_tokens_per_s=10_000.0)])
    assert only(leader.ask(ask(deadline_s=0.2))).node_id == node(2)


def test_the_line_before_it_counts() -> None:
    leader = Leader([machine(running_limit=1, running_requests=1, queued_tokens=10)])
    assert only(leader.ask(ask("first", user="u", deadline_s=3.0))).outcome is Outcome.QUEUED
    for i in range(20):
        leader.ask(ask(f"r{i}", user="u"))
    later = only(leader.ask(ask("later", user="u", deadline_s=30.0)))
    assert later.outcome is Outcome.QUEUED, "what has a deadline overtakes its user's others"
    for i in range(20):
        leader.ask(ask(f"s{i}", user="u", deadline_s=29.0))
    behind = only(leader.ask(ask("behind", user="u", deadline_s=8.0, priority=2)))
    assert turned_away(behind)
    assert behind.retry_after_ms > 1000


def test_a_queued_ask_is_dropped_when_it_has_become_hopeless() -> None:
    leader = Leader([machine(running_requests=4, queued_tokens=400)])
    assert only(leader.ask(ask(deadline_s=3.0))).outcome is Outcome.QUEUED
    waited_s = 0.0
    answers: list[Answer] = []
    while not answers:
        waited_s += 0.1
        answers = leader.tick(0.1)
    assert turned_away(only(answers))
    assert 1.0 < waited_s < 3.0, "not before, and not when it is too late to try elsewhere"
    assert leader.scheduler.queue_lengths() == {}


def test_when_to_come_back_is_reckoned_with_the_deadline_that_was_given_not_with_what_is_left_of_it() -> None:
    busy = machine(running_requests=4, queued_tokens=400)
    leader = Leader([busy])
    assert only(leader.ask(ask(deadline_s=4.0))).outcome is Outcome.QUEUED
    for _ in range(26):
        assert not leader.tick(0.1)
    slower = model_load(running_requests=4, queued_tokens=400, decode_tokens_per_s=20.0)
    (answer,) = [*leader.see(updated(busy, slower)), *leader.tick(0.3)]
    assert turned_away(answer)
    assert answer.retry_after_ms >= 1000, "2.6 s of work do not fit what is left, and would fit 4 s"


def test_within_one_users_line_the_earliest_deadline_goes_first_and_nobody_waits_for_ever() -> None:
    queues = Queues(SchedulerSettings())
    for second, name, deadline_s in (
        (0.0, "none", 0.0),
        (1.0, "far", 30.0),
        (2.0, "near", 10.0),
        (3.0, "nearer", 4.0),
        (4.0, "none later", 0.0),
        (18.0, "near, later", 10.0),
    ):
        queues.add(GATEWAY, ask(name, user="u", deadline_s=deadline_s), second)
    order = []
    while (queue := queues.queue(MODEL)) is not None:
        first = queue.first(20.0)
        assert first is not None
        order.append(first.ask.request_id)
        queues.remove(first.key)
    assert order == ["nearer", "near", "far", "none", "near, later", "none later"]


def test_how_many_go_before() -> None:
    queues = Queues(SchedulerSettings())
    for user, count, priority in (("a", 5, 1), ("b", 2, 1), ("c", 9, 2), ("d", 1, 0)):
        for i in range(count):
            queues.add(GATEWAY, ask(f"{user}{i}", user=user, priority=priority), float(i))
    queue = queues.queue(MODEL)
    assert queue is not None
    fifth = queue.get((GATEWAY, "a4"))
    assert fifth is not None
    assert queue.ahead_of(fifth) == 4 + 2 + 1, "its own, all of b, d; batch work does not count"
    first = queue.get((GATEWAY, "a0"))
    assert first is not None
    assert queue.ahead_of(first) == 0 + 1 + 1


@pytest.mark.parametrize(("deadline_s", "hopeless"), [(1.0, False), (0.01, True)])
def test_without_a_leader_too(deadline_s: float, hopeless: bool) -> None:
    chosen, decision = choose_alone(ask(deadline_s=deadline_s), view(machine()), {}, lambda: 0.5)
    assert (chosen is None) is hopeless
    assert decision.turned_away == (TURNED_AWAY_DEADLINE if hopeless else "")
    assert decision.outcome is (Outcome.NO_CANDIDATE if hopeless else Outcome.ASSIGNED)
