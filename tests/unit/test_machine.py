"""Hostile numbers made safe, priors, calibration, and the cache against the plain function."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.scheduling import MODEL, ask, candidate, member, model_load, node, updated, view

from covey_mesh.core import model_size
from covey_mesh.core.facts import Member, ModelLoad, Task
from covey_mesh.core.names import NodeId
from covey_scheduler.core import hardware
from covey_scheduler.core.clean_ask import clean_ask
from covey_scheduler.core.machine import (
    DECODE_TOKENS_PER_S_MAX,
    PREFILL_TOKENS_PER_S_MAX,
    TOKENS_MAX,
    TOKENS_PER_S_MIN,
    clean_load,
    clean_speed,
    machines_of,
)
from covey_scheduler.core.machine_cache import MachineCache
from covey_scheduler.core.policies import POLICIES
from covey_scheduler.core.prediction import Question, predict
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import standing_of


@pytest.mark.parametrize(
    ("reported", "expected"),
    [(math.nan, 0.0), (math.inf, 0.0), (-5.0, 0.0), (0.0, 0.0), (1e-9, TOKENS_PER_S_MIN), (50.0, 50.0), (1e12, 99.0)],
)
def test_speeds_are_cleaned(reported: float, expected: float) -> None:
    assert clean_speed(reported, 99.0) == expected


def test_a_lying_machine_gets_no_more_than_the_bound() -> None:
    load = clean_load(
        model_load(prefill_tokens_per_s=1e300, decode_tokens_per_s=1e300, running_requests=-5, detail="x" * 999)
    )
    assert (load.prefill_tokens_per_s, load.decode_tokens_per_s) == (PREFILL_TOKENS_PER_S_MAX, DECODE_TOKENS_PER_S_MAX)
    assert load.running_requests == 0
    assert len(load.detail) == 120


anything = st.integers(min_value=-(2**70), max_value=2**70)
any_float = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=200, deadline=None)
@given(anything, anything, anything, anything, any_float, any_float, any_float, anything, anything, any_float)
def test_predictions_are_finite_whatever_is_reported(
    running: int, waiting: int, queued: int, limit: int, prefill: float, decode: float, round_trip: float,
    prompt: int, output: int, waited: float,
) -> None:  # fmt: skip
    load = model_load(
        running_requests=running, waiting_requests=waiting, queued_tokens=queued, running_limit=limit,
        prefill_tokens_per_s=prefill, decode_tokens_per_s=decode, kv_cache_tokens_total=queued,
    )  # fmt: skip
    request = clean_ask(ask(prompt_tokens=prompt, max_output_tokens=output, waited_s=waited, deadline_s=waited))
    assert 0 <= request.waited_s <= 3600
    assert 0 <= request.deadline_s <= 86_400
    machine = standing_of(candidate(load, round_trip_s=round_trip), SchedulerSettings())
    for policy in POLICIES.values():
        (cost,) = policy.costs(Question(request, 256, 10.0), [machine], [0], SchedulerSettings())
        assert math.isfinite(cost)
    prediction = predict(Question(request, 256, 10.0), machine, 0, SchedulerSettings())
    assert math.isfinite(prediction.last_token_s)
    assert 0 <= prediction.first_token_s <= prediction.last_token_s
    assert request.prompt_tokens <= TOKENS_MAX


def test_a_deadline_that_has_passed_is_not_no_deadline() -> None:
    assert clean_ask(ask(deadline_s=-3.0)).deadline_s > 0
    assert clean_ask(ask(deadline_s=math.nan)).deadline_s == 0
    assert clean_ask(ask(priority=-4)).priority == 0
    assert clean_ask(ask(priority=99)).priority == 2
    assert len(clean_ask(ask(user="u" * 1000, prefix_hashes=tuple(range(1000)))).prefix_hashes) == 128


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", 70e9),
        ("qwen2.5-0.5b", 0.5e9),
        ("mixtral-8x7b", 56e9),
        ("smollm-135m", 135e6),
        ("covey-demo", model_size.PARAMETERS_DEFAULT),
        ("gpt-4b2", model_size.PARAMETERS_DEFAULT),
        ("7b", 7e9),
    ],
)
def test_size_from_the_name(name: str, expected: float) -> None:
    assert model_size.parameters_guess(name) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "bandwidth_gb"),
    [
        ("NVIDIA GeForce RTX 4090", 1008),
        ("NVIDIA L40S", 864),
        ("NVIDIA L4", 300),
        ("NVIDIA H100 PCIe", 2000),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 504),
        ("Some Future Card", 300),
    ],
)
def test_gpu_table(name: str, bandwidth_gb: float) -> None:
    assert hardware.gpu_hardware(name).bandwidth_bytes_per_s == pytest.approx(bandwidth_gb * 1e9)


def test_every_row_of_the_gpu_table_can_be_reached() -> None:
    for name, expected in hardware.GPUS:
        assert hardware.gpu_hardware(f"NVIDIA {name.upper()}") is expected


def test_attention_by_the_models_size() -> None:
    # 12 layers x d^2 weights with d = 128 layers: d = 4,402 for 8e9.
    assert model_size.attention_per_token("llama-8b") == pytest.approx(1 / (6 * 4402), rel=0.001)


@pytest.mark.parametrize(
    ("prompt", "cached", "expected"), [(0, 0, 1.0), (1000, 0, 1.05), (1000, 1000, 1.1), (10_000, 0, 1.5)]
)
def test_tokens_of_long_prompts_take_longer(prompt: int, cached: int, expected: float) -> None:
    assert model_size.length_factor(prompt, cached, 1e-4) == pytest.approx(expected)


def test_priors_by_formula() -> None:
    own = hardware.Hardware(bandwidth_bytes_per_s=1000e9, flops=100e12)
    assert hardware.decode_prior_tokens_per_s(own, 10e9) == pytest.approx(0.6 * 1000e9 / 20e9)
    assert hardware.prefill_prior_tokens_per_s(own, 10e9) == pytest.approx(0.35 * 100e12 / 20e9)


def test_a_measured_machine_calibrates_the_prior_of_others() -> None:
    unmeasured = model_load(prefill_tokens_per_s=0.0, decode_tokens_per_s=0.0)
    members = {
        node(1): member(node(1), model_load(), gpu="RTX 3090"),
        node(2): member(node(2), unmeasured, gpu="RTX 3090"),
        node(3): member(node(3), unmeasured, gpu="RTX 4090"),
    }
    measured, same, faster = (m.speeds for m in machines_of(MODEL, members))
    assert same.decode_tokens_per_s == pytest.approx(measured.decode_tokens_per_s)
    assert same.prefill_tokens_per_s == pytest.approx(measured.prefill_tokens_per_s)
    assert faster.decode_tokens_per_s == pytest.approx(measured.decode_tokens_per_s * 1008 / 936)
    assert (measured.measured, same.measured, faster.measured) == (True, False, False)


def test_where_only_short_prompts_were_seen_decoding_calibrates_the_prior_of_prefill() -> None:
    """Else one short prompt after another would wait for minutes of work that take milliseconds."""
    nothing = model_load(prefill_tokens_per_s=0.0, decode_tokens_per_s=0.0)
    (prior,) = machines_of(MODEL, {node(1): member(node(1), nothing)})
    for times in (0.01, 50.0):
        decode = prior.speeds.decode_tokens_per_s * times
        (seen,) = machines_of(MODEL, {node(1): member(node(1), replace(nothing, decode_tokens_per_s=decode))})
        assert seen.speeds.prefill_tokens_per_s == pytest.approx(
            min(PREFILL_TOKENS_PER_S_MAX, max(decode, prior.speeds.prefill_tokens_per_s * times))
        )
        assert not seen.speeds.measured
    others = {
        node(1): member(node(1), replace(nothing, decode_tokens_per_s=9.0)),
        node(2): member(node(2), model_load()),
    }
    alone, with_other = machines_of(MODEL, {node(1): others[node(1)]})[0], machines_of(MODEL, others)[0]
    assert alone.speeds.prefill_tokens_per_s != with_other.speeds.prefill_tokens_per_s, "what is measured counts more"


def test_an_embedding_engine_needs_no_decode_speed() -> None:
    (machine,) = machines_of(MODEL, {node(1): member(node(1), model_load(task=Task.EMBED, decode_tokens_per_s=0.0))})
    assert machine.speeds.measured


loads = st.one_of(
    st.none(),
    st.builds(
        lambda running, speed: model_load(
            running_requests=running, prefill_tokens_per_s=speed, decode_tokens_per_s=speed
        ),
        st.integers(0, 4),
        st.sampled_from([0.0, 10.0, 100.0]),
    ),
)  # fmt: skip
changes = st.lists(st.tuples(st.integers(1, 4), st.one_of(st.just("leave"), loads), st.booleans()), max_size=12)


@settings(max_examples=150, deadline=None)
@given(changes)
def test_the_cache_gives_what_the_plain_function_gives(
    steps: list[tuple[int, str | ModelLoad | None, bool]],
) -> None:
    cache, members = MachineCache(), dict[NodeId, Member]()
    for version, (number, change, reachable) in enumerate(steps):
        node_id = node(number)
        if change == "leave":
            members.pop(node_id, None)
        else:
            given_loads = (change,) if isinstance(change, ModelLoad) else ()
            old = members.get(node_id, member(node_id, gpu="RTX 3090" if number % 2 else ""))
            fresh = replace(updated(old, model_load()), reachable=reachable)
            members[node_id] = replace(fresh, load=replace(fresh.load, models=given_loads))
        now = view(*members.values(), version=version)
        assert tuple(cache.machines(MODEL, now).machines) == machines_of(MODEL, now.members)


def test_the_cache_sees_a_change_of_reachability_or_distance_alone() -> None:
    cache, here = MachineCache(), member(node(1), model_load())
    for changed in (here, replace(here, reachable=False), replace(here, round_trip_s=0.5)):
        now = view(changed)
        assert tuple(cache.machines(MODEL, now).machines) == machines_of(MODEL, now.members)


def test_the_cache_is_bounded() -> None:
    cache, now = MachineCache(models_max=2), view(member(node(1), model_load()))
    for number in range(10):
        cache.machines(f"m{number}", now)
    assert len(cache._models) == 2
