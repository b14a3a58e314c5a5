"""Which of several equally good machines: they take turns, the one picked longest ago first. Deterministic."""

from __future__ import annotations

from collections import OrderedDict

from covey_mesh.core.names import NodeId
from covey_scheduler.core.policy import Ranking
from covey_scheduler.core.prediction import Question, prompt_s
from covey_scheduler.core.standing import Standing

TIE_S = 0.002
"""Predictions this close are equal, whatever their share."""

TURNS_MAX = 16_384
"""(machine, model) pairs whose last turn is remembered."""


def equals(ranking: Ranking, best: int) -> list[int]:
    """Machines as good as `best`: equal costs; for predictions in seconds, equal within the tolerance, to the first
    token and to the last: a prefix hit or a shorter line is not traded for an even share."""
    costs = ranking.costs
    cost = costs[best]
    if not ranking.policy.ties_s:
        return [index for index, other in enumerate(costs) if other <= cost]
    slack_s = ranking.settings.tie_tolerance * cost
    limit = cost + (slack_s if slack_s > TIE_S else TIE_S)
    # Two minima cost less than a list of all that are near.
    before, after = costs[:best], costs[best + 1 :]
    if not (before and min(before) <= limit) and not (after and min(after) <= limit):
        return [best]
    near = [index for index, other in enumerate(costs) if other <= limit]
    first_s = _first_token_s(ranking.question, ranking.machines[best], ranking.cached[best])
    slack_s = max(TIE_S, ranking.settings.tie_tolerance * first_s)
    return [
        index
        for index in near
        if abs(_first_token_s(ranking.question, ranking.machines[index], ranking.cached[index]) - first_s) <= slack_s
    ]


def _first_token_s(question: Question, machine: Standing, cached: int) -> float:
    ahead_s = max(0.0, machine.prompts_done_at_s - question.now_s)
    return ahead_s + machine.before_s + prompt_s(question.ask, machine, cached)


class Rotation:
    """Remembers whose turn it was."""

    def __init__(self, turns_max: int = TURNS_MAX) -> None:
        self._turns: OrderedDict[tuple[str, NodeId], int] = OrderedDict()
        self._turns_max = turns_max
        self.count = 0

    def pick(self, ranking: Ranking, best: int) -> int:
        """`best`, or the one of its equals, not busy either, whose turn it is; records the turn."""
        model = ranking.question.ask.model
        same, picked = equals(ranking, best) if len(ranking.costs) > 1 else (), best
        if len(same) > 1:
            free = [index for index in same if index == best or not ranking.busy(index)]
            picked = min(free, key=lambda index: self._turns.get((model, _node(ranking, index)), -1))
        turn = (model, ranking.machines[picked].candidate.machine.node_id)
        self.count += 1
        self._turns[turn] = self.count
        self._turns.move_to_end(turn)
        if len(self._turns) > self._turns_max:
            self._turns.popitem(last=False)
        return picked


def _node(ranking: Ranking, index: int) -> NodeId:
    return ranking.machines[index].candidate.machine.node_id
