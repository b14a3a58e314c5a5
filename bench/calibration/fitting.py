"""Fit the numbers of an EngineProfile to what was measured on some engine: least squares of relative errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from bench.routing.engine import EngineProfile


class PromptTime(NamedTuple):
    """A prompt alone on the engine, nothing of it cached."""

    prompt_tokens: int
    first_token_s: float


class DecodeTime(NamedTuple):
    """`streams` at once, each with `context_tokens` on average; seconds from token to token."""

    streams: int
    context_tokens: float
    token_s: float


def fit(prompts: Sequence[PromptTime], decodes: Sequence[DecodeTime], base: EngineProfile) -> EngineProfile:
    """`base` gives what is known (limits); every time is fitted."""
    chunk = base.chunk_tokens
    step_s, stream_s, context_s = solve(
        [(1.0, float(each.streams), each.streams * each.context_tokens) for each in decodes],
        [each.token_s for each in decodes],
    )
    prompt_step_s, token_s, attention_s = solve(
        [
            (float(math.ceil(each.prompt_tokens / chunk)), float(each.prompt_tokens), each.prompt_tokens**2 / 2)
            for each in prompts
        ],
        [each.first_token_s for each in prompts],
    )
    return replace(
        base,
        step_s=step_s,
        stream_s=stream_s,
        context_token_s=context_s,
        prompt_step_s=max(0.0, prompt_step_s - step_s),
        prompt_token_s=token_s,
        attention_s=attention_s,
    )


def solve(rows: Sequence[Sequence[float]], targets: Sequence[float]) -> list[float]:
    """Coefficients, none below 0, that make row . coefficients / target nearest to 1 in the mean square."""
    scaled = [[value / target for value in row] for row, target in zip(rows, targets, strict=True)]
    columns = list(range(len(rows[0])))
    while True:
        found = _normal_equations([[row[column] for column in columns] for row in scaled])
        if min(found) >= 0 or len(columns) == 1:
            break
        del columns[found.index(min(found))]
    result = [0.0] * len(rows[0])
    for column, value in zip(columns, found, strict=True):
        result[column] = max(0.0, value)
    return result


def _normal_equations(rows: list[list[float]]) -> list[float]:
    """Least squares with every target 1. Columns are scaled first: they differ by ten orders of magnitude."""
    size = len(rows[0])
    scales = [max(abs(row[i]) for row in rows) or 1.0 for i in range(size)]
    a = [[row[i] / scales[i] for i in range(size)] for row in rows]
    matrix = [
        [sum(row[i] * row[j] for row in a) for j in range(size)] + [sum(row[i] for row in a)] for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(matrix[k][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        for k in range(size):
            if k != i:
                share = matrix[k][i] / matrix[i][i]
                matrix[k] = [one - share * other for one, other in zip(matrix[k], matrix[i], strict=True)]
    return [matrix[i][size] / matrix[i][i] / scales[i] for i in range(size)]
