from collections import deque

import pytest

from covey_mesh.core.model_size import attention_per_token, length_factor
from covey_mesh.core.speeds import LEARNED, STORED
from covey_node.core.meter import DECODE_SAMPLE_TOKENS, Meter
from covey_node.core.speed_record import from_plain, plain


def test_nothing_measured_is_zero() -> None:
    meter = Meter()
    assert (meter.prefill_tokens_per_s, meter.decode_tokens_per_s) == (0.0, 0.0)


def test_prefill_of_one_prompt() -> None:
    meter = Meter()
    stream = meter.started(500, True, 10.0)
    meter.tokens(stream, 1, 10.5)
    assert meter.prefill_tokens_per_s == pytest.approx(1000.0)


def test_prompts_prefilled_side_by_side_count_as_throughput() -> None:
    meter = Meter()
    streams = [meter.started(100, True, 0.0) for _ in range(8)]
    for position, stream in enumerate(streams):
        meter.tokens(stream, 1, 1.0 + position * 1e-4)
    assert meter.prefill_tokens_per_s == pytest.approx(800.0, rel=0.01)


def test_a_prompt_behind_another_is_not_charged_its_wait() -> None:
    meter = Meter()
    first, second = meter.started(100, True, 0.0), meter.started(100, True, 0.0)
    meter.tokens(first, 1, 1.0)
    meter.tokens(second, 1, 2.0)
    assert meter.prefill_tokens_per_s == pytest.approx(100.0)


def test_idle_time_is_nobodys_prefill() -> None:
    meter = Meter()
    for begin_s in (0.0, 1000.0, 5000.0):
        stream = meter.started(100, True, begin_s)
        meter.tokens(stream, 1, begin_s + 1.0)
        meter.ended(stream, begin_s + 1.0)
    assert meter.prefill_tokens_per_s == pytest.approx(100.0)


def test_a_cancelled_prompt_leaves_no_trace() -> None:
    meter = Meter()
    meter.ended(meter.started(100, True, 0.0), 1.0)
    stream = meter.started(100, True, 100.0)
    meter.tokens(stream, 1, 101.0)
    assert meter.prefill_tokens_per_s == pytest.approx(100.0)


def test_decode_is_the_speed_of_one_stream() -> None:
    meter = Meter()
    streams = [meter.started(10, True, 0.0) for _ in range(4)]
    for step in range(1, 3 * DECODE_SAMPLE_TOKENS):
        for stream in streams:
            meter.tokens(stream, 1, step * 0.05)
    assert meter.decode_tokens_per_s == pytest.approx(20.0)


def test_a_short_stream_is_measured_at_its_end() -> None:
    meter = Meter()
    stream = meter.started(10, True, 0.0)
    meter.tokens(stream, 1, 1.0)
    meter.tokens(stream, 4, 3.0)
    meter.ended(stream, 3.0)
    assert meter.decode_tokens_per_s == pytest.approx(2.0)


def test_whole_answers_are_split_by_known_prefill() -> None:
    meter = Meter()
    first = meter.started(100, True, 0.0)
    meter.tokens(first, 1, 1.0)
    meter.ended(first, 1.0)
    whole = meter.started(50, False, 10.0)
    meter.answered_whole(whole, 200, 30, 15.0)
    meter.ended(whole, 15.0)
    assert meter.decode_tokens_per_s == pytest.approx(30 / (5.0 - 2.0))


def test_an_embedding_is_all_prefill() -> None:
    meter = Meter()
    asked = meter.started(10, False, 0.0)
    meter.answered_whole(asked, 400, 0, 2.0)
    meter.ended(asked, 2.0)
    assert meter.prefill_tokens_per_s == pytest.approx(200.0)


def test_speed_is_that_of_a_short_prompt_without_what_was_cached() -> None:
    meter = Meter(attention=1e-4)
    metered = meter.started(10_000, True, 0.0)
    meter.tokens(metered, 1, 15.0)  # 10,000 tokens that take 1.5 times as long as the first one
    assert meter.prefill_tokens_per_s == pytest.approx(1000.0)
    meter.ended(metered, 15.0)
    metered = meter.started(10_000, True, 20.0, cached_tokens=9_000)
    meter.tokens(metered, 1, 21.95)
    assert meter.prefill_tokens_per_s == pytest.approx(1000.0)


def served(meter: Meter, now_s: float, tokens_per_s: float, tokens: int = 32, prompt: int = 100) -> float:
    """One streamed answer, a token at a time; prompts take a tenth of a token's time each. Returns when it ended."""
    stream = meter.started(prompt, True, now_s)
    now_s += prompt / tokens_per_s / 10
    meter.tokens(stream, 1, now_s)
    for _ in range(tokens):
        now_s += 1 / tokens_per_s
        meter.tokens(stream, 1, now_s)
    meter.ended(stream, now_s)
    meter.settle(now_s)
    return now_s


def known(tokens_per_s: float = 50.0) -> tuple[Meter, float]:
    meter, now_s = Meter(), 0.0
    for _ in range(20):
        now_s = served(meter, now_s, tokens_per_s)
    return meter, now_s


@pytest.mark.parametrize("factor", [2.0, 4.0, 10.0])
def test_a_machine_that_gets_slow_is_noticed_within_seconds_and_recovers_as_quickly(factor: float) -> None:
    meter, now_s = known()
    stream = meter.started(100, True, now_s)
    meter.tokens(stream, 1, now_s + 0.2)
    now_s += 0.2
    for step_s, expected in ((0.02 * factor, 50.0 / factor), (0.02, 50.0)):
        began_s = now_s
        while meter.decode_tokens_per_s != pytest.approx(expected, rel=0.15):
            now_s += step_s
            meter.tokens(stream, 1, now_s)
            meter.settle(now_s)
            assert now_s - began_s < 3.5
        # No prompt has come since: it is expected to be as slow.
        assert meter.prefill_tokens_per_s == pytest.approx(500.0 * expected / 50.0, rel=0.2)


def test_a_slow_machine_that_is_left_alone_gets_another_chance() -> None:
    meter, now_s = known()
    for _ in range(5):
        now_s = served(meter, now_s, 5.0)
    assert meter.decode_tokens_per_s == pytest.approx(5.0, rel=0.1)
    meter.settle(now_s + 61.0)
    assert meter.decode_tokens_per_s == pytest.approx(50.0, rel=0.1)


@pytest.mark.parametrize("stall_s", [1.0, 30.0, 10_000.0])
def test_one_stall_moves_nothing(stall_s: float) -> None:
    meter, now_s = known()
    before = (meter.prefill_tokens_per_s, meter.decode_tokens_per_s)
    stream = meter.started(100, True, now_s)
    meter.tokens(stream, 1, now_s + stall_s)
    now_s += stall_s
    meter.tokens(stream, 1, now_s + stall_s)
    meter.ended(stream, now_s + stall_s)
    now_s = served(meter, now_s + stall_s, 50.0)
    assert (meter.prefill_tokens_per_s, meter.decode_tokens_per_s) == pytest.approx(before, rel=0.02)


def test_the_silence_before_an_attempt_was_given_up_is_nobodys_speed() -> None:
    """A hung engine: every stream of a full batch ends from outside, seconds after its last token."""
    meter, now_s = Meter(), 0.0
    now_s = served(meter, now_s, 50.0)
    before = meter.decode_tokens_per_s
    streams = [meter.started(100, True, now_s) for _ in range(4)]
    for stream in streams:
        meter.tokens(stream, 1, now_s + 0.1)
        meter.tokens(stream, 5, now_s + 0.2)
    for stream in streams:
        meter.ended(stream, now_s + 8.0, complete=False)
    meter.settle(now_s + 9.0)
    assert meter.decode_tokens_per_s == pytest.approx(before)


def test_what_the_engine_had_cached_is_no_work() -> None:
    meter, now_s = Meter(), 0.0
    for told in (True, False) * 10:
        stream = meter.started(1000, True, now_s, told=False)
        meter.tokens(stream, 1, now_s + 0.1)
        if told:
            meter.told(stream, 1000, 900)
        meter.ended(stream, now_s + 0.1)
        now_s += 1.0
    assert meter.prefill_tokens_per_s == pytest.approx(1000.0)


def test_told_while_its_batch_is_open() -> None:
    meter = Meter()
    first, second = meter.started(100, True, 0.0, told=False), meter.started(100, True, 0.0, told=False)
    meter.tokens(first, 1, 1.0)
    meter.told(first, 100, 50)
    meter.tokens(second, 1, 1.001)
    meter.told(second, 100, 50)
    assert meter.prefill_tokens_per_s == pytest.approx(100 / 1.001)


def test_a_restart_is_survived() -> None:
    meter, now_s = known()
    meter.loaded(12.5)
    record = from_plain(plain(meter.record(now_s, 1e9)))
    reborn = Meter()
    reborn.restore(record, 5.0, 1e9 + 3600)
    assert reborn.prefill_tokens_per_s == pytest.approx(meter.prefill_tokens_per_s)
    assert reborn.decode_tokens_per_s == pytest.approx(meter.decode_tokens_per_s)
    told = reborn.speeds(5.0, 1e9 + 3600)
    assert (told.source, told.load_s, told.measured_unix_s) == (STORED, 12.5, pytest.approx(1e9, abs=2))
    assert 0 < told.confidence < meter.speeds(now_s, 1e9).confidence
    for _ in range(20):
        now_s = served(reborn, now_s, 10.0)
    assert reborn.decode_tokens_per_s == pytest.approx(10.0, rel=0.05), "what is seen outweighs what was remembered"
    assert reborn.speeds(now_s, 1e9).source == LEARNED


@pytest.mark.parametrize("apart_s", [0.0, 0.001, 0.5])
def test_embeddings_side_by_side_share_the_engine(apart_s: float) -> None:
    """1,000 tokens a second in all, however many are asked at once; those of one step end together."""
    meter, now_s = Meter(), 0.0
    for _ in range(10):
        begun = [meter.started(500, False, now_s) for _ in range(4)]
        for number, metered in enumerate(begun):
            now_s += 2.0 if number == 0 and apart_s < 0.5 else apart_s
            meter.answered_whole(metered, 500, 0, now_s)
            meter.ended(metered, now_s)
        now_s += 1.0
    assert meter.prefill_tokens_per_s == pytest.approx(1000, rel=0.05)


def test_a_clock_set_back_makes_no_future() -> None:
    meter, now_s = known()
    reborn = Meter()
    reborn.restore(meter.record(now_s, 2e9), 5.0, 1e9)
    assert reborn.speeds(5.0, 1e9).measured_unix_s == 1e9


@pytest.mark.parametrize(
    "values",
    [
        None, [], "x", {"prefill": None}, {"prefill": [], "decode": [], "loads_s": None},
        {"prefill": [[1, 2, 3]], "decode": [], "loads_s": []},
        {"prefill": [[1, float("nan"), 3, 4]], "decode": [], "loads_s": []},
        {"prefill": [[1, -1, 3, 4]], "decode": [], "loads_s": []},
        {"prefill": [[1, "1", 3, 4]], "decode": [], "loads_s": []},
        {"prefill": [[True, 1, 3, 4]], "decode": [], "loads_s": []},
        {"prefill": [], "decode": [[1, 1, 1e9, 1, 1]], "loads_s": []},
        {"prefill": [[1, 1, 1, 1]] * 100, "decode": [], "loads_s": []},
        {"prefill": [], "decode": [], "loads_s": [0]},
    ],
)  # fmt: skip
def test_a_record_that_was_never_written_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match=r"no |out of bounds"):
        from_plain(values)


def test_steps_beside_a_long_prompt_are_no_slower_machine() -> None:
    meter, now_s = known()
    stream = meter.started(100, True, now_s)
    meter.tokens(stream, 1, now_s + 0.2)
    now_s += 0.2
    prompt = meter.started(100_000, True, now_s)
    for _ in range(30):
        now_s += 0.3  # each step computes a part of the prompt, too
        meter.tokens(stream, 1, now_s)
        meter.settle(now_s)
    assert meter.factors == (1.0, 1.0)
    assert meter.decode_tokens_per_s == pytest.approx(50.0, rel=0.05), "as known, without the prompt"
    meter.tokens(prompt, 1, now_s)
    meter.ended(prompt, now_s)
    for _ in range(30):
        now_s += 0.3
        meter.tokens(stream, 1, now_s)
        meter.settle(now_s)
    assert meter.factors[1] > 10, "and without any prompt it is"


def test_what_the_engine_stored_is_a_better_guess() -> None:
    meter, now_s, stored = Meter(), 0.0, 0
    for _ in range(20):
        stream = meter.started(1000, True, now_s, told=False)
        meter.engine_computed(stored)
        stored += 100  # the rest was cached
        meter.tokens(stream, 1, now_s + 0.1)
        meter.engine_computed(stored)
        meter.ended(stream, now_s + 0.1)
        now_s += 1.0
    assert meter.prefill_tokens_per_s == pytest.approx(1000.0)
    told = meter.started(1000, True, now_s, told=False)
    meter.tokens(told, 1, now_s + 0.1)
    meter.told(told, 1000, 950)
    meter.engine_computed(stored + 100_000)
    assert meter.prefill_tokens_per_s == pytest.approx(1000.0, rel=0.05), "one that was told is no guess"


def test_a_long_prompt_is_stored_piece_by_piece() -> None:
    meter = Meter()
    stream = meter.started(4000, True, 0.0, told=False)
    for second in (1, 2, 3):
        meter.engine_computed(1000 * second)
    meter.tokens(stream, 1, 4.0)
    meter.engine_computed(4000)
    assert meter.prefill_tokens_per_s == pytest.approx(1000.0)


def test_a_prompt_of_which_nothing_was_stored_is_no_observation() -> None:
    meter = Meter()
    stream = meter.started(1000, True, 0.0, told=False)
    meter.tokens(stream, 1, 0.01)
    meter.engine_computed(0)
    assert meter.prefill_tokens_per_s == 0.0


def test_an_idle_machine_reports_the_same_whatever_its_clocks_do() -> None:
    meter, now_s = known()
    reports = {meter.speeds(now_s + wait_s, 1e9 + wait_s * 1.001) for wait_s in range(0, 600, 7)}
    assert len({report.measured_unix_s for report in reports}) == 1
    assert len(reports) < 5, "only its confidence fades"


def embeddings(meter: Meter, now_s: float, count: int, each_s: float, at_once: int = 1) -> float:
    """So many answers one after the other, of 500 tokens each, `at_once` of them under way; returns the end's time."""
    under_way = deque(meter.started(500, False, now_s) for _ in range(at_once))
    for _ in range(count):
        now_s += each_s
        metered = under_way.popleft()
        meter.answered_whole(metered, 500, 0, now_s)
        meter.ended(metered, now_s)
        under_way.append(meter.started(500, False, now_s))
    for metered in under_way:
        meter.ended(metered, now_s, complete=False)
    return now_s


@pytest.mark.parametrize("at_once", [1, 16])
def test_embeddings_that_never_stop_coming_are_measured(at_once: int) -> None:
    meter = Meter()
    metered = meter.started(500, False, 0.0)  # something is always under way
    now_s = embeddings(meter, 0.0, 1_000, 0.001, at_once)
    assert meter.prefill_tokens_per_s == pytest.approx(500_000, rel=0.1)
    embeddings(meter, now_s, 400, 0.003, at_once)
    assert meter.factors[0] == pytest.approx(3.0, rel=0.1), "three times as slow, for 1.2 s"
    meter.ended(metered, now_s + 1.0)


def test_embeddings_one_by_one_are_each_given_their_own_time() -> None:
    meter = Meter()
    embeddings(meter, 0.0, 500, 0.002)
    assert meter.prefill_tokens_per_s == pytest.approx(250_000, rel=0.05)


def test_a_prompts_work_is_its_length_factor_times_what_is_new() -> None:
    attention = attention_per_token("qwen2.5-7b")
    for prompt, cached in ((1, 0), (900, 0), (60_000, 0), (60_000, 59_000), (10, 10), (10, 12)):
        expected = round(max(0, prompt - cached) * length_factor(prompt, cached, attention))
        assert Meter(attention)._work(prompt, cached) == expected
