"""How fast prompts are computed: one speed for planning, and a time for each length.

Work is in tokens of a short prompt (covey_mesh.core.model_size.length_factor), so that one speed holds for all lengths
but the shortest, where a step's fixed cost shows; those are what the table by length is for. Not here: which time was
whose prompt (meter.py).
"""

from __future__ import annotations

import math

from covey_mesh.core.speeds import PrefillPoint
from covey_node.core.change import Change, limit_factor
from covey_node.core.observations import Estimate, Observation, Window, sound
from covey_node.core.speed_record import PrefillMemory

OBSERVATIONS_MAX = 48
OBSERVATIONS_A_LENGTH_MAX = 12
LENGTHS_MAX = 20
"""Powers of two: up to half a million tokens."""

EXPECTED_S_MIN = 0.01
"""Shorter times are mostly the event loop's: no sign of a change."""

STEPS_MIN = 4.0
"""A prompt waits for the step that runs; only where it takes so many steps itself does its time tell its speed."""

COMPARED_AFTER = 3
"""Observations of any length before a change can be told."""


class PrefillSpeed:
    """All prompts of one engine; calls come in order of time."""

    def __init__(self) -> None:
        self._all = Window(OBSERVATIONS_MAX)
        self._by_length: dict[int, Window] = {}
        self.change = Change()

    @property
    def estimate(self) -> Estimate | None:
        return self._all.estimate()

    @property
    def tokens_per_s(self) -> float:
        """As known, without what has changed a moment ago; 0 before the first observation."""
        estimate = self._all.estimate()
        return 1.0 / estimate.pace if estimate is not None and estimate.pace > 0 else 0.0

    def observe(self, work: float, seconds: float, now_s: float, *, step_s: float, told: bool) -> Observation | None:
        """`step_s`: of the decoding that went on beside it. What was kept of it may be `correct`ed later."""
        if not sound(work, seconds):
            return None
        observation = Observation(work, seconds, now_s, told)
        self._compare(observation, step_s)
        if self.change.factor(now_s) != 1.0:
            return None
        self._keep(observation)
        return observation

    def correct(self, observation: Observation, work: float) -> None:
        """Its prompt turned out to be this much work: the engine had the rest cached."""
        self._all.corrected()
        self._length(observation.work).remove(observation)
        observation.work, observation.told = max(0.0, work), True
        if sound(observation.work, observation.seconds):
            self._length(observation.work).add(observation)

    def expected_s(self, work: float) -> float:
        """Seconds for so much work, between the lengths seen (straight on a logarithmic scale); 0 if none was."""
        points = sorted((e.work, e.pace) for e in (w.estimate() for w in self._by_length.values()) if e is not None)
        if not points:
            return 0.0
        below = max((p for p in points if p[0] <= work), default=points[0])
        above = min((p for p in points if p[0] >= work), default=points[-1])
        if above[0] <= below[0]:
            return work * below[1]
        share = math.log(work / below[0]) / math.log(above[0] / below[0])
        return work * math.exp((1 - share) * math.log(below[1]) + share * math.log(above[1]))

    def points(self) -> tuple[PrefillPoint, ...]:
        """Shortest first."""
        found = [e for e in (self._by_length[key].estimate() for key in sorted(self._by_length)) if e is not None]
        return tuple(PrefillPoint(max(1, round(e.work)), 1.0 / e.pace) for e in found if e.pace > 0)

    def memory(self) -> list[PrefillMemory]:
        """Of each length seen; times by the caller's clock."""
        found = [e for e in (window.estimate() for window in self._by_length.values()) if e is not None]
        return [PrefillMemory(e.work, e.pace, e.observations, e.newest_s) for e in found if e.pace > 0]

    def restore(self, work: float, pace: float, observations: int, at_s: float) -> None:
        """As seen in an earlier life."""
        for _ in range(observations):
            self._keep(Observation(work, work * pace, at_s))

    def _keep(self, observation: Observation) -> None:
        self._all.add(observation)
        self._length(observation.work).add(observation)

    def _length(self, work: float) -> Window:
        key = min(LENGTHS_MAX, max(1, round(work)).bit_length())
        return self._by_length.setdefault(key, Window(OBSERVATIONS_A_LENGTH_MAX))

    def _compare(self, observation: Observation, step_s: float) -> None:
        known = self._all.estimate()
        if known is None or known.observations < COMPARED_AFTER:
            return
        expected_s = self.expected_s(observation.work)
        if expected_s < max(EXPECTED_S_MIN, STEPS_MIN * step_s):
            return
        ratio = observation.seconds / expected_s
        if not observation.told and ratio < 1.0 / limit_factor(known.spread):
            return  # fast because it was cached, as far as anybody knows
        lasting = self.change.observe(ratio, known.spread, observation.at_s)
        if lasting is not None:
            for window in (self._all, *self._by_length.values()):
                window.scaled(lasting)
