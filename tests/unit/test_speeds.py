"""What is made of observations of speed: each formula by a table, and no single value that moves anything."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey_node.core import robust
from covey_node.core.change import ADOPTED_AFTER_S, FORGOTTEN_AFTER_S, LIMIT_FACTOR_MAX, RUN, Change, limit_factor
from covey_node.core.decode_speed import SLOT_S, DecodeSpeed
from covey_node.core.observations import TOLD_ENOUGH, Observation, Window, confidence, sound
from covey_node.core.prefill_speed import PrefillSpeed

# --- robust estimates


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(1.0, 1.0)], 1.0),
        ([(1.0, 1.0), (3.0, 1.0)], 2.0),
        ([(1.0, 1.0), (2.0, 1.0), (9.0, 1.0)], 2.0),
        ([(1.0, 5.0), (2.0, 1.0), (9.0, 1.0)], 1.0),
        ([(9.0, 1.0), (1.0, 1.0), (2.0, 5.0)], 2.0),
    ],
)
def test_weighted_median(pairs: list[tuple[float, float]], expected: float) -> None:
    assert robust.weighted_median(pairs) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], (5.0, 0.0)),
        ([1.0, 1.0, 1.0, 1.0, 1000.0], (1.0, 0.0)),
        ([2.0, 4.0], (3.0, 1.4826)),
        # Within 1.5 deviations of the median it is the mean.
        ([9.0, 10.0, 11.0], (10.0, 1.4826)),
        # 100 counts as 3 + 1.5 x 1.4826.
        ([1.0, 2.0, 3.0, 4.0, 100.0], ((1 + 2 + 3 + 4 + 3 + 1.5 * 1.4826) / 5, 1.4826)),
    ],
)
def test_location(values: list[float], expected: tuple[float, float]) -> None:
    assert robust.location([(v, 1.0) for v in values]) == pytest.approx(expected)


@given(st.lists(st.floats(0.9, 1.1), min_size=9, max_size=40), st.floats(0, 1e12), st.floats(0.001, 1e6))
def test_one_value_of_any_size_and_weight_moves_little(values: list[float], absurd: float, weight: float) -> None:
    weights = robust.even([1.0] * len(values) + [weight])
    estimate, _ = robust.location(list(zip([*values, absurd], weights, strict=True)))
    assert 0.85 < estimate < 1.15


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], None),
        ([(1, 1)], None),
        ([(1, 1), (1, 5)], None),
        ([(1, 1), (3, 2)], 0.5),
        ([(1, 1), (2, 2), (3, 90)], 44.5),
    ],
)
def test_slope(points: list[tuple[float, float]], expected: float | None) -> None:
    assert robust.slope(points) == expected


def test_slope_passes_over_one_wrong_point() -> None:
    points = [(float(x), 2.0 + 0.5 * x) for x in range(8)]
    points[3] = (3.0, 1e9)
    assert robust.slope(points) == pytest.approx(0.5)


# --- a window of observations


def window(*paces: float, told: bool = True, work: float = 10.0) -> Window:
    made = Window(48)
    for number, pace in enumerate(paces):
        made.add(Observation(work, pace * work, float(number), told))
    return made


def test_an_estimate_needs_something_to_estimate() -> None:
    assert Window(4).estimate() is None


def test_a_few_new_observations_do_not_yet_outweigh_many_and_many_do() -> None:
    few = window(*[1.0] * 20, *[50.0] * 3).estimate()
    many = window(*[1.0] * 20, *[50.0] * 30).estimate()
    assert few is not None
    assert many is not None
    assert (few.pace, many.pace) == pytest.approx((1.0, 50.0))


@pytest.mark.parametrize("absurd", [1e-12, 1e12])
def test_one_absurd_observation_changes_nothing(absurd: float) -> None:
    estimate = window(*[1.0] * 3, absurd, *[1.0] * 2).estimate()
    assert estimate is not None
    assert (estimate.pace, estimate.spread) == (1.0, 0.0)


def test_guesses_do_not_count_beside_certain_ones() -> None:
    mixed = window(*[0.1] * 20, told=False)
    for number in range(TOLD_ENOUGH):
        estimate = mixed.estimate()
        assert estimate is not None
        assert estimate.pace == pytest.approx(0.1)
        mixed.add(Observation(10.0, 10.0, 100.0 + number))
    estimate = mixed.estimate()
    assert estimate is not None
    assert estimate.pace == 1.0


@pytest.mark.parametrize(
    ("work", "seconds"), [(0, 1.0), (-1, 1.0), (5, 0.0), (5, -1.0), (5, math.nan), (5, math.inf), (math.nan, 1.0)]
)
def test_what_cannot_be_true_says_nothing(work: float, seconds: float) -> None:
    assert not sound(work, seconds)
    prefill = PrefillSpeed()
    assert prefill.observe(work, seconds, 1.0, step_s=0.0, told=True) is None
    decode = DecodeSpeed()
    if isinstance(work, int):
        decode.sample(work, seconds, 1, 1, 1.0)
    assert (prefill.tokens_per_s, decode.step_s(1)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("observations", "spread", "age_s", "expected"),
    [(0, 0, 0, 0.0), (3, 0, 0, 0.5), (27, 0, 0, 0.9), (27, 1, 0, 0.45), (27, 0, 86_400, 0.45), (27, 0, -5, 0.9)],
)
def test_confidence(observations: int, spread: float, age_s: float, expected: float) -> None:
    assert confidence(observations, spread, age_s) == pytest.approx(expected)


# --- the fast path


@pytest.mark.parametrize(("spread", "expected"), [(0.0, 1.3), (0.1, 1.3), (0.5, 2.0), (9.0, LIMIT_FACTOR_MAX)])
def test_limit_of_a_change(spread: float, expected: float) -> None:
    assert limit_factor(spread) == expected


def told(ratios: list[float], step_s: float = 0.5, change: Change | None = None, from_s: float = 0.0) -> list[float]:
    change = change or Change()
    factors = []
    for number, ratio in enumerate(ratios):
        now_s = from_s + number * step_s
        change.observe(ratio, 0.0, now_s)
        factors.append(change.factor(now_s))
    return factors


@pytest.mark.parametrize(
    ("ratios", "factors"),
    [
        ([1.0, 1.0, 4.0, 4.0, 4.0], [1, 1, 1, 1, 4]),  # slower, told with the third
        ([1.0, 1.0, 50.0, 1.0, 1.0], [1, 1, 1, 1, 1]),  # a stall
        ([1.0, 50.0, 50.0, 1.0, 50.0], [1, 1, 1, 1, 1]),
        ([4.0, 5.0, 3.0, 1.0, 1.0, 1.0], [1, 1, 4, 4, 4, 1]),  # and back
        ([0.5, 0.5, 0.5], [1, 1, 0.5]),  # faster
        ([1.2, 1.2, 1.2, 1.2], [1, 1, 1, 1]),  # too little to tell
        ([4.0, 0.2, 4.0, 0.2], [1, 1, 1, 1]),  # no run
        ([2.0, 2.0, 2.0, 6.0, 6.0], [1, 1, 2, 2, 6]),  # slower still
        (
            [4.0, 4.0, 4.0, 1.0, 9.0, 1.0, 1.0],
            [1, 1, 4, 4, 4, 4, 1],
        ),  # back, though a stall comes between
        ([4.0, 4.0, 4.0, 1.0, 4.0, 1.0, 4.0], [1, 1, 4, 4, 4, 4, 4]),  # not back: most are slow
    ],
)
def test_a_run_is_a_change(ratios: list[float], factors: list[float]) -> None:
    assert told(ratios) == factors


def test_a_change_that_lasts_is_adopted_and_one_not_confirmed_is_over() -> None:
    change = Change()
    told([4.0] * RUN, change=change)
    assert change.factor(1.0 + FORGOTTEN_AFTER_S) == 4.0
    assert change.factor(1.5 + FORGOTTEN_AFTER_S) == 1.0
    adopted = [change.observe(4.0, 0.0, 10.0 + n) for n in range(int(ADOPTED_AFTER_S) + 2)]
    assert [each for each in adopted if each is not None] == [4.0]


def test_what_comes_without_confirming_a_change_does_not_keep_it() -> None:
    change = Change()
    told([4.0] * RUN, change=change)
    mixed = told([4.0, 0.2] * int(FORGOTTEN_AFTER_S), change=change, from_s=2.0, step_s=1.0)
    assert mixed[:50] == [4.0] * 50
    assert mixed[-50:] == [1.0] * 50


@given(st.lists(st.floats(0, 1e30) | st.just(math.inf), max_size=30))
def test_a_factor_is_always_a_believable_number(ratios: list[float]) -> None:
    assert all(1e-3 <= factor <= 1e3 for factor in told(ratios))


# --- prompts


def prefill_of(*lengths: int, fixed_s: float = 0.02, pace_s: float = 0.001) -> PrefillSpeed:
    speed = PrefillSpeed()
    for number, length in enumerate(lengths):
        speed.observe(length, fixed_s + length * pace_s, float(number), step_s=0.0, told=True)
    return speed


def test_prefill_by_length() -> None:
    speed = prefill_of(*[10] * 5, *[100] * 5, *[1000] * 5)
    assert [p.prompt_tokens for p in speed.points()] == [10, 100, 1000]
    assert [p.tokens_per_s for p in speed.points()] == pytest.approx([10 / 0.03, 100 / 0.12, 1000 / 1.02])


@pytest.mark.parametrize(("work", "expected_s"), [(10, 0.03), (100, 0.12), (1, 0.003), (10_000, 10.2), (0, 0.0)])
def test_expected_time_of_a_prompt(work: int, expected_s: float) -> None:
    expected = prefill_of(*[10] * 3, *[100] * 3, *[1000] * 3).expected_s(work) if work else PrefillSpeed().expected_s(5)
    assert expected == pytest.approx(expected_s)


def test_expected_time_between_two_lengths_lies_between() -> None:
    speed = prefill_of(*[100] * 3, *[1000] * 3)
    assert 0.12 < speed.expected_s(300) < 1.02
    assert speed.expected_s(300) == pytest.approx(0.32, rel=0.1)


def test_other_lengths_are_no_change() -> None:
    speed = prefill_of(*[1000] * 10, *[12] * 10, *[1000, 12] * 5)
    assert speed.change.factor(100.0) == 1.0


def test_a_prompt_beside_many_streams_says_nothing_of_a_change() -> None:
    speed = prefill_of(*[100] * 30)
    for number in range(3):
        speed.observe(100, 0.5, 30.0 + number, step_s=0.1, told=True)
    assert speed.change.factor(33.0) == 1.0
    for number in range(3):
        speed.observe(100, 0.5, 40.0 + number, step_s=0.001, told=True)
    assert speed.change.factor(43.0) > 2.0


def test_a_prompt_that_may_have_been_cached_is_no_sign_of_a_faster_machine() -> None:
    speed = prefill_of(*[100] * 10)
    for number in range(5):
        speed.observe(100, 0.01, 10.0 + number, step_s=0.0, told=False)
    assert speed.change.factor(15.0) == 1.0
    assert speed.tokens_per_s == pytest.approx(100 / 0.12)


def test_an_observation_is_corrected_when_the_engine_tells() -> None:
    speed = PrefillSpeed()
    seen = [speed.observe(1000, 0.1, float(n), step_s=0.0, told=False) for n in range(3)]
    assert speed.tokens_per_s == pytest.approx(10_000)
    for observation in seen:
        assert observation is not None
        speed.correct(observation, 100)
    assert speed.tokens_per_s == pytest.approx(1000)
    assert [p.prompt_tokens for p in speed.points()] == [100]


@pytest.mark.parametrize(
    ("seconds", "expected_s"),
    [
        (1.02, 1.02),  # as the line through the others would have it
        (60.0, 1.2),  # a stall: no more time a token than the shorter ones
        (1e-5, 0.12),  # absurd: no less time than the shorter ones
    ],
)
def test_a_length_seen_once_is_believed_as_far_as_the_others_allow(seconds: float, expected_s: float) -> None:
    speed = prefill_of(*[10] * 5, *[100] * 5)
    speed.observe(1000, seconds, 99.0, step_s=0.0, told=True)
    assert speed.points()[-1] == (1000, pytest.approx(1000 / expected_s))
    assert speed.expected_s(1000) == pytest.approx(expected_s)


def test_many_short_prompts_do_not_hide_how_fast_long_ones_are() -> None:
    speed = prefill_of(*[4000] * 3, *[10] * 100)
    assert speed.tokens_per_s == pytest.approx(1000, rel=0.05)


# --- steps


def decode_of(*batches: int, alone_s: float = 0.02, slowdown: float = 0.05) -> tuple[DecodeSpeed, float]:
    speed, now_s = DecodeSpeed(), 0.0
    for batch in batches:
        for _ in range(4):
            now_s += SLOT_S
            step_s = alone_s * (1 + slowdown * (batch - 1))
            speed.sample(round(SLOT_S / step_s) * batch, round(SLOT_S / step_s) * batch * step_s, batch, 100, now_s)
        speed.close(now_s)
    return speed, now_s


def test_steps_by_batch_and_their_slowdown() -> None:
    speed, _ = decode_of(1, 8, 32)
    assert [p.batch for p in speed.points()] == [1, 8, 32]
    assert [p.step_s for p in speed.points()] == pytest.approx([0.02, 0.027, 0.051])
    assert speed.slowdown == pytest.approx(0.05)


@pytest.mark.parametrize("batch", [1, 2, 5, 8, 20, 32, 64])
def test_a_step_of_any_batch(batch: int) -> None:
    speed, _ = decode_of(1, 8, 32)
    assert speed.step_s(batch) == pytest.approx(0.02 * (1 + 0.05 * (batch - 1)), rel=0.02)


def test_one_batch_size_tells_no_slowdown() -> None:
    speed, _ = decode_of(4)
    assert speed.slowdown is None
    assert speed.step_s(1) == pytest.approx(0.02 * 1.15 / 1.21)


def test_context_has_its_own_rows() -> None:
    speed, now_s = decode_of(1)
    for number in range(4):
        speed.sample(10, 0.6, 1, 20_000, now_s + number)
    speed.close(now_s + 4)
    assert [(p.context_tokens, round(p.step_s, 3)) for p in speed.points()] == [(100, 0.02), (20_000, 0.06)]


def test_a_stall_of_all_streams_is_one_observation() -> None:
    speed, now_s = decode_of(1, 32)
    before = speed.step_s(32)
    for _ in range(32):
        speed.sample(1, 3.0, 32, 100, now_s + 3.0)
    for number in range(10):
        now = now_s + 3.0 + number * 0.1
        speed.sample(64, 64 * before, 32, 100, now)
        assert speed.change.factor(now) == 1.0
    assert speed.step_s(32) == pytest.approx(before, rel=0.01)


@pytest.mark.parametrize("factor", [0.3, 2.0, 10.0])
def test_a_lasting_change_is_noticed_then_known_everywhere(factor: float) -> None:
    speed, now_s = decode_of(1, 32)
    began_s, noticed_s = now_s, 0.0
    while now_s < began_s + ADOPTED_AFTER_S + 10:
        now_s += SLOT_S
        speed.sample(16, 16 * 0.02 * factor, 1, 100, now_s)
        if not noticed_s and speed.change.factor(now_s) != 1.0:
            noticed_s = now_s - began_s
            assert speed.change.factor(now_s) == pytest.approx(factor)
            assert speed.step_s(1) == pytest.approx(0.02), "what is known stays, until the change has lasted"
    assert noticed_s <= 2.0
    assert speed.change.factor(now_s) == 1.0
    assert speed.step_s(1) == pytest.approx(0.02 * factor)
    assert speed.step_s(32) == pytest.approx(0.051 * factor)


def test_noise_is_no_change() -> None:
    dice = random.Random(7)
    speed, now_s = DecodeSpeed(), 0.0
    for _ in range(2000):
        now_s += SLOT_S
        step_s = 0.02 * dice.lognormvariate(0, 0.2)
        speed.sample(16, 16 * step_s, 1, 100, now_s)
        assert 0.5 < speed.change.factor(now_s) < 2.0
    assert speed.step_s(1) == pytest.approx(0.02, rel=0.15)


def test_where_answers_come_fast_a_full_windows_estimate_is_worked_out_now_and_then() -> None:
    window = Window(16, estimated_every_s=0.1)
    now_s = 0.0
    for number in range(16):
        now_s += 0.001
        assert window.add(Observation(100, 0.5, now_s)), "until it is full, each counts at once"
        estimate = window.estimate()
        assert estimate is not None
        assert estimate.observations == number + 1
    kept = window.estimate()
    for _ in range(50):
        now_s += 0.001
        assert not window.add(Observation(100, 1.0, now_s))
    assert window.estimate() is kept
    assert window.refresh()
    assert not window.refresh()
    slower = window.estimate()
    assert slower is not None
    assert slower.pace == pytest.approx(0.01)
    assert window.add(Observation(100, 1.0, now_s + 0.2)), "time has passed"


@pytest.mark.parametrize("apart_s", [0.001, 0.02, 1.0])
def test_a_change_is_told_as_soon_however_fast_answers_come(apart_s: float) -> None:
    speed, now_s = PrefillSpeed(), 0.0
    for _ in range(200):
        now_s += apart_s
        speed.observe(1000, 0.1, now_s, step_s=0.0, told=True)
    for _ in range(RUN):
        assert speed.change.factor(now_s) == 1.0
        now_s += apart_s
        speed.observe(1000, 0.3, now_s, step_s=0.0, told=True)
    assert speed.change.factor(now_s) == pytest.approx(3.0)


def test_what_came_last_counts_once_time_has_passed() -> None:
    speed = PrefillSpeed()
    for number in range(16):
        speed.observe(1000, 0.1, 1.0 + number / 1000, step_s=0.0, told=True)
    assert speed.tokens_per_s == pytest.approx(10_000)
    for number in range(16):
        speed.observe(1000, 0.12, 1.02 + number / 1000, step_s=0.0, told=True)
    speed.refresh()
    assert speed.tokens_per_s == pytest.approx(1000 / 0.12)
    assert speed.expected_s(1000) == pytest.approx(0.12)


def test_a_step_alone_is_as_last_seen() -> None:
    speed = DecodeSpeed()
    assert speed.step_s(1) == 0.0
    for number, step_s in enumerate((0.02, 0.021, 0.019, 0.02, 0.05, 0.05, 0.05, 0.05, 0.05)):
        speed.sample(50, 50 * step_s, 1.0, 100.0, float(number))
        again = DecodeSpeed()
        for earlier in speed.memory():
            again.restore(earlier.batch, earlier.context, earlier.step_s, earlier.observations, earlier.at_unix_s)
        if number:
            assert speed.step_s(1) == pytest.approx(again.step_s(1))
