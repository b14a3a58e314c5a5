"""Each term of the prediction by hand-computed values, and the choice that follows from them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from tests.support.scheduling import ask, candidate, member, model_load, node

from covey_mesh.core.facts import Task
from covey_scheduler.core import standing
from covey_scheduler.core.expectation import AnswerLengths, expected_output_tokens
from covey_scheduler.core.machine import Candidate, machines_of
from covey_scheduler.core.pickers import Rotation, equals
from covey_scheduler.core.policies import PREDICTED
from covey_scheduler.core.policy import Ranking, machine_to_start, rank
from covey_scheduler.core.prediction import TERMS, Question, decode, predict
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing, prompts_left_s, standing_of

SETTINGS = SchedulerSettings(batch_slowdown=0.1, expected_output_tokens=200, unmeasured_penalty=0.5, answer_weight=1.0)
QUESTION = Question(ask(), 100, 10.0)
TERM = dict(TERMS) | {"decode": decode}


def stand(load: dict[str, Any], **own: Any) -> Standing:
    """A machine whose prompt tokens all take equally long."""
    return replace(standing_of(candidate(model_load(**load), **own), SETTINGS), attention_per_token=0.0)


@pytest.mark.parametrize(
    ("term", "load", "own", "cached", "expected_s"),
    [
        ("network", {}, {"round_trip_s": 0.02}, 0, 0.02),
        ("network", {}, {"round_trip_s": math.nan}, 0, 0.0),
        ("queue", {}, {}, 0, 0.0),
        ("queue", {}, {"prompts_done_at_s": 10.5}, 0, 0.5),
        ("queue", {}, {"prompts_done_at_s": 9.0}, 0, 0.0),
        ("prefill", {}, {}, 0, 0.1),
        ("prefill", {}, {}, 60, 0.04),
        ("prefill", {}, {}, 100, 0.001),
        ("decode", {}, {}, 0, 1.0),
        # 100 tokens/s were measured in a batch of 2; in one of 3 it is 100 x 1.1 / 1.2.
        ("decode", {"running_requests": 2}, {}, 0, 1.2 / 1.1),
        ("decode", {"running_requests": 1}, {"reserved_requests": 1}, 0, 1.2),
        ("decode", {"running_requests": 3}, {"reserved_requests": -1}, 0, 1.0),
        ("decode", {"running_requests": 4}, {}, 0, 1.0),
        ("slot", {"running_requests": 3}, {}, 0, 0.0),
        # 4 of 4 run, 400 tokens left among them: 100 each at 100 tokens/s = 1 s, a place every 0.25 s.
        ("slot", {"running_requests": 4, "queued_tokens": 400}, {}, 0, 0.25),
        ("slot", {"running_requests": 4, "waiting_requests": 4, "queued_tokens": 800}, {}, 0, 5 * 0.25),
        ("slot", {"running_requests": 9, "running_limit": 0}, {}, 0, 0.0),
        ("unmeasured", {}, {}, 0, 0.0),
        ("failures", {}, {"recent_failures": 0}, 0, 0.0),
        ("failures", {}, {"recent_failures": 1}, 0, 0.5),
        ("failures", {}, {"recent_failures": 3}, 0, 2.0),
        ("failures", {}, {"recent_failures": 1_000_000}, 0, 30.0),
    ],
)
def test_term(term: str, load: dict[str, Any], own: dict[str, Any], cached: int, expected_s: float) -> None:
    assert TERM[term](QUESTION, stand(load, **own), cached, SETTINGS) == pytest.approx(expected_s)


def test_an_unmeasured_machine_pays_a_share_of_its_own_work() -> None:
    machine = stand({"prefill_tokens_per_s": 0.0})
    work_s = sum(TERM[term](QUESTION, machine, 0, SETTINGS) for term in ("prefill", "decode"))
    assert TERM["unmeasured"](QUESTION, machine, 0, SETTINGS) == pytest.approx(0.5 * work_s)


@pytest.mark.parametrize(("requests", "expected_s"), [(0, 0.0), (-1, 0.0), (1, 0.25), (4, 1.0), (9, 1.0)])
def test_others_prompts_by_their_share_of_the_report(requests: int, expected_s: float) -> None:
    machine = candidate(model_load(running_requests=3, waiting_requests=1, queued_prompt_tokens=1000))
    assert prompts_left_s(machine.machine, requests) == pytest.approx(expected_s)


@pytest.mark.parametrize(("prefill", "batch_then"), [(1000.0, 3), (0.0, 1)])
def test_a_measured_speed_is_of_its_batch_a_prior_of_a_stream_alone(prefill: float, batch_then: int) -> None:
    machine = candidate(model_load(prefill_tokens_per_s=prefill, running_requests=3))
    expected = 100.0 * (1 + 0.1 * (batch_then - 1)) / (1 + 0.1 * 4)
    assert standing.stream_tokens_per_s(machine, 5, SETTINGS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("asked", "task", "expected"),
    [(0, Task.GENERATE, 200), (50, Task.GENERATE, 50), (4000, Task.GENERATE, 200), (50, Task.EMBED, 0)],
)
def test_expected_output(asked: int, task: Task, expected: int) -> None:
    assert expected_output_tokens(ask(max_output_tokens=asked), task, SETTINGS) == expected


def test_answer_lengths_are_learned_for_each_user_and_else_for_the_model() -> None:
    lengths = AnswerLengths(SETTINGS)
    for _ in range(200):
        lengths.ended("tiny", "brief", 10)
    assert lengths.expected(ask(max_output_tokens=0, user="brief"), Task.GENERATE) < 40
    assert 20 < lengths.expected(ask(max_output_tokens=0, user="new"), Task.GENERATE) < 40
    assert lengths.expected(ask(max_output_tokens=0, user="new", model="other"), Task.GENERATE) == 200
    lengths.ended("tiny", "odd", 1_000_000)
    assert lengths.expected(ask(max_output_tokens=50, user="odd"), Task.GENERATE) == 50


def test_answer_lengths_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covey_scheduler.core.expectation.LENGTHS_MAX", 5)
    lengths = AnswerLengths(SETTINGS)
    for number in range(20):
        lengths.ended("tiny", f"u{number}", 10)
    assert len(lengths) == 5


def test_terms_sum_to_the_prediction() -> None:
    machine = stand(
        {"running_requests": 4, "queued_tokens": 300, "decode_tokens_per_s": 0.0},
        recent_failures=2,
        round_trip_s=0.01,
        prompts_done_at_s=11.0,
    )
    predicted = predict(QUESTION, machine, 0, SETTINGS)
    assert set(predicted.terms_s) == {"network", "queue", "slot", "prefill", "unmeasured", "failures", "decode"}
    assert sum(predicted.terms_s.values()) == pytest.approx(predicted.last_token_s)
    assert predicted.first_token_s == pytest.approx(predicted.last_token_s - predicted.terms_s["decode"])


def ranking(*loads: Any, question: Question = QUESTION, cached: tuple[int, ...] = (), **own: Any) -> Ranking:
    """`own` holds, for each of Candidate's fields, one value a machine."""
    members = {node(i): member(node(i), load) for i, load in enumerate(loads)}
    candidates = [Candidate(m, largest_context_tokens=4096) for m in machines_of("tiny", members)]
    for name, values in own.items():
        candidates = [replace(c, **{name: value}) for c, value in zip(candidates, values, strict=True)]
    machines = [standing_of(each, SETTINGS) for each in candidates]
    return rank(question, machines, cached or (0,) * len(machines), (), PREDICTED, SETTINGS)


def test_the_best_machine_starts_if_it_is_free() -> None:
    loads = (model_load(decode_tokens_per_s=50.0), model_load(decode_tokens_per_s=200.0))
    assert machine_to_start(ranking(*loads), 0.0) == 1


@pytest.mark.parametrize(
    ("free_speed", "waited_s", "expected"),
    [(100.0, 0.0, 0), (80.0, 0.0, None), (5.0, 0.0, None), (5.0, 40.0, None), (5.0, 41.0, 0)],
)
def test_waiting_for_a_much_faster_machine(free_speed: float, waited_s: float, expected: int | None) -> None:
    busy = model_load(decode_tokens_per_s=200.0, running_requests=4, queued_tokens=800)
    assert machine_to_start(ranking(model_load(decode_tokens_per_s=free_speed), busy), waited_s) == expected


@pytest.mark.parametrize(("ahead_s", "expected"), [(0.2, 1), (0.3, None)])
def test_an_ask_is_sent_a_moment_before_its_machine_is_done_with_what_it_has(
    ahead_s: float, expected: int | None
) -> None:
    loads = (model_load(decode_tokens_per_s=1.0), model_load())
    assert machine_to_start(ranking(*loads, prompts_done_at_s=(0.0, 10.0 + ahead_s)), 0.0) == expected


def test_nobody_is_nobody() -> None:
    assert machine_to_start(ranking(), 0.0) is None


@pytest.mark.parametrize(
    ("other", "prompts_done_at_s", "cached", "expected"),
    [
        ({}, 10.0, 0, [0, 1]),
        ({"decode_tokens_per_s": 97.0}, 10.0, 0, [0, 1]),
        ({"decode_tokens_per_s": 90.0}, 10.0, 0, [0]),
        ({}, 10.04, 0, [0]),  # the same end, but a later beginning: 0.14 s against 0.10 s
        ({}, 10.04, 50, [0]),
    ],
)
def test_ties(other: dict[str, Any], prompts_done_at_s: float, cached: int, expected: list[int]) -> None:
    found = ranking(model_load(), model_load(**other), prompts_done_at_s=(10.0, prompts_done_at_s), cached=(0, cached))
    if found.best() == 0:
        assert equals(found, 0) == expected


def test_equal_machines_take_turns_and_the_memory_of_turns_is_bounded() -> None:
    same, rotation = ranking(*[model_load()] * 3), Rotation(turns_max=3)
    assert [rotation.pick(same, same.best()) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    rotation.pick(ranking(model_load(), question=replace(QUESTION, ask=ask(model="other"))), 0)
    assert len(rotation._turns) == 3


@pytest.mark.parametrize("changes", [{"tie_tolerance": 1.0}, {"wait_gain": 0.5}, {"users_max": 0}, {"collect_s": -1}])
def test_settings_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SchedulerSettings(**changes)
