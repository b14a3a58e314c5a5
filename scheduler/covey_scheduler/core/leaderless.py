"""How a gateway chooses alone while there is no leader: by its last view and its own requests in flight.

Two candidates are drawn with probability proportional to their speed for this ask, and the one less loaded for its
speed is taken: the power of two choices (Mitzenmacher, 2001) for unequal machines. Many gateways with the same old
view must not all pick the same machine, hence the draw; and a machine that looked full in an old view may be idle by
now, so nobody is left out for being busy: the node's own admission has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from covey_mesh.core.asking import TURNED_AWAY_DEADLINE, Ask, Decision, Outcome
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core.clean_ask import clean_ask
from covey_scheduler.core.deadlines import hopeless
from covey_scheduler.core.decisions import verdicts
from covey_scheduler.core.expectation import expected_output_tokens
from covey_scheduler.core.filters import Rejection, rejection_of
from covey_scheduler.core.machine import Candidate, Machine, largest_context_tokens, machines_of
from covey_scheduler.core.policies import PREDICTED
from covey_scheduler.core.policy import Ranking, rank
from covey_scheduler.core.prediction import Question
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing, prompts_left_s, standing_of

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
    ranking = _ranking(ask, candidates, settings)
    if ask.deadline_s and _never_in_time(ask, ranking):
        return None, _record(ask, view, ranking, None, settings, TURNED_AWAY_DEADLINE)
    chosen = _pick(ranking, random_unit) if ranking.machines else None
    return chosen, _record(ask, view, ranking, chosen, settings)


def _candidate(
    machine: Machine, ask: Ask, own_in_flight: Mapping[NodeId, int], largest: int, settings: SchedulerSettings
) -> Candidate:
    if machine.load is None:
        return Candidate(machine)
    load = machine.load
    # A report may include some of this gateway's own requests: count what it cannot include.
    unseen = max(0, own_in_flight.get(machine.node_id, 0) - load.running_requests)
    tokens = unseen * (ask.prompt_tokens + expected_output_tokens(ask, load.task, settings))
    unseen_s = unseen * ask.prompt_tokens / machine.speeds.prefill_tokens_per_s
    theirs_s = prompts_left_s(machine, load.running_requests + load.waiting_requests)
    return Candidate(machine, unseen, tokens, theirs_s + unseen_s, largest_context_tokens=largest)


def _ranking(ask: Ask, candidates: Sequence[Candidate], settings: SchedulerSettings) -> Ranking:
    """The moment is second 0 of a clock of its own."""
    rejections = [rejection_of(ask, candidate) for candidate in candidates]
    passed = [
        standing_of(candidate, settings)
        for candidate, rejection in zip(candidates, rejections, strict=True)
        if rejection is None
    ]
    rejected: list[Rejection] = [rejection for rejection in rejections if rejection is not None]
    output = expected_output_tokens(ask, passed[0].load.task, settings) if passed else 0
    return rank(Question(ask, output, 0.0), passed, [0] * len(passed), rejected, PREDICTED, settings)


def _never_in_time(ask: Ask, ranking: Ranking) -> bool:
    """Not even on an idle machine: how busy they are, an old view does not know."""
    late = hopeless(ranking, ask.deadline_s)
    return late is not None and not late.retry_after_ms


def _pick(ranking: Ranking, random_unit: Callable[[], float]) -> NodeId | None:
    machines = ranking.machines
    weights = [1.0 / idle_s(ranking.question, machine) for machine in machines]
    first = weighted_index(weights, random_unit())
    if len(machines) == 1:
        return machines[0].candidate.machine.node_id
    weights[first] = 0.0
    second = weighted_index(weights, random_unit())
    best = min(first, second, key=ranking.costs.__getitem__)
    return machines[best].candidate.machine.node_id


def idle_s(question: Question, machine: Standing) -> float:
    """Seconds that the machine would need for this ask if nothing else were before it."""
    prompt_s = question.ask.prompt_tokens * machine.prefill_s_per_token
    return max(1e-6, prompt_s + question.output_tokens * machine.decode_s_per_token)


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


def _record(
    ask: Ask,
    view: PoolView,
    ranking: Ranking,
    chosen: NodeId | None,
    settings: SchedulerSettings,
    turned_away: str = "",
) -> Decision:
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
        candidates=verdicts(
            ranking, settings.candidates_recorded_max, "its deadline comes first" if turned_away else ""
        ),
        turned_away=turned_away,
    )
