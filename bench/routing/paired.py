"""Two policies on the same samples: the ratio seed by seed, its interval, and how likely chance alone gives as much."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

STUDENT_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""For 1, 2, ... degrees of freedom; 2.1 beyond."""

FLIPS_EXACT_MAX = 12
FLIPS_DRAWN = 4096


class Paired(NamedTuple):
    """Geometric mean of ours / theirs, the ends of its 95% interval, and the p value (two-sided)."""

    ratio: float
    low: float
    high: float
    p: float


def student_t_95(samples: int) -> float:
    """Half a 95% interval's width in standard errors."""
    return STUDENT_T_95[samples - 2] if samples - 2 < len(STUDENT_T_95) else 2.1


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, student_t_95(len(values)) * statistics.stdev(values) / math.sqrt(len(values))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """On logarithms, so that twice and half weigh the same."""
    logs = [math.log(our / their) for our, their in zip(ours, theirs, strict=True)]
    mean, half = interval(logs)
    return Paired(math.exp(mean), math.exp(mean - half), math.exp(mean + half), sign_flip_p(logs))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Fisher's permutation test: were both alike, each difference could as well have the other sign. The share of all
    choices of signs (or of 4,096 drawn ones, for many samples) whose sum is at least as far from 0."""
    observed = abs(sum(differences))
    count = len(differences)
    if count <= FLIPS_EXACT_MAX:
        signs = list(product((1, -1), repeat=count))
    else:
        draw = random.Random(0)
        signs = [tuple(draw.choice((1, -1)) for _ in range(count)) for _ in range(FLIPS_DRAWN)]
    extreme = sum(
        abs(sum(sign * each for sign, each in zip(flip, differences, strict=True))) >= observed - 1e-12
        for flip in signs
    )
    return extreme / len(signs)
