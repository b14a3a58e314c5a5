"""Scheduling policies, ours and those of other routers, as pure functions of one signature; POLICIES names them all.

    costs(question, machines, cached, settings) -> one number a machine; the lowest wins

`machines` passed every filter; `cached` are the prompt's tokens expected in each one's prefix cache. To add a policy:
write the function, with its source, and add a row. Not here: filters, ties, the queue (policy.py, scheduler.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from covey_scheduler.core.policies import cache_aware, load_only, products
from covey_scheduler.core.policies.predicted import predicted
from covey_scheduler.core.prediction import Question
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

Costs = Callable[[Question, Sequence[Standing], Sequence[int], SchedulerSettings], list[float]]


@dataclass(frozen=True, slots=True)
class Policy:
    """`late_binding`: an ask waits in the leader's queue until its machine can start it soon; else it is sent at once.
    `speed_aware`: it reads measured speeds. `ties_s`: costs are seconds, nearly equal ones take turns."""

    name: str
    costs: Costs
    late_binding: bool = False
    speed_aware: bool = False
    ties_s: bool = False


PREDICTED = Policy("predicted", predicted, late_binding=True, speed_aware=True, ties_s=True)

POLICIES: Mapping[str, Policy] = {
    each.name: each
    for each in (
        PREDICTED,
        Policy("round-robin", load_only.round_robin),
        Policy("jsq", load_only.join_shortest_queue),
        Policy("jsq-speed", load_only.join_shortest_queue_by_speed, speed_aware=True),
        Policy("power-of-two", load_only.power_of_two),
        Policy("cache-aware", cache_aware.sglang),
        Policy("aibrix", cache_aware.aibrix),
        Policy("dynamo", products.dynamo),
        Policy("lmetric", products.lmetric),
        Policy("lmetric-speed2", products.lmetric_by_speed_squared, speed_aware=True),
    )
}


def policy_named(name: str) -> Policy:
    """Raises ValueError, with the names that exist."""
    policy = POLICIES.get(name)
    if policy is None:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, not {name!r}")
    return policy
