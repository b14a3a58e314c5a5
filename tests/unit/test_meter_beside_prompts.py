"""Speeds measured beside the prompts of answers in one piece, of whose first token nobody is told."""

from __future__ import annotations

import pytest

from covey_node.core.meter import Meter


def calibrated_with_long_prompts() -> Meter:
    """4,000 prompt tokens a second; 50 tokens a second of one stream."""
    meter = Meter()
    for number in range(4):
        begin_s = 10.0 * number
        stream = meter.started(1000, True, begin_s)
        meter.tokens(stream, 1, begin_s + 0.25)
        for token in range(1, 65):
            meter.tokens(stream, 1, begin_s + 0.25 + token * 0.02)
        meter.ended(stream, begin_s + 0.25 + 64 * 0.02)
    return meter


def test_answers_in_one_piece_beside_others_prompts_are_no_sign_of_a_slower_machine() -> None:
    """Five at once: each waits for five prompts of a second each, and decodes beside them."""
    meter = calibrated_with_long_prompts()
    for round_ in range(6):
        begin_s = 100.0 + 10.0 * round_
        wholes = [meter.started(4000, False, begin_s) for _ in range(5)]
        for number, whole in enumerate(wholes):
            meter.answered_whole(whole, 4000, 100, begin_s + 7.0 + 0.1 * number)
            meter.ended(whole, begin_s + 7.0 + 0.1 * number)
        meter.settle(begin_s + 9.0)
    assert meter.factors == (1.0, 1.0)
    assert meter.prefill_tokens_per_s == pytest.approx(4000.0)


def test_a_prompt_behind_those_of_answers_in_one_piece_tells_no_speed() -> None:
    meter = calibrated_with_long_prompts()
    for number in range(6):
        begin_s = 100.0 + 10.0 * number
        whole = meter.started(4000, False, begin_s)
        stream = meter.started(1000, True, begin_s + 0.1)
        meter.tokens(stream, 1, begin_s + 1.25)
        meter.ended(stream, begin_s + 1.25)
        meter.answered_whole(whole, 4000, 10, begin_s + 1.5)
        meter.ended(whole, begin_s + 1.5)
    assert meter.factors[0] == 1.0
    assert meter.prefill_tokens_per_s == pytest.approx(4000.0)


def test_a_slower_machine_is_noticed_by_answers_in_one_piece_although_their_own_prompts_are_long() -> None:
    meter = calibrated_with_long_prompts()
    for number in range(8):
        begin_s = 100.0 + 5.0 * number
        whole = meter.started(1000, False, begin_s)
        meter.answered_whole(whole, 1000, 32, begin_s + 0.25 + 32 * 0.06)
        meter.ended(whole, begin_s + 0.25 + 32 * 0.06)
        meter.settle(begin_s + 4.0)
    assert meter.factors[1] > 2.0
