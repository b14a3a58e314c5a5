"""Which of the asks that wait goes first on which machine: one plan for all of them. Pure.

Each for itself would wait for the fastest machine. Together they are matched to places in the lines of machines, the
longest first: each goes in front of those already planned for a machine, and so counts what they lose by it (the
matching of Horn, "Minimizing Average Flow Time with Parallel Machines", 1973, solved greedily). What is kept small is
the sum of the squares of the times to the first token (Bansal, Pruhs, "Server Scheduling in the Lp Norm", 2003): a
second more costs an ask that takes 30 s ten times what it costs one that takes 3 s. By the plain sum short prompts
would go before long ones again and again, and the slowest requests of all become slower still.

Not here: whose turn it is (queue.py), and whether a machine can start anything now (policy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
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


def plan(rankings: Sequence[Ranking], waited_s: Sequence[float], urgent: Sequence[bool]) -> list[Planned]:
    """One row an ask, in the order given, which is the order of their turns. `urgent`: nobody else's wait counts any
    more, it takes what is best for itself before all others do. Every ranking has machines."""
    lines, chosen = _Lines(), [(0, 0.0)] * len(rankings)
    numbers = range(len(rankings))
    for number in filter(urgent.__getitem__, numbers):
        chosen[number] = lines.behind_all(number, rankings[number])
    shortest_s = [_prompt_s(each, each.best()) for each in rankings]
    relaxed = [number for number in numbers if not urgent[number]]
    for number in sorted(relaxed, key=lambda each: (shortest_s[each], each), reverse=True):
        chosen[number] = lines.before_relaxed(number, rankings[number], waited_s[number])
    first = lines.first()
    return [Planned(index, seconds, number in first) for number, (index, seconds) in enumerate(chosen)]


@dataclass(slots=True)
class _Line:
    """What is planned for one machine: urgent asks in order of turn, then `relaxed` others, the last planned in front.
    `front`: the number of the ask that goes first; `first_tokens_s`: the others' times to the first token, summed."""

    front: int
    urgent_s: float = 0.0
    relaxed: int = 0
    first_tokens_s: float = 0.0

    def squares_lost(self, prompt_s: float) -> float:
        """By how much the sum of their squares grows when a prompt of these seconds goes before the relaxed ones."""
        return prompt_s * (2.0 * self.first_tokens_s + self.relaxed * prompt_s)

    def go_before(self, number: int, first_token_s: float, prompt_s: float) -> None:
        self.first_tokens_s += first_token_s + self.relaxed * prompt_s
        self.relaxed += 1
        if not self.urgent_s:
            self.front = number


class _Lines:
    """By machine."""

    def __init__(self) -> None:
        self._lines: dict[NodeId, _Line] = {}
        self._places: dict[NodeId, int] = {}
        self._machines: Sequence[Standing] = ()

    def behind_all(self, number: int, ranking: Ranking) -> tuple[int, float]:
        """For an urgent ask: (index of the machine that will be done with it first, seconds of its prompt there)."""
        costs = list(ranking.costs)
        for index, line in self._known(ranking):
            costs[index] += line.urgent_s
        index = costs.index(min(costs))
        seconds = _prompt_s(ranking, index)
        self._line(ranking, index, number).urgent_s += seconds
        return index, seconds

    def before_relaxed(self, number: int, ranking: Ranking, waited_s: float) -> tuple[int, float]:
        """The same for one that counts, too, what is lost by those that it goes before."""
        costs = list(ranking.costs)
        for index, line in self._known(ranking):
            first_token_s = waited_s + costs[index] + line.urgent_s
            costs[index] = sqrt(first_token_s**2 + line.squares_lost(_prompt_s(ranking, index))) - waited_s
        index = costs.index(min(costs))
        line, seconds = self._line(ranking, index, number), _prompt_s(ranking, index)
        line.go_before(number, waited_s + ranking.costs[index] + line.urgent_s, seconds)
        return index, seconds

    def first(self) -> set[int]:
        return {line.front for line in self._lines.values()}

    def _line(self, ranking: Ranking, index: int, number: int) -> _Line:
        return self._lines.setdefault(_node(ranking, index), _Line(number))

    def _known(self, ranking: Ranking) -> list[tuple[int, _Line]]:
        """(index of a machine, what is planned for it); of a policy whose costs are no seconds they are left alone."""
        if not self._lines or not ranking.policy.ties_s:
            return []
        places = self._places_in(ranking.machines)
        return [(places[node_id], line) for node_id, line in self._lines.items() if node_id in places]

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
    return plan(
        [each.ranking for each in asks], [each.waited_s for each in asks], [urgent(each, settings) for each in asks]
    )


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
