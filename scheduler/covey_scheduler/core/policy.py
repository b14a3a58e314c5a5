"""The scheduling policy: `choose` reads an ask and the candidates, and ranks them. Pure, and the one place to read.

filter (filters.py) -> predict (prediction.py) -> order by predicted completion. Ties are for pickers.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from covey_mesh.core.asking import Ask
from covey_scheduler.core.filters import Rejection, busy, rejection_of
from covey_scheduler.core.machine import Candidate
from covey_scheduler.core.prediction import Prediction, predict
from covey_scheduler.core.settings import SchedulerSettings

POLICY = "predicted-completion"
"""Named in every decision record."""


class Ranked(NamedTuple):
    """A machine that passed every filter. `busy` says why it could not start the ask at once; "" if it could."""

    candidate: Candidate
    prediction: Prediction
    busy: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """`free` and `waiting_for` are best first; `waiting_for` are machines that would only queue the ask."""

    free: tuple[Ranked, ...]
    waiting_for: tuple[Ranked, ...]
    rejected: tuple[Rejection, ...]

    @property
    def may_recover(self) -> bool:
        """True if some machine was rejected only for what may pass in a moment."""
        return any(r.failed.recovers for r in self.rejected)


def choose(ask: Ask, candidates: Iterable[Candidate], settings: SchedulerSettings) -> Ranking:
    """Everything known of the moment is in the candidates: the same input always gives the same ranking."""
    free: list[Ranked] = []
    waiting_for: list[Ranked] = []
    rejected: list[Rejection] = []
    for candidate in candidates:
        rejection = rejection_of(ask, candidate)
        if rejection is not None:
            rejected.append(rejection)
            continue
        why_busy = busy(ask, candidate, settings)
        ranked = Ranked(candidate, predict(ask, candidate, settings), why_busy)
        (waiting_for if why_busy else free).append(ranked)
    free.sort(key=_completion)
    waiting_for.sort(key=_completion)
    return Ranking(tuple(free), tuple(waiting_for), tuple(rejected))


def better_to_wait(ranking: Ranking, waited_s: float, settings: SchedulerSettings) -> bool:
    """True if the best busy machine would finish so much sooner than the best free one that waiting for it pays."""
    if not ranking.free:
        return True
    if not ranking.waiting_for or waited_s >= settings.wait_for_faster_s_max:
        return False
    now_s = ranking.free[0].prediction.last_token_s
    later_s = ranking.waiting_for[0].prediction.last_token_s
    return later_s * settings.wait_gain < now_s and later_s + settings.wait_gain_s_min < now_s


def _completion(ranked: Ranked) -> tuple[float, float]:
    return ranked.prediction.last_token_s, ranked.prediction.first_token_s
