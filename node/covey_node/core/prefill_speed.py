"""How fast prompts are computed: a time for each length, and one speed for planning.

Work is in tokens of a short prompt (covey_mesh.core.model_size.length_factor), so that one speed holds for all lengths
but the shortest, where a step's fixed cost shows. Each length (a power of two) has its own robust estimate; the speed
is all their tokens over all their seconds. A length seen once or twice is believed only as far as the others allow:
longer prompts take longer, and less time a token.

Not here: which time was whose prompt (meter.py).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

from covey_mesh.core.speeds import POINTS_MAX, PrefillPoint
from covey_node.core.change import Change, limit_factor
from covey_node.core.observations import Estimate, Observation, Window, sound
from covey_node.core.speed_record import PrefillMemory

OBSERVATIONS_A_LENGTH_MAX = 16
ESTIMATED_EVERY_S = 0.1
"""How often the estimate of a length is worked out anew, at most: where answers come faster than that, those between
tell nothing new of it. A change is told by each observation, whatever the estimate's age (change.py)."""

LENGTHS_MAX = 20
"""Powers of two: up to half a million tokens."""

SURE_AFTER = 3
"""Observations of a length, or of all without a guess, that need no others to be believed."""

EXPECTED_S_MIN = 0.01
"""Shorter times are mostly the event loop's: no sign of a change."""

STEPS_MIN = 4.0
"""A prompt waits for the step that runs; only where it takes so many steps itself does its time tell its speed."""


class PrefillSpeed:
    """All prompts of one engine; calls come in order of time."""

    def __init__(self) -> None:
        self._by_length: dict[int, Window] = {}
        self._whole: Estimate | None = None
        self._whole_known = True
        self._points: list[tuple[float, float]] | None = None
        self.change = Change()

    @property
    def estimate(self) -> Estimate | None:
        """Of all lengths together, as known, without what has changed a moment ago; None before the first one."""
        if not self._whole_known:
            self._whole_known = True
            self._whole = together(self._estimates())
        return self._whole

    @property
    def tokens_per_s(self) -> float:
        """0 before the first observation."""
        estimate = self._whole if self._whole_known else self.estimate
        return 1.0 / estimate.pace if estimate is not None and estimate.pace > 0 else 0.0

    def observe(self, work: float, seconds: float, now_s: float, *, step_s: float, told: bool) -> Observation | None:
        """`step_s`: of the decoding that went on beside it. What was kept of it may be `correct`ed later."""
        if not sound(work, seconds):
            return None
        observation = Observation(work, seconds, now_s, told)
        self._compare(observation, step_s)
        if self.change.factor(now_s) != 1.0:
            return None
        if self._length(work).add(observation):
            self._forget()
        return observation

    def correct(self, observation: Observation, work: float, told: bool = True) -> None:
        """Its prompt turned out to be this much work: the rest was cached. `told` False: as a better guess."""
        changed = self._length(observation.work).remove(observation)
        observation.work, observation.told = max(0.0, work), told
        if sound(observation.work, observation.seconds):
            changed = self._length(observation.work).add(observation) or changed
        if changed:
            self._forget()

    def refresh(self) -> None:
        """Some time has passed: what came since the last estimates counts now."""
        for window in self._by_length.values():
            if window.refresh():
                self._forget()

    def expected_s(self, work: float) -> float:
        """Seconds for so much work, between the lengths seen (straight on a logarithmic scale); 0 if none was."""
        points = self._points
        if points is None:
            points = self._points = [(e.work, e.pace) for e in believable(self._estimates())]
        if not points:
            return 0.0
        below = max([p for p in points if p[0] <= work], default=points[0])
        above = min([p for p in points if p[0] >= work], default=points[-1])
        if above[0] <= below[0]:
            return work * below[1]
        share = math.log(work / below[0]) / math.log(above[0] / below[0])
        return work * math.exp((1 - share) * math.log(below[1]) + share * math.log(above[1]))

    def points(self) -> tuple[PrefillPoint, ...]:
        """The best known ones, shortest first."""
        best = sorted(believable(self._estimates()), key=lambda e: -e.observations)[:POINTS_MAX]
        return tuple(PrefillPoint(max(1, round(e.work)), 1.0 / e.pace) for e in sorted(best, key=lambda e: e.work))

    def memory(self) -> list[PrefillMemory]:
        """Of each length seen; times by the caller's clock."""
        return [PrefillMemory(e.work, e.pace, e.observations, e.newest_s) for e in self._estimates()]

    def restore(self, work: float, pace: float, observations: int, at_s: float) -> None:
        """As seen in an earlier life."""
        for _ in range(observations):
            self._length(work).add(Observation(work, work * pace, at_s))
        self._forget()

    def _forget(self) -> None:
        """An estimate is another now."""
        self._whole_known = False
        self._points = None

    def _estimates(self) -> list[Estimate]:
        """Shortest first."""
        found = [window.estimate() for window in self._by_length.values()]
        return sorted([e for e in found if e is not None and e.pace > 0], key=_work)

    def _length(self, work: float) -> Window:
        key = min(LENGTHS_MAX, max(1, round(work)).bit_length())
        window = self._by_length.get(key)
        if window is None:
            window = self._by_length[key] = Window(OBSERVATIONS_A_LENGTH_MAX, ESTIMATED_EVERY_S)
        return window

    def _compare(self, observation: Observation, step_s: float) -> None:
        known = self._length(observation.work).estimate()
        if known is None or known.observations < SURE_AFTER:
            return
        expected_s = self.expected_s(observation.work)
        if expected_s < max(EXPECTED_S_MIN, STEPS_MIN * step_s):
            return
        ratio = observation.seconds / expected_s
        if not observation.told and ratio < 1.0 / limit_factor(known.spread):
            return  # fast because it was cached, as far as anybody knows
        lasting = self.change.observe(ratio, known.spread, observation.at_s)
        if lasting is not None:
            for window in self._by_length.values():
                window.scaled(lasting)
            self._forget()


_work = operator.attrgetter("work")


def believable(estimates: list[Estimate]) -> list[Estimate]:
    """Shortest first, as given. Guesses are left out where enough is certain; what few observations say is held within
    the bounds that surer lengths set (see `within`)."""
    certain = [e for e in estimates if e.certain]
    if sum([e.observations for e in certain]) >= SURE_AFTER:
        estimates = certain
    sure = [e for e in estimates if e.observations >= SURE_AFTER]
    return [e if e.observations >= SURE_AFTER else within(e, sure) for e in estimates]


def within(weak: Estimate, sure: Iterable[Estimate]) -> Estimate:
    """A longer prompt takes at least as long as a shorter one, and no more time a token."""
    pace = weak.pace
    for each in sure:
        total_s = each.pace * each.work
        low, high = sorted((each.pace, total_s / weak.work))
        pace = min(max(pace, low), high)
    return weak._replace(pace=pace)


def together(estimates: list[Estimate]) -> Estimate | None:
    """All tokens over all seconds."""
    seen = believable(estimates)
    if not seen:
        return None
    work = [e.work * e.observations for e in seen]
    total = sum(work)
    return Estimate(
        pace=sum(e.pace * w for e, w in zip(seen, work, strict=True)) / total,
        spread=sum(e.spread * w for e, w in zip(seen, work, strict=True)) / total,
        observations=sum(e.observations for e in seen),
        newest_s=max(e.newest_s for e in seen),
        work=total / sum(e.observations for e in seen),
    )
