"""How a gateway chooses alone while there is no leader: by its last view and its own requests in flight.

Two candidates are drawn with probability proportional to their speed for this ask, and the one less loaded for its
speed is taken: the power of two choices (Mitzenmacher, 2001) for unequal machines. Many gateways with the same old
view must not all pick the same machine, hence the draw; and a machine that looked full in an old view may be idle by
now, so nobody is left out for being busy: the node's own admission has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from covey_mesh.core.asking import Ask, Decision, Outcome
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core.clean_ask import clean_ask
from covey_scheduler.core.decisions import verdicts
from covey_scheduler.core.expectation import expected_output_tokens
from covey_scheduler.core.machine import Candidate, Machine, largest_context_tokens, machines_of
from covey_scheduler.core.policy import Ranked, Ranking, choose
from covey_scheduler.core.prediction import decode_s, prefill_s
from covey_scheduler.core.settings import SchedulerSettings

POLICY = "two-choices-by-speed"


def choose_alone(
    ask: Ask,
    view: PoolView,
    own_in_flight: Mapping[NodeId, int],
    random_unit: Callable[[], float],
    settings: SchedulerSettings | None = None,
) -> tuple[NodeId | None, Decision]:
    """The machine for this attempt (None: no machine passes the filters), and the record of why.

    `random_unit` gives numbers from [0, 1). The decision's outcome is ASSIGNED or NO_CANDIDATE, never QUEUED; its
    `decided_at_unix_s` is 0: who keeps it stamps it.
    """
    settings = settings or SchedulerSettings()
    ask = clean_ask(ask)
    machines = machines_of(ask.model, view.members)
    largest = largest_context_tokens(machines)
    candidates = [_candidate(machine, ask, own_in_flight, largest, settings) for machine in machines]
    ranking = choose(ask, candidates, settings)
    passed = (*ranking.free, *ranking.waiting_for)
    chosen = _pick(ask, passed, random_unit, settings) if passed else None
    return chosen, _record(ask, view, ranking, chosen, settings)


def _candidate(
    machine: Machine, ask: Ask, own_in_flight: Mapping[NodeId, int], largest: int, settings: SchedulerSettings
) -> Candidate:
    if machine.load is None:
        return Candidate(machine)
    # A report may include some of this gateway's own requests: count what it cannot include.
    unseen = max(0, own_in_flight.get(machine.node_id, 0) - machine.load.running_requests)
    tokens = unseen * expected_output_tokens(ask, machine.load.task, settings)
    return Candidate(machine, reserved_requests=unseen, reserved_tokens=tokens, largest_context_tokens=largest)


def _pick(
    ask: Ask, passed: Sequence[Ranked], random_unit: Callable[[], float], settings: SchedulerSettings
) -> NodeId | None:
    weights = [1.0 / idle_s(ask, each.candidate, settings) for each in passed]
    first = weighted_index(weights, random_unit())
    if len(passed) == 1:
        return passed[0].candidate.machine.node_id
    weights[first] = 0.0
    second = weighted_index(weights, random_unit())
    best = min((passed[first], passed[second]), key=lambda each: each.prediction.last_token_s)
    return best.candidate.machine.node_id


def idle_s(ask: Ask, candidate: Candidate, settings: SchedulerSettings) -> float:
    """Seconds that the machine would need for this ask if it did nothing else."""
    idle = Candidate(candidate.machine, cached_tokens=candidate.cached_tokens)
    return max(1e-6, prefill_s(ask, idle, settings) + decode_s(ask, idle, settings))


def weighted_index(weights: Sequence[float], unit: float) -> int:
    """The index whose share of the weights' sum holds `unit` of [0, 1)."""
    left = unit * sum(weights)
    last = 0
    for index, weight in enumerate(weights):
        if weight <= 0:
            continue
        last = index
        if left < weight:
            return index
        left -= weight
    return last


def _record(ask: Ask, view: PoolView, ranking: Ranking, chosen: NodeId | None, settings: SchedulerSettings) -> Decision:
    return Decision(
        request_id=ask.request_id,
        attempt=ask.attempt,
        model=ask.model,
        decided_at_unix_s=0.0,
        decided_by="gateway",
        decider=view.self_id,
        outcome=Outcome.NO_CANDIDATE if chosen is None else Outcome.ASSIGNED,
        policy=POLICY,
        ballot=view.ballot,
        view_version=view.version,
        chosen=chosen,
        queued_for_s=ask.waited_s,
        candidates=verdicts(ranking, settings.candidates_recorded_max),
    )
