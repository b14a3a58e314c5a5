"""How long an answer is expected to be: learned from those that have ended, for each (model, user) and each model."""

from __future__ import annotations

from collections import OrderedDict

from covey_mesh.core.asking import Ask
from covey_mesh.core.facts import Task
from covey_scheduler.core.settings import SchedulerSettings

LENGTHS_MAX = 8192
"""(model, user) pairs remembered; the one unused for longest is forgotten."""

DECAY = 0.95
"""Share of the old sums kept at each answer: a memory of about twenty answers."""

ANSWERS_BEFORE = 2.0
"""Answers of the expected length that count as seen before the first, so that one odd answer decides nothing."""


class AnswerLengths:
    """Decayed mean output tokens. Answers that failed or were withdrawn say nothing and are not given."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._sums: OrderedDict[tuple[str, str | None], tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sums)

    def ended(self, model: str, user: str, output_tokens: int) -> None:
        for key in ((model, user), (model, None)):
            tokens, answers = self._sums.get(key, (0.0, 0.0))
            self._sums[key] = (tokens * DECAY + output_tokens, answers * DECAY + 1.0)
            self._sums.move_to_end(key)
        while len(self._sums) > LENGTHS_MAX:
            self._sums.popitem(last=False)

    def expected(self, ask: Ask, task: Task) -> int:
        """Never above max_tokens where the client set it; 0 for embeddings."""
        if task is Task.EMBED:
            return 0
        expected = self._mean((ask.model, None), float(self._settings.expected_output_tokens))
        expected = self._mean((ask.model, ask.user), expected)
        return min(ask.max_output_tokens or round(expected), round(expected))

    def _mean(self, key: tuple[str, str | None], otherwise: float) -> float:
        tokens, answers = self._sums.get(key, (0.0, 0.0))
        return (tokens + ANSWERS_BEFORE * otherwise) / (answers + ANSWERS_BEFORE)


def expected_output_tokens(ask: Ask, task: Task, settings: SchedulerSettings) -> int:
    """Where nothing was learned: max_tokens if it is small, else the setting; 0 for embeddings."""
    return AnswerLengths(settings).expected(ask, task)
