"""The same requests on the real thing and in the model, side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Times(NamedTuple):
    """One request: seconds from its arrival."""

    first_token_s: float
    completion_s: float


class Figure(NamedTuple):
    name: str
    real_s: float
    model_s: float

    @property
    def error(self) -> float:
        return self.model_s / self.real_s - 1


def compare(real: Sequence[Times], model: Sequence[Times]) -> list[Figure]:
    """Both hold the same requests."""
    assert len(real) == len(model), "every request counts, on both sides"
    firsts = [sorted(each.first_token_s for each in side) for side in (real, model)]
    ends = [[each.completion_s for each in side] for side in (real, model)]
    return [
        Figure("mean TTFT", *map(statistics.fmean, firsts)),
        Figure("median TTFT", *map(statistics.median, firsts)),
        Figure("p99 TTFT", *(values[math.ceil(0.99 * len(values)) - 1] for values in firsts)),
        Figure("mean completion", *map(statistics.fmean, ends)),
    ]


def show(title: str, figures: Sequence[Figure]) -> None:
    print(f"\n{title}\n{'':<16} {'real s':>10} {'model s':>10} {'error':>8}")
    for each in figures:
        print(f"{each.name:<16} {each.real_s:>10.3f} {each.model_s:>10.3f} {each.error:>+8.1%}", flush=True)


def ratio_lines(name: str, figures: Sequence[Figure]) -> list[str]:
    """Model / real."""
    return [
        f"ratio calibration_{name}_{each.name.replace(' ', '_').lower()} {each.model_s / each.real_s:.3f}"
        for each in figures
    ]
