import pytest

from covey_node.core.meter import DECODE_SAMPLE_TOKENS, Meter, Speed


def test_nothing_measured_is_zero() -> None:
    meter = Meter()
    assert (meter.prefill_tokens_per_s, meter.decode_tokens_per_s) == (0.0, 0.0)


def test_speed_is_a_ratio_of_sums() -> None:
    speed = Speed()
    speed.sample(100, 1.0)
    assert speed.tokens_per_s == pytest.approx(100.0)
    speed.sample(100, 3.0)
    assert speed.tokens_per_s == pytest.approx((0.9 * 100 + 100) / (0.9 * 1 + 3))


@pytest.mark.parametrize(("tokens", "seconds"), [(0, 1.0), (5, 0.0), (-1, 1.0), (5, -1.0)])
def test_samples_that_say_nothing_are_ignored(tokens: int, seconds: float) -> None:
    speed = Speed()
    speed.sample(tokens, seconds)
    assert speed.tokens_per_s == 0.0


def test_one_outlier_moves_the_estimate_by_a_bounded_step() -> None:
    speed = Speed()
    for _ in range(20):
        speed.sample(100, 1.0)
    speed.sample(100, 1000.0)
    assert 70.0 < speed.tokens_per_s < 100.0
    speed.sample(100, 1e-5)
    assert speed.tokens_per_s < 130.0


def test_a_lasting_change_is_followed() -> None:
    speed = Speed()
    for _ in range(20):
        speed.sample(100, 1.0)
    for _ in range(60):
        speed.sample(100, 50.0)
    assert speed.tokens_per_s == pytest.approx(2.0, rel=0.05)


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
    assert meter.decode_tokens_per_s == 0.0
    meter.ended(stream, 3.0)
    assert meter.decode_tokens_per_s == pytest.approx(2.0)


def test_whole_answers_are_split_by_known_prefill() -> None:
    meter = Meter()
    first = meter.started(100, True, 0.0)
    meter.tokens(first, 1, 1.0)
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
