"""Which of the asks that wait goes first on which machine: one plan for all of them. Pure.

Each for itself would wait for the fastest machine. Together the least waiting is a matching of asks to places in the
lines of machines (Horn, "Minimizing Average Flow Time with Parallel Machines", 1973; Bruno, Coffman, Sethi, 1974): who
goes k-th from last on a machine costs k times its own seconds there, its own and those of the k - 1 behind it. Solved
greedily, the longest first: each ask goes in front of those already planned for a machine, and so counts the time that
they lose by it. On the traces of bench/routing that waits as long as the exact solution, at a fraction of its price.

Not here: whose turn it is (queue.py), and whether a machine can start anything now (policy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from covey_mesh.core.names import NodeId
from covey_scheduler.core.policy import Ranking, machine_to_start, patience_over
from covey_scheduler.core.prediction import prompt_s
from covey_scheduler.core.queue import Entry
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

PAIRS_MAX = 4096
"""Asks x machines in one plan, a millisecond's work: in a very large pool fewer asks are planned together."""


class Waiting(NamedTuple):
    """One ask that waits, and the machines as it would find them at `now_s`."""

    entry: Entry
    ranking: Ranking
    now_s: float

    @property
    def waited_s(self) -> float:
        return self.now_s - self.entry.since_s


class Planned(NamedTuple):
    """For one ask: the place of its machine in its ranking, seconds of its prompt there, and whether no other ask goes
    there before it."""

    machine: int
    prompt_s: float
    first: bool


def plan(rankings: Sequence[Ranking], urgent: Sequence[bool]) -> list[Planned]:
    """One row an ask, in the order given, which is the order of their turns. `urgent`: nobody else's wait counts any
    more, it takes what is best for itself before all others do. Every ranking has machines."""
    lines, chosen = _Lines(), [(0, 0.0)] * len(rankings)
    numbers = range(len(rankings))
    for number in filter(urgent.__getitem__, numbers):
        chosen[number] = lines.behind_all(number, rankings[number])
    shortest_s = [_prompt_s(each, each.best()) for each in rankings]
    relaxed = [number for number in numbers if not urgent[number]]
    for number in sorted(relaxed, key=lambda each: (shortest_s[each], each), reverse=True):
        chosen[number] = lines.before_relaxed(number, rankings[number])
    first = lines.first()
    return [Planned(index, seconds, number in first) for number, (index, seconds) in enumerate(chosen)]


class _Lines:
    """The line planned for each machine: urgent asks in order of turn, then the others, the last planned in front."""

    def __init__(self) -> None:
        self._urgent_s: dict[NodeId, float] = {}
        self._relaxed: dict[NodeId, int] = {}
        self._front: dict[NodeId, int] = {}
        self._places: dict[NodeId, int] = {}
        self._machines: Sequence[Standing] = ()

    def behind_all(self, number: int, ranking: Ranking) -> tuple[int, float]:
        """For an urgent ask: (index of the machine that will be done with it first, seconds of its prompt there)."""
        index = self._cheapest(ranking)
        node_id, seconds = _node(ranking, index), _prompt_s(ranking, index)
        self._urgent_s[node_id] = self._urgent_s.get(node_id, 0.0) + seconds
        self._front.setdefault(node_id, number)
        return index, seconds

    def before_relaxed(self, number: int, ranking: Ranking) -> tuple[int, float]:
        """The same for one that counts its seconds once more for each of those that it goes before."""
        index = self._cheapest(ranking)
        node_id = _node(ranking, index)
        self._relaxed[node_id] = self._relaxed.get(node_id, 0) + 1
        if node_id not in self._urgent_s:
            self._front[node_id] = number
        return index, _prompt_s(ranking, index)

    def first(self) -> set[int]:
        return set(self._front.values())

    def _cheapest(self, ranking: Ranking) -> int:
        if not self._front:
            return ranking.best()
        costs, places = list(ranking.costs), self._places_in(ranking.machines)
        for node_id in self._front:
            index = places.get(node_id)
            if index is not None:
                behind = self._relaxed.get(node_id, 0)
                costs[index] += self._urgent_s.get(node_id, 0.0) + behind * _prompt_s(ranking, index)
        return costs.index(min(costs))

    def _places_in(self, machines: Sequence[Standing]) -> dict[NodeId, int]:
        """Where each machine stands in a list of them; most asks are given the same list."""
        if machines is not self._machines:
            self._machines = machines
            self._places = {row.candidate.machine.node_id: place for place, row in enumerate(machines)}
        return self._places


def starting(asks: Sequence[Waiting], settings: SchedulerSettings) -> list[tuple[int, int]]:
    """(which ask, index of its machine) for those that should start now, each on a machine of its own."""
    fit = [number for number, each in enumerate(asks) if each.ranking.machines]
    if len(fit) == 1:
        index = machine_to_start(asks[fit[0]].ranking, asks[fit[0]].waited_s)
        return [] if index is None else [(fit[0], index)]
    starts: dict[NodeId, tuple[int, int]] = {}
    for number, row in zip(fit, plan_of([asks[number] for number in fit], settings), strict=True):
        index = _to_start(asks[number], row)
        if index is not None:
            starts.setdefault(asks[number].ranking.machines[index].candidate.machine.node_id, (number, index))
    return list(starts.values())


def _to_start(ask: Waiting, row: Planned) -> int | None:
    """Its machine, if it is its turn there and the machine could start it; any other only when patience is over."""
    if row.first and not ask.ranking.busy(row.machine):
        return row.machine
    free = ask.ranking.best_free()
    return free if free is not None and patience_over(ask.ranking, free, ask.waited_s) else None


def wait_as_planned(asks: Sequence[Waiting], ahead_s: dict[NodeId, float], settings: SchedulerSettings) -> None:
    """Asks that stay queued will bring their prompts to the machines they wait for: other users' asks must know."""
    fit = [each for each in asks if each.ranking.machines]
    for each, row in zip(fit, plan_of(fit, settings), strict=True):
        node_id = each.ranking.machines[row.machine].candidate.machine.node_id
        ahead_s[node_id] = ahead_s.get(node_id, 0.0) + row.prompt_s


def plan_of(asks: Sequence[Waiting], settings: SchedulerSettings) -> list[Planned]:
    return plan([each.ranking for each in asks], [urgent(each, settings) for each in asks])


def urgent(ask: Waiting, settings: SchedulerSettings) -> bool:
    """No shorter ask of its user goes before it any more: it has a deadline, or was overtaken for long enough."""
    ranking = ask.ranking
    return bool(ask.entry.ask.deadline_s) or ask.waited_s >= settings.overtaking * _prompt_s(ranking, ranking.best())


def together_max(machines: int, asks_max: int) -> int:
    """How many asks are planned together in a pool of this size."""
    return max(1, min(asks_max, PAIRS_MAX // max(1, machines)))


def _prompt_s(ranking: Ranking, index: int) -> float:
    return prompt_s(ranking.question.ask, ranking.machines[index], ranking.cached[index])


def _node(ranking: Ranking, index: int) -> NodeId:
    return ranking.machines[index].candidate.machine.node_id
