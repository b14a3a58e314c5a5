"""Estimates that a few absurd values cannot move: pure functions over small lists of (value, weight).

The location is a one-step Huber estimate (Huber, "Robust Estimation of a Location Parameter", 1964): a weighted mean
in which every value further than HUBER_WIDTH deviations from the weighted median counts as if it stood there. The
deviation is the median absolute one, times 1.4826 to agree with a normal distribution's (Hampel, 1974). A slope is
the median over pairs of points (Theil, 1950; Sen, 1968). Made for each request: hence lists, which cost no call an
element.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations

HUBER_WIDTH = 1.5
"""In deviations; 95 % as efficient as the mean where nothing is wrong."""

NORMAL_CONSISTENT = 1.4826

Weighted = Sequence[tuple[float, float]]
"""(value, weight > 0), not empty."""


def weighted_median(pairs: Weighted) -> float:
    """The value at which half of the weight is passed; between two values where it is exactly half, their middle."""
    ordered = sorted(pairs)
    half = sum([weight for _, weight in ordered]) / 2
    passed = 0.0
    for position, (value, weight) in enumerate(ordered):
        passed += weight
        if passed > half * (1 + 1e-12):
            return value
        if passed >= half * (1 - 1e-12) and position + 1 < len(ordered):
            return (value + ordered[position + 1][0]) / 2
    return ordered[-1][0]


def location(pairs: Weighted) -> tuple[float, float]:
    """(estimate, deviation), both in the values' unit."""
    centre = weighted_median(pairs)
    deviation = NORMAL_CONSISTENT * weighted_median([(abs(value - centre), weight) for value, weight in pairs])
    low, high = centre - HUBER_WIDTH * deviation, centre + HUBER_WIDTH * deviation
    total = sum([weight for _, weight in pairs])
    held = [(low if value < low else high if value > high else value) * weight for value, weight in pairs]
    return sum(held) / total, deviation


def even(weights: Sequence[float]) -> list[float]:
    """Weights in which no value counts for more than a few others, so that one alone can never be the majority:
    each is at most 4 times the median one, less among few."""
    most = statistics.median(weights) * min(4.0, max(1.0, len(weights) / 4))
    return [most if weight > most else weight for weight in weights]


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Median slope over all pairs with different x; None where there are none."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0]]
    return statistics.median(slopes) if slopes else None
