"""The routing simulator: traces, the engine's arithmetic, every request served once, faults, and its figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.routing.__main__ import CLAIRVOYANT, OURS, Job, Result, floor, nothing_below, parse_fault, ratios, run
from bench.routing.engine import Engine, EngineProfile, Sequence_
from bench.routing.hindsight import first_tokens_s, of_sample, search
from bench.routing.paired import paired, sign_flip_p
from bench.routing.trace import Request, prompts_alone_s, read_trace, sample, work_s

PROFILE = EngineProfile(
    step_s=1.0, prompt_token_s=0.01, attention_s=0.0, stream_s=0.0, context_token_s=0.0, chunk_tokens=100
)
MOONCAKE = "".join(
    f'{{"timestamp": {1000 * n}, "input_length": {600 + n}, "output_length": {5 + n % 7}, '
    f'"hash_ids": [{n % 3}, {99 + n}]}}\n'
    for n in range(60)
)
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{n % 60:02}.6805900,{300 + n},{4 + n % 5}\n" for n in range(60)
)


@pytest.fixture
def mooncake(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text(MOONCAKE)
    return path


def drive(engine: Engine) -> list[tuple[float, int, int]]:
    """(time, sequences with a first token, sequences done) of each stretch of steps until the engine is idle."""
    happened = []
    while engine.step_ends_at_s is not None:
        now_s = engine.step_ends_at_s
        first, done = engine.advance(now_s)
        happened.append((now_s, len(first), len(done)))
    return happened


def test_both_formats(mooncake: Path, tmp_path: Path) -> None:
    azure = tmp_path / "trace.csv"
    azure.write_text(AZURE)
    first, second = read_trace(mooncake)[1], read_trace(azure)[1]
    assert first == Request(1, 1.0, 601, 6, (1, 100))
    assert (second.prompt_tokens, second.output_tokens, second.blocks) == (301, 5, ())
    with pytest.raises(ValueError, match="ends in"):
        read_trace(tmp_path / "trace.txt")


def test_a_sample_offers_the_load_that_was_asked_for(mooncake: Path) -> None:
    picked = sample(read_trace(mooncake), 40, load=0.5, speed_sum=2.0, seed=3)
    assert len(picked) == 40
    assert work_s(picked) / picked[-1].arrival_s == pytest.approx(0.5 * 2.0, rel=0.01)
    assert picked == sample(read_trace(mooncake), 40, load=0.5, speed_sum=2.0, seed=3)
    assert picked != sample(read_trace(mooncake), 40, load=0.5, speed_sum=2.0, seed=4)


def test_no_policy_comes_below_each_prompt_alone(mooncake: Path) -> None:
    requests = [Request(n, n / 10, 1024, 5, (7, n)) for n in range(3)]
    # A step of 0.016 s and 1,024 tokens in 0.130 s of speed 1, of which the second and third have half in the cache.
    first, *others = prompts_alone_s(requests, speed=2.0)
    assert first == pytest.approx(0.008 + 1024 / 16_000, rel=0.05)
    assert others == pytest.approx([0.008 + 512 / 16_000] * 2, rel=0.05)
    jobs = [Job(mooncake, "lmetric", (1.0, 0.5), 0.5, seed, 30, 0.25) for seed in range(2)]
    mean_s, p99_s = floor(jobs)
    served = [run(job) for job in jobs]
    assert mean_s < sum(each.first_token_mean for each in served) / 2
    assert p99_s < sum(each.first_token_p99 for each in served) / 2


@pytest.mark.parametrize(("prompt", "cached"), [(1, 0), (2048, 0), (2049, 0), (9000, 1024), (90_000, 89_600)])
def test_a_prompt_alone_takes_what_the_engine_takes(prompt: int, cached: int) -> None:
    profile, engine = EngineProfile(), Engine(1.0, EngineProfile(), 512)
    engine.cache.update(dict.fromkeys(range(cached // 512)))
    engine.add(Sequence_(None, prompt, 1, tuple(range(prompt // 512))), 0.0)
    assert drive(engine)[-1][0] == pytest.approx(profile.prompt_alone_s(prompt, cached))


def test_a_prompt_in_chunks_then_one_token_a_step() -> None:
    engine = Engine(1.0, PROFILE, 512)
    engine.add(Sequence_(None, 150, 4, ()), 0.0)
    # 100 tokens in 1 + 1 s, 50 in 1 + .5 s with the first token, then three tokens in one stretch.
    assert drive(engine) == [(2.0, 0, 0), (3.5, 1, 0), (6.5, 0, 1)]


def test_a_prompt_delays_the_streams_beside_it_and_is_delayed_to_the_end_of_a_step() -> None:
    engine = Engine(1.0, PROFILE, 512)
    engine.add(Sequence_(None, 100, 11, ()), 0.0)
    engine.advance(2.0)
    engine.add(Sequence_(None, 50, 1, ()), 4.5)
    assert engine.step_ends_at_s == pytest.approx(5.0)
    assert drive(engine) == [(5.0, 0, 0), (6.5, 1, 1), (12.5, 0, 1)]


def test_speed_and_cache() -> None:
    engine = Engine(0.5, PROFILE, 50)
    engine.add(Sequence_(None, 100, 1, (7, 8)), 0.0)
    assert drive(engine) == [(4.0, 1, 1)]
    engine.add(Sequence_(None, 120, 1, (7, 8, 9)), 10.0)
    assert drive(engine) == [(pytest.approx(10.0 + 2 * (1 + 0.2)), 1, 1)]


@pytest.mark.parametrize("policy", [OURS, "jsq", "lmetric", CLAIRVOYANT])
def test_every_request_is_served_whole(mooncake: Path, policy: str) -> None:
    result = run(Job(mooncake, policy, (1.0, 0.5), 0.5, seed=1, requests=30, report_s=0.25))
    assert 0 < result.first_token_mean <= result.completion_mean
    assert result.first_token_mean <= result.first_token_p99


@pytest.mark.parametrize("faults", [("die:0:.3", "join:0:.6"), ("join:1:.5",), ("die:1:.5",)])
def test_every_request_is_served_whatever_dies_or_joins(mooncake: Path, faults: tuple[str, ...]) -> None:
    # `run` takes the mean over every request, and fails where one was never answered.
    result = run(Job(mooncake, OURS, (1.0, 0.5), 0.8, seed=1, requests=30, report_s=1.0, faults=faults))
    assert 0 < result.first_token_mean <= result.completion_mean


def test_faults_are_read() -> None:
    fault = parse_fault("die:2:.5", duration_s=10.0)
    assert (fault.at_s, fault.machine, fault.joins) == (5.0, 2, False)
    with pytest.raises(ValueError, match="die:MACHINE:SHARE"):
        parse_fault("burn:1:.5", 10.0)


def test_ratios_are_against_the_peer_best_at_each_figure() -> None:
    results = {
        OURS: [Result(1.0, 6.0, 12.0)],
        "jsq": [Result(2.0, 10.0, 9.0)],
        "lmetric": [Result(4.0, 8.0, 9.0)],
        "jsq-speed": [Result(1.25, 12.0, 9.0)],
        CLAIRVOYANT: [Result(0.1, 0.1, 10.0)],
    }
    assert ratios(results, equal=False) == {
        "mean_ttft_vs_best_speed_blind": 0.5,
        "p99_ttft_vs_best_speed_blind": 0.75,
        "mean_ttft_vs_best_given_speeds": 0.8,
        "p99_ttft_vs_best_given_speeds": 0.75,
        "mean_completion_vs_clairvoyant": 1.2,
    }
    assert ratios(results, equal=True)["mean_ttft_vs_best_peer"] == 0.8


def test_the_floor_is_told_beside_the_best_peer() -> None:
    results = {OURS: [Result(1.0, 6.0, 12.0)], "jsq": [Result(2.0, 10.0, 9.0)], "lmetric": [Result(4.0, 8.0, 9.0)]}
    told = nothing_below((0.5, 4.0), results)
    assert told.endswith("; 0.250 of the best peer's first_token_mean; 0.500 of the best peer's first_token_p99")
    assert "peer" not in nothing_below((0.5, 4.0), {OURS: results[OURS]})


def test_paired_samples_give_a_ratio_an_interval_and_a_p_value() -> None:
    found = paired([1.0, 2.0, 4.0, 1.0], [2.0, 4.0, 8.0, 2.0])
    assert found == pytest.approx((0.5, 0.5, 0.5, 2 / 16)), "of 16 choices of signs, two are as far from 0"
    assert paired([1.0, 2.0], [2.0, 1.0]).p == 1.0
    assert paired([1.0], [2.0]).ratio == pytest.approx(0.5)
    low, high = paired([1.0, 2.0, 3.0], [2.0, 2.5, 2.5])[1:3]
    assert low < 1.0 < high


def test_a_test_of_many_samples_draws_signs() -> None:
    assert sign_flip_p([1.0] * 20) < 0.001
    assert sign_flip_p([1.0, -1.0] * 10) == 1.0


def test_a_line_takes_its_prompts_one_after_the_other_with_what_the_cache_holds() -> None:
    requests = [Request(0, 0.0, 100, 1, (7,)), Request(1, 0.5, 600, 1, (7,)), Request(2, 9.0, 100, 1, ())]
    # A step of 1 s a hundred tokens and 0.01 s a token: 2 s; then, of 600 tokens, the 88 that are not cached.
    took_s = first_tokens_s(requests, (0, 1, 2), speed=0.5, profile=PROFILE)
    assert took_s == pytest.approx({0: 4.0, 1: 4.0 + 2 * 1.88 - 0.5, 2: 4.0})


def test_hindsight_lets_the_fast_machine_wait_for_who_needs_it() -> None:
    # The short one took the fast machine a moment before the long one came, and the other machine was idle.
    requests = [Request(0, 0.0, 9000, 1, ()), Request(1, 0.1, 40_000, 1, ())]
    lines = [[0, 1], []]
    found = search(requests, lines, (1.0, 0.5), moves=100, seed=1)
    short_s, long_s = (EngineProfile().prompt_alone_s(each.prompt_tokens, 0) for each in requests)
    assert found.p99 == pytest.approx(long_s)
    assert found.ours_p99 == pytest.approx(short_s + long_s - 0.1)
    assert lines == [[0, 1], []], "what it was given is left as it is"


def test_hindsight_stays_above_the_floor_and_repeats(mooncake: Path) -> None:
    requests = sample(read_trace(mooncake), 40, load=0.7, speed_sum=1.5, seed=3)
    found = of_sample(requests, (1.0, 0.5), 0.25, moves=50, seed=3)
    assert floor([Job(mooncake, OURS, (1.0, 0.5), 0.7, 3, 40, 0.25)])[1] <= found.p99 + 1e-9
    assert found == of_sample(requests, (1.0, 0.5), 0.25, moves=50, seed=3)
