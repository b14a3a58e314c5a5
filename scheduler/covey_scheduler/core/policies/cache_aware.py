"""Policies that follow the prefix cache while load is even, and the load when it is not."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from covey_scheduler.core.policies.load_only import NEVER, join_shortest_queue
from covey_scheduler.core.prediction import Question
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

SGLANG_BALANCE_ABSOLUTE = 64
SGLANG_BALANCE_RELATIVE = 1.5
SGLANG_MATCH_MIN = 0.5
"""sglang-router's defaults: --balance-abs-threshold, --balance-rel-threshold, --cache-threshold."""

AIBRIX_SPREAD_MAX = 8
AIBRIX_DEVIATIONS = 1.0
"""AIBrix' defaults: AIBRIX_PREFIX_CACHE_POD_RUNNING_REQUEST_IMBALANCE_ABS_COUNT, ..._STANDARD_DEVIATION_FACTOR."""


def sglang(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """sglang-router's (and vllm-router's) cache_aware: shortest queue when out of balance; else the longest match if it
    is long enough, else the smallest tree."""
    loads = [machine.in_flight for machine in machines]
    low, high = min(loads), max(loads)
    if high - low > SGLANG_BALANCE_ABSOLUTE and high > SGLANG_BALANCE_RELATIVE * low:
        return join_shortest_queue(question, machines, cached, settings)
    if max(cached) > SGLANG_MATCH_MIN * question.ask.prompt_tokens:
        return [-float(hit) for hit in cached]
    return [float(machine.indexed_blocks) for machine in machines]


def aibrix(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """AIBrix' prefix-cache: fewest requests when they spread too far; else the longest match (fewest requests among
    equals) whose load is at most one standard deviation above the mean; else fewest requests."""
    loads = [machine.in_flight for machine in machines]
    highest = statistics.fmean(loads) + AIBRIX_DEVIATIONS * statistics.pstdev(loads)
    matched = [hit > 0 and load <= highest for hit, load in zip(cached, loads, strict=True)]
    if max(loads) - min(loads) > AIBRIX_SPREAD_MAX or not any(matched):
        return join_shortest_queue(question, machines, cached, settings)
    requests_max = max(loads) + 1
    return [
        load - hit * requests_max if matches else NEVER
        for hit, load, matches in zip(cached, loads, matched, strict=True)
    ]
