"""Which embeddings are one observation of the engine's speed. Not here: what follows from it (meter.py).

Embeddings side by side share the engine: each is given the time since the one before it ended, and those that come out
of one step count together, once it is over. On a busy machine they never stop coming: what came in TOGETHER_S is then
one observation, but of as much work as the engine is known to do in that time, so that what a slower engine shows is of
the same size and can be compared.
"""

from __future__ import annotations

STEP_S = 0.005
"""Answers closer together than this may have come out of one step."""

TOGETHER_S = 0.1

Observed = tuple[int, float, float]
"""(work, seconds, when it ended)"""


class Embeddings:
    """Answers in order of time. `work` is what was not observed yet."""

    def __init__(self) -> None:
        self.work = 0
        self._from_s = self._first_s = self._end_s = 0.0

    def answered(self, work: int, began_s: float, now_s: float, known_tokens_per_s: float) -> Observed | None:
        """One came; returns what came before it, if that is over."""
        if self.work and now_s - self._end_s < STEP_S and not self._enough(now_s, known_tokens_per_s):
            self.work += work
            self._end_s = now_s
            return None
        observed = self.over()
        self.work, self._from_s = work, max(began_s, self._end_s)
        self._first_s = self._end_s = now_s
        return observed

    def over(self) -> Observed | None:
        """Nothing is under way any more; returns what came last, once."""
        work, self.work = self.work, 0
        return (work, self._end_s - self._from_s, self._end_s) if work else None

    def _enough(self, now_s: float, known_tokens_per_s: float) -> bool:
        return now_s - self._first_s >= TOGETHER_S and self.work >= TOGETHER_S * known_tokens_per_s
