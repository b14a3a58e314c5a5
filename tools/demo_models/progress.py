"""A budget of steps and minutes, and the progress line that says how much of it is used."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Counts steps; the run ends after `steps_max` steps or `seconds_max` seconds, whichever comes first.

    The learning rate follows `share`, so that a slow machine ends with a finished, if shorter, training.
    """

    name: str
    steps_max: int
    seconds_max: float
    line_every_seconds: float = 5.0
    step: int = 0
    _started: float = field(default_factory=time.monotonic)
    _last_line: float = 0.0
    _loss: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def share(self) -> float:
        """How much of the budget is used, from 0 to 1."""
        return min(1.0, max(self.step / self.steps_max, self.seconds / self.seconds_max))

    @property
    def loss(self) -> float:
        """The loss, smoothed over about fifty steps."""
        return self._loss if self._loss is not None else float("nan")

    def record(self, loss: float) -> None:
        """Count one step; print a line when the last one is some seconds old."""
        self.step += 1
        self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        if self.seconds - self._last_line >= self.line_every_seconds:
            self._last_line = self.seconds
            print(f"{self.name}: {self.line()}", flush=True)

    def line(self) -> str:
        """One line for a person: steps, loss, time."""
        return f"step {self.step} of {self.steps_max}, {self.share:.0%}, loss {self.loss:.3f}, {self.seconds:.0f} s"


def learning_rate_factor(share: float, warm_up: float = 0.02, decay_from: float = 0.4) -> float:
    """Rises linearly, stays at one, then falls linearly to zero; `share` is the part of the training that is done."""
    if share < warm_up:
        return max(share / warm_up, 0.05)
    if share < decay_from:
        return 1.0
    return max((1.0 - share) / (1.0 - decay_from), 0.0)
