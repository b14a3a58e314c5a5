"""Which of several equally good machines: they take turns, the one picked longest ago first. Deterministic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from covey_mesh.core.names import NodeId
from covey_scheduler.core.policy import Ranked
from covey_scheduler.core.prediction import Prediction

TIE_S = 0.002
"""Predictions this close are equal, whatever their share."""

TURNS_MAX = 16_384
"""(machine, model) pairs whose last turn is remembered."""


def tied(best: Prediction, other: Prediction, tolerance: float) -> bool:
    """Equal within the tolerance, to the first token and to the last: a prefix hit is not traded for an even share."""
    return other.last_token_s - best.last_token_s <= max(TIE_S, tolerance * best.last_token_s) and abs(
        other.first_token_s - best.first_token_s
    ) <= max(TIE_S, tolerance * best.first_token_s)


class Rotation:
    """Remembers whose turn it was."""

    def __init__(self, turns_max: int = TURNS_MAX) -> None:
        self._turns: OrderedDict[tuple[str, NodeId], int] = OrderedDict()
        self._turns_max = turns_max
        self._count = 0

    def pick(self, model: str, free: Sequence[Ranked], tolerance: float) -> Ranked:
        """From a ranking's non-empty `free`; records the turn."""
        best = free[0].prediction
        equals = [each for each in free if tied(best, each.prediction, tolerance)]
        picked = min(equals, key=lambda each: self._turns.get((model, each.candidate.machine.node_id), -1))
        self._record((model, picked.candidate.machine.node_id))
        return picked

    def _record(self, key: tuple[str, NodeId]) -> None:
        self._count += 1
        self._turns[key] = self._count
        self._turns.move_to_end(key)
        while len(self._turns) > self._turns_max:
            self._turns.popitem(last=False)
