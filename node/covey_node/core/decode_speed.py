"""How long a decode step takes, by streams in the batch and by their context: one token for each stream a step.

Samples of single streams are gathered over SLOT_S into one observation, so that a stall that hits all streams at once
is one observation and not as many as there are streams. Not here: which time was whose (meter.py).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from covey_mesh.core.speeds import POINTS_MAX, DecodePoint
from covey_node.core import robust
from covey_node.core.change import Change
from covey_node.core.observations import SECONDS_MIN, Estimate, Observation, Window
from covey_node.core.speed_record import DecodeMemory

SLOT_S = 0.5
OBSERVATIONS_A_CELL_MAX = 16
BATCH_BITS_MAX = 9
CONTEXT_LIMITS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
"""Tokens of context a stream, on average: between cells of the table."""

MIXED_SHARE_MAX = 0.1
"""A sample of which prompts were computed beside for more than this part of its time is no certain one: it tells what
clients see now, not how long a step takes."""

SLOWDOWN_UNKNOWN = 0.07
"""Share by which each further stream lengthens a step where only one batch size was seen: the scheduler's default."""

RESTORED_TOKENS = 16.0
"""Weight of an observation of an earlier life."""

COMPARED_AFTER = 3
"""Observations of a cell before a change can be told by it."""

DOUBT_A_DOUBLING = 0.35
"""Added to the deviation for each doubling between the batch seen and the one compared with."""


class _Slot:
    """Sums over samples; `batch` and `context` are weighted by seconds."""

    def __init__(self, from_s: float) -> None:
        self.from_s = from_s
        self.tokens = 0.0
        self.seconds = 0.0
        self.batch = 0.0
        self.context = 0.0
        self.prompts_s = 0.0


@dataclass(slots=True)
class _Cell:
    """Steps of about the same batch and context; the two are those of the last observations."""

    batch: float
    context: float
    window: Window = field(default_factory=lambda: Window(OBSERVATIONS_A_CELL_MAX))


class DecodeSpeed:
    """All streams of one engine; calls come in order of time."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], _Cell] = {}
        self._slot: _Slot | None = None
        self._slowdown: float | None = None
        self._slowdown_known = False
        self._alone_s: float | None = None
        self.change = Change()

    def sample(
        self, tokens: int, seconds: float, batch: float, context: float, now_s: float, prompts_s: float = 0.0
    ) -> None:
        """One stream got `tokens` in `seconds`, beside `batch` - 1 others, with so much context each; during
        `prompts_s` of it prompts were computed, too."""
        if not (tokens > 0 and SECONDS_MIN <= seconds < math.inf):  # `sound`
            return
        slot = self._slot
        if slot is not None and now_s - slot.from_s >= SLOT_S:
            self.close(now_s)
            slot = None
        if slot is None:
            slot = self._slot = _Slot(now_s)
        slot.tokens += tokens
        slot.seconds += seconds
        slot.batch += seconds * batch if batch > 1.0 else seconds
        slot.context += seconds * context if context > 0.0 else 0.0
        slot.prompts_s += prompts_s

    def settle(self, now_s: float) -> None:
        """What was gathered becomes an observation, if it is time."""
        if self._slot is not None and now_s - self._slot.from_s >= SLOT_S:
            self.close(now_s)

    def close(self, now_s: float) -> None:
        """What was gathered is an observation: another batch begins."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._observe(slot, now_s)

    def step_s(self, batch: float) -> float:
        """As known, without what has changed a moment ago; 0 before the first sample."""
        if batch == 1 and self._cells:  # asked for with every long prompt
            if self._alone_s is None:
                self._alone_s = self._step_s(1)
            return self._alone_s
        return self._step_s(batch)

    def _step_s(self, batch: float) -> float:
        cell = self._nearest(batch)
        if cell is None:
            slot = self._slot
            return 0.0 if slot is None else self._scaled(slot.seconds / slot.tokens, slot.batch / slot.seconds, batch)
        estimate = cell.window.estimate()
        return 0.0 if estimate is None else self._scaled(estimate.pace, cell.batch, batch)

    @property
    def slowdown(self) -> float | None:
        """Share by which each further stream lengthens a step; None while one batch size alone was seen."""
        if not self._slowdown_known:
            self._slowdown_known = True
            self._slowdown = self._fitted()
        return self._slowdown

    @property
    def estimate(self) -> Estimate | None:
        """Of the cell that was seen last, with the observations of all."""
        estimates = [e for e in (cell.window.estimate() for cell in self._cells.values()) if e is not None]
        if not estimates:
            return None
        newest = max(estimates, key=lambda e: e.newest_s)
        return newest._replace(observations=sum(e.observations for e in estimates))

    def points(self) -> tuple[DecodePoint, ...]:
        """The best known ones, smallest batch first."""
        found = sorted(self.memory(), key=lambda m: -m.observations)[:POINTS_MAX]
        found.sort(key=lambda m: (m.batch, m.context))
        return tuple(DecodePoint(max(1, round(m.batch)), round(m.context), m.step_s) for m in found)

    def memory(self) -> list[DecodeMemory]:
        """Of each cell; times by the caller's clock."""
        found = [(cell, cell.window.estimate()) for cell in self._cells.values()]
        return [DecodeMemory(c.batch, c.context, e.pace, e.observations, e.newest_s) for c, e in found if e is not None]

    def restore(self, batch: float, context: float, step_s: float, observations: int, at_s: float) -> None:
        """As seen in an earlier life."""
        for _ in range(observations):
            self._keep(Observation(RESTORED_TOKENS, RESTORED_TOKENS * step_s, at_s), batch, context)

    def _observe(self, slot: _Slot, now_s: float) -> None:
        batch, context = slot.batch / slot.seconds, slot.context / slot.seconds
        certain = slot.prompts_s <= MIXED_SHARE_MAX * slot.seconds
        observation = Observation(slot.tokens, slot.seconds, now_s, certain)
        lasting = self._compare(observation, batch, context) if certain else None
        if lasting is not None:
            for cell in self._cells.values():
                cell.window.scaled(lasting)
            self._alone_s = None
        if self.change.factor(now_s) == 1.0:
            self._keep(observation, batch, context)

    def _compare(self, observation: Observation, batch: float, context: float) -> float | None:
        """With steps of the same context and the nearest batch that is well known; the farther, the less is a sign."""
        wanted, context_key = _key(batch, context)
        known: list[tuple[int, _Cell, Estimate]] = []
        for (bits, key), cell in self._cells.items():
            estimate = cell.window.estimate()
            if key == context_key and estimate is not None and _sure(estimate):
                known.append((abs(bits - wanted), cell, estimate))
        if not known:
            return None
        distance, cell, estimate = min(known, key=lambda each: each[0])
        expected_s = self._scaled(estimate.pace, cell.batch, batch)
        doubt = estimate.spread + DOUBT_A_DOUBLING * distance
        return self.change.observe(observation.pace / expected_s, doubt, observation.at_s)

    def _keep(self, observation: Observation, batch: float, context: float) -> None:
        cell = self._cells.setdefault(_key(batch, context), _Cell(batch, context))
        # Batches change within a cell: what is kept is as of the cell's own.
        observation.seconds *= self._scaled(1.0, batch, cell.batch)
        cell.window.add(observation)
        self._slowdown_known, self._alone_s = False, None

    def _nearest(self, batch: float) -> _Cell | None:
        """By batch; of several, the one seen last."""
        wanted = _key(batch, 0.0)[0]

        def distance(item: tuple[tuple[int, int], _Cell]) -> tuple[int, float]:
            estimate = item[1].window.estimate()
            return abs(item[0][0] - wanted), -(0.0 if estimate is None else estimate.newest_s)

        return min(self._cells.items(), key=distance)[1] if self._cells else None

    def _scaled(self, step_s: float, batch_then: float, batch_now: float) -> float:
        share = self.slowdown
        share = SLOWDOWN_UNKNOWN if share is None else share
        return step_s * (1.0 + share * max(0.0, batch_now - 1.0)) / (1.0 + share * max(0.0, batch_then - 1.0))

    def _fitted(self) -> float | None:
        """step(batch) = alone x (1 + slowdown x (batch - 1)), through the table's cells."""
        seen = [(cell.batch, cell.window.estimate()) for cell in self._cells.values()]
        points = [(batch, estimate.pace) for batch, estimate in seen if estimate is not None]
        if len({_key(batch, 0.0)[0] for batch, _ in points}) < 2:
            return None
        rise = robust.slope(points)
        assert rise is not None, "there are two batch sizes"
        alone = statistics.median(step_s - rise * (batch - 1.0) for batch, step_s in points)
        return min(1.0, max(0.0, rise / alone)) if alone > 0 else None


def _key(batch: float, context: float) -> tuple[int, int]:
    bits = min(BATCH_BITS_MAX, max(1, round(batch)).bit_length())
    return bits, sum(1 for limit in CONTEXT_LIMITS if context >= limit)


def _sure(estimate: Estimate) -> bool:
    return estimate.certain and estimate.observations >= COMPARED_AFTER
