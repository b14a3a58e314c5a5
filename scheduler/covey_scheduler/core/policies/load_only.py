"""Policies of ordinary load balancers: they count requests and know nothing of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from covey_scheduler.core.prediction import Question
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

NEVER = float("inf")
"""Cost of a machine that the policy does not look at."""


def round_robin(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """Each in turn: nginx's and most gateways' default."""
    count = len(machines)
    return [float((index - question.turn) % count) for index in range(count)]


def join_shortest_queue(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """Fewest requests in flight (nginx's least_conn): Winston, "Optimality of the shortest line discipline", 1977."""
    return [float(machine.in_flight) for machine in machines]


def join_shortest_queue_by_speed(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """Requests in flight with this one / speed: JSQ given what we measured (nginx's least_conn with true weights)."""
    return [(machine.in_flight + 1) * machine.prefill_s_per_token for machine in machines]


def power_of_two(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """The less loaded of two drawn at random (sglang-router, Ray Serve): Mitzenmacher, "The power of two choices".

    Drawn by a hash of the turn, so that the same question gives the same answer.
    """
    count = len(machines)
    draw = int.from_bytes(blake2b(question.turn.to_bytes(8, "big"), digest_size=8).digest(), "big")
    first, second = draw % count, (draw >> 32) % max(1, count - 1)
    second += second >= first
    return [float(m.in_flight) if index in (first, second) else NEVER for index, m in enumerate(machines)]
