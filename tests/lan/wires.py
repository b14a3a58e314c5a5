"""What happens to a frame between two ports of the software switch: lost, delayed, doubled, overtaken, or nothing.

One wire a directed pair of ports, each with a generator of its own, seeded by (seed, from, to): what befalls the n-th
frame of a pair does not depend on what other pairs do. Pure: `now_s` is handed in. Not here: devices and addresses
(programs/switch.py).
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field

OVERTAKEN_S_MAX = 0.03
"""A frame that is reordered is held back up to this long beyond its delay; those behind it pass."""


@dataclass(frozen=True, slots=True)
class Line:
    """State of a wire. Shares are 0 to 1. Jitter is added to the delay and keeps the order (a queue, not a race)."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    cut: bool = False
    multicast: bool = True
    """False: broadcast (ARP) passes and multicast does not, as on access points that filter it."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering"):
            assert 0 <= getattr(self, name) <= 1, f"{name} is a share, 0 to 1"
        assert self.delay_s >= 0
        assert self.jitter_s >= 0


@dataclass(slots=True)
class Counts:
    """What became of the frames of one wire."""

    passed: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    delayed: int = 0
    cut: int = 0
    filtered: int = 0

    def as_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)


BROADCAST = b"\xff" * 6


@dataclass(slots=True)
class Wire:
    """One direction between two ports."""

    generator: random.Random
    line: Line = field(default_factory=Line)
    counts: Counts = field(default_factory=Counts)
    _last_due_s: float = 0.0

    def due_times_s(self, now_s: float, target: bytes) -> list[float]:
        """When this frame, sent to `target` (6 bytes), arrives: once, twice or never."""
        line, counts, chance = self.line, self.counts, self.generator.random
        if line.cut:
            counts.cut += 1
            return []
        if not line.multicast and target[0] & 1 and target != BROADCAST:
            counts.filtered += 1
            return []
        if line.loss and chance() < line.loss:
            counts.lost += 1
            return []
        counts.passed += 1
        times = [self._due_s(now_s)]
        if line.duplication and chance() < line.duplication:
            counts.duplicated += 1
            times.append(self._due_s(now_s))
        return times

    def _due_s(self, now_s: float) -> float:
        line, chance = self.line, self.generator.random
        due_s = now_s + line.delay_s + (line.jitter_s * chance() if line.jitter_s else 0.0)
        if line.reordering and chance() < line.reordering:
            self.counts.reordered += 1
            return due_s + OVERTAKEN_S_MAX * chance()
        self.counts.delayed += due_s > now_s
        self._last_due_s = max(due_s, self._last_due_s)
        return self._last_due_s


def new_wire(seed: int, source: str, target: str) -> Wire:
    """A perfect wire."""
    return Wire(random.Random(f"{seed}:{source}>{target}"))
