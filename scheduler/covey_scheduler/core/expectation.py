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

NO_ANSWERS = (0.0, 0.0)


class AnswerLengths:
    """Decayed mean output tokens. Answers that failed or were withdrawn say nothing and are not given."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._sums: OrderedDict[tuple[str, str | None], tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sums)

    def ended(self, model: str, user: str, output_tokens: float, answers_ended: int = 1) -> None:
        """Several answers at once count as so many of this length one after the other."""
        kept = DECAY if answers_ended == 1 else DECAY**answers_ended
        weight = 1.0 if answers_ended == 1 else (1.0 - kept) / (1.0 - DECAY)
        for key in ((model, user), (model, None)):
            tokens, answers = self._sums.get(key, NO_ANSWERS)
            self._sums[key] = (tokens * kept + weight * output_tokens, answers * kept + weight)
            self._sums.move_to_end(key)
        while len(self._sums) > LENGTHS_MAX:
            self._sums.popitem(last=False)

    def expected(self, ask: Ask, task: Task) -> int:
        """Never above max_tokens where the client set it; 0 for embeddings."""
        if task is Task.EMBED:
            return 0
        expected = float(self._settings.expected_output_tokens)
        of_model = self._sums.get((ask.model, None))
        if of_model is not None:
            expected = (of_model[0] + ANSWERS_BEFORE * expected) / (of_model[1] + ANSWERS_BEFORE)
            of_user = self._sums.get((ask.model, ask.user))
            if of_user is not None:
                expected = (of_user[0] + ANSWERS_BEFORE * expected) / (of_user[1] + ANSWERS_BEFORE)
        tokens, limit = round(expected), ask.max_output_tokens
        return limit if 0 < limit < tokens else tokens


def expected_output_tokens(ask: Ask, task: Task, settings: SchedulerSettings) -> int:
    """Where nothing was learned: max_tokens if it is small, else the setting; 0 for embeddings."""
    return AnswerLengths(settings).expected(ask, task)
