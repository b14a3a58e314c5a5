"""Each term of the prediction by hand-computed values, and the choice that follows from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.support.scheduling import ask, candidate, member, model_load, node

from covey_mesh.core.facts import Task
from covey_scheduler.core import prediction
from covey_scheduler.core.expectation import expected_output_tokens
from covey_scheduler.core.machine import Candidate
from covey_scheduler.core.pickers import Rotation, tied
from covey_scheduler.core.policy import better_to_wait, choose
from covey_scheduler.core.prediction import Prediction, predict
from covey_scheduler.core.settings import SchedulerSettings

SETTINGS = SchedulerSettings(batch_slowdown=0.1, expected_output_tokens=200, unmeasured_penalty=0.5)


@pytest.mark.parametrize(
    ("term", "load", "own", "expected_s"),
    [
        ("network_s", {}, {"round_trip_s": 0.02}, 0.02),
        ("network_s", {}, {"round_trip_s": math.nan}, 0.0),
        ("queue_s", {}, {}, 0.0),
        ("queue_s", {"queued_tokens": 500}, {}, 0.5),
        ("queue_s", {"queued_tokens": 500}, {"reserved_tokens": 250}, 0.75),
        ("prefill_s", {}, {}, 0.1),
        ("prefill_s", {}, {"cached_tokens": 60}, 0.04),
        ("prefill_s", {}, {"cached_tokens": 100}, 0.001),
        ("decode_s", {}, {}, 1.0),
        # 100 tokens/s were measured in a batch of 2; in one of 3 it is 100 x 1.1 / 1.2.
        ("decode_s", {"running_requests": 2}, {}, 1.2 / 1.1),
        ("decode_s", {"running_requests": 1}, {"reserved_requests": 1}, 1.2),
        ("decode_s", {"running_requests": 4}, {}, 1.0),
        ("decode_s", {"task": Task.EMBED}, {}, 0.0),
        ("slot_s", {"running_requests": 3}, {}, 0.0),
        # 4 of 4 run, 400 tokens left among them: 100 each at 100 tokens/s = 1 s, a place every 0.25 s.
        ("slot_s", {"running_requests": 4, "queued_tokens": 400}, {}, 0.25),
        ("slot_s", {"running_requests": 4, "queued_tokens": 400}, {"requests_ahead": 2}, 0.75),
        ("slot_s", {"running_requests": 4, "waiting_requests": 4, "queued_tokens": 800}, {}, 5 * 0.25),
        ("slot_s", {"running_requests": 9, "running_limit": 0}, {}, 0.0),
        ("unmeasured_s", {}, {}, 0.0),
        ("failures_s", {}, {"recent_failures": 0}, 0.0),
        ("failures_s", {}, {"recent_failures": 1}, 0.5),
        ("failures_s", {}, {"recent_failures": 3}, 2.0),
        ("failures_s", {}, {"recent_failures": 1_000_000}, 30.0),
    ],
)
def test_term(term: str, load: dict[str, Any], own: dict[str, Any], expected_s: float) -> None:
    machine = candidate(model_load(**load), **own)
    assert getattr(prediction, term)(ask(), machine, SETTINGS) == pytest.approx(expected_s)


def test_an_unmeasured_machine_pays_a_share_of_its_own_work() -> None:
    machine = candidate(model_load(prefill_tokens_per_s=0.0))
    work_s = prediction.prefill_s(ask(), machine, SETTINGS) + prediction.decode_s(ask(), machine, SETTINGS)
    assert prediction.unmeasured_s(ask(), machine, SETTINGS) == pytest.approx(0.5 * work_s)


@pytest.mark.parametrize(("prefill", "batch_then"), [(1000.0, 3), (0.0, 1)])
def test_a_measured_speed_is_of_its_batch_a_prior_of_a_stream_alone(prefill: float, batch_then: int) -> None:
    machine = candidate(model_load(prefill_tokens_per_s=prefill, running_requests=3))
    expected = 100.0 * (1 + 0.1 * (batch_then - 1)) / (1 + 0.1 * 4)
    assert prediction.stream_tokens_per_s(machine, 5, SETTINGS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("asked", "task", "expected"),
    [(0, Task.GENERATE, 200), (50, Task.GENERATE, 50), (4000, Task.GENERATE, 200), (50, Task.EMBED, 0)],
)
def test_expected_output(asked: int, task: Task, expected: int) -> None:
    assert expected_output_tokens(ask(max_output_tokens=asked), task, SETTINGS) == expected


def test_terms_sum_to_the_prediction() -> None:
    machine = candidate(
        model_load(running_requests=4, queued_tokens=300, decode_tokens_per_s=0.0), recent_failures=2, round_trip_s=0.01
    )
    predicted = predict(ask(), machine, SETTINGS)
    assert set(predicted.terms_s) == {"network", "queue", "slot", "prefill", "unmeasured", "failures", "decode"}
    assert sum(predicted.terms_s.values()) == pytest.approx(predicted.last_token_s)
    assert predicted.first_token_s == pytest.approx(predicted.last_token_s - predicted.terms_s["decode"])


def ranked_machines(*loads: Any) -> list[Candidate]:
    from covey_scheduler.core.machine import machines_of

    members = {node(i): member(node(i), load) for i, load in enumerate(loads)}
    return [Candidate(m, largest_context_tokens=4096) for m in machines_of("tiny", members)]


def test_choose_ranks_free_machines_by_completion_and_keeps_busy_ones_apart() -> None:
    machines = ranked_machines(
        model_load(decode_tokens_per_s=50.0),
        model_load(decode_tokens_per_s=200.0),
        model_load(decode_tokens_per_s=400.0, running_requests=4),
        model_load(model="other"),
    )
    ranking = choose(ask(), machines, SETTINGS)
    assert [r.candidate.machine.node_id for r in ranking.free] == [node(1), node(0)]
    assert [(r.candidate.machine.node_id, r.busy) for r in ranking.waiting_for] == [(node(2), "busy: 4 of 4 running")]
    assert [(r.candidate.machine.node_id, r.reason) for r in ranking.rejected] == [
        (node(3), "does not offer the model")
    ]


@pytest.mark.parametrize(
    ("free_speed", "waited_s", "expected"),
    [(100.0, 0.0, False), (80.0, 0.0, False), (5.0, 0.0, True), (5.0, 10.0, False)],
)
def test_waiting_for_a_much_faster_machine(free_speed: float, waited_s: float, expected: bool) -> None:
    busy = model_load(decode_tokens_per_s=200.0, running_requests=4, queued_tokens=100)
    ranking = choose(ask(), ranked_machines(model_load(decode_tokens_per_s=free_speed), busy), SETTINGS)
    assert better_to_wait(ranking, waited_s, SETTINGS) is expected


@pytest.mark.parametrize(
    ("best", "other", "expected"),
    [
        ((1.0, 10.0), (1.0, 10.4), True),
        ((1.0, 10.0), (1.0, 10.6), False),
        ((1.0, 10.0), (0.5, 10.1), False),
        ((0.0, 0.001), (0.001, 0.002), True),
    ],
)
def test_ties(best: tuple[float, float], other: tuple[float, float], expected: bool) -> None:
    assert tied(Prediction(*best, {}), Prediction(*other, {}), 0.05) is expected


def test_equal_machines_take_turns_and_the_memory_of_turns_is_bounded() -> None:
    ranking = choose(ask(), ranked_machines(*[model_load()] * 3), SETTINGS)
    rotation = Rotation(turns_max=3)
    picked = [rotation.pick("tiny", ranking.free, 0.05).candidate.machine.node_id for _ in range(7)]
    assert picked == [node(i) for i in (0, 1, 2, 0, 1, 2, 0)]
    rotation.pick("other", ranking.free, 0.05)
    assert len(rotation._turns) == 3


@pytest.mark.parametrize("changes", [{"tie_tolerance": 1.0}, {"wait_gain": 0.5}, {"users_max": 0}, {"collect_s": -1}])
def test_settings_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SchedulerSettings(**changes)
