"""Policies that weigh prompt tokens to compute against the batch, without knowing how fast the machine is."""

from __future__ import annotations

from collections.abc import Sequence

from covey_scheduler.core.prediction import Question
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

DYNAMO_OVERLAP_WEIGHT = 1.0
"""Dynamo's default --kv-overlap-score-weight."""


def dynamo(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """NVIDIA Dynamo's KV router ("Router Design", cost function): weight x prefill blocks to compute there, this prompt
    included, + blocks that would be active for decoding."""
    prompt, block = question.ask.prompt_tokens, settings.tokens_per_block
    return [
        DYNAMO_OVERLAP_WEIGHT * (machine.prompt_tokens_ahead(question.now_s) + prompt - hit) / block
        + (machine.kv_tokens_held + prompt) / block
        for machine, hit in zip(machines, cached, strict=True)
    ]


def lmetric(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """Prompt tokens to compute there, this prompt's included, x batch with this one (LMetric, arXiv 2603.15202)."""
    prompt, now_s = question.ask.prompt_tokens, question.now_s
    return [
        (machine.prompt_tokens_ahead(now_s) + prompt - hit) * (machine.in_flight + 1)
        for machine, hit in zip(machines, cached, strict=True)
    ]


def lmetric_by_speed_squared(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """LMetric given what we measured: both factors as seconds."""
    speeds = (machine.prefill_s_per_token**2 for machine in machines)
    return [cost * squared for cost, squared in zip(lmetric(question, machines, cached, settings), speeds, strict=True)]
