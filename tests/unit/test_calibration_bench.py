"""Fitting the engine model: it finds the numbers that made the measurements, and never a negative time."""

from __future__ import annotations

import math

import pytest
from bench.calibration.comparing import Times, compare, ratio_lines
from bench.calibration.fitting import DecodeTime, PromptTime, fit, solve
from bench.routing.engine import EngineProfile

PROFILE = EngineProfile(
    step_s=0.006, prompt_step_s=0.01, prompt_token_s=2e-5, attention_s=1e-9, stream_s=1e-5, context_token_s=1e-7
)


def first_token_s(tokens: int) -> float:
    steps = math.ceil(tokens / PROFILE.chunk_tokens)
    per_step = steps * (PROFILE.step_s + PROFILE.prompt_step_s)
    return per_step + tokens * PROFILE.prompt_token_s + PROFILE.attention_s * tokens**2 / 2


def test_the_fit_finds_what_made_the_measurements() -> None:
    prompts = [PromptTime(tokens, first_token_s(tokens)) for tokens in (100, 1000, 3000, 9000, 40_000)]
    decodes = [
        DecodeTime(k, c, PROFILE.step_s + PROFILE.stream_s * k + PROFILE.context_token_s * k * c)
        for k, c in ((1, 300), (8, 300), (32, 300), (1, 20_000), (8, 4000))
    ]
    found = fit(prompts, decodes, EngineProfile())
    for name in ("step_s", "prompt_step_s", "prompt_token_s", "attention_s", "stream_s", "context_token_s"):
        assert getattr(found, name) == pytest.approx(getattr(PROFILE, name), rel=1e-6), name
    assert found.kv_tokens == EngineProfile().kv_tokens


def test_no_time_is_negative() -> None:
    assert solve([(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)], [3.0, 2.0, 1.0])[1] == 0.0


def test_errors_are_of_the_model_against_the_real_thing() -> None:
    figures = compare([Times(1.0, 4.0), Times(3.0, 6.0)], [Times(1.0, 5.0), Times(2.0, 6.0)])
    assert [round(each.error, 3) for each in figures] == [-0.25, -0.25, -0.333, 0.1]
    assert ratio_lines("x", figures)[0] == "ratio calibration_x_mean_ttft 0.750"
