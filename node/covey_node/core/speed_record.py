"""What is kept of a meter between two lives of the agent, and its form in a file: plain values, checked when read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

OBSERVATIONS_RESTORED_MAX = 6
"""A remembered point counts as so many observations at most, so that a few new ones outweigh it."""

LOADS_MAX = 5
ROWS_MAX = 64
"""Of either table: more lengths, and more batches and contexts, than are told apart."""

WORK_MAX = 10_000_000.0
SECONDS_MAX = 1e6


class PrefillMemory(NamedTuple):
    """`work`: in tokens of a short prompt; `pace_s`: seconds each; `at_unix_s`: of the newest observation."""

    work: float
    pace_s: float
    observations: int
    at_unix_s: float


class DecodeMemory(NamedTuple):
    batch: float
    context: float
    step_s: float
    observations: int
    at_unix_s: float


@dataclass(frozen=True, slots=True)
class SpeedRecord:
    """One configuration's."""

    prefill: tuple[PrefillMemory, ...] = ()
    decode: tuple[DecodeMemory, ...] = ()
    loads_s: tuple[float, ...] = ()

    @property
    def newest_unix_s(self) -> float:
        """0 where nothing was measured."""
        times = [each.at_unix_s for each in self.prefill] + [each.at_unix_s for each in self.decode]
        return max(times, default=0.0)


def plain(record: SpeedRecord) -> dict[str, Any]:
    """For JSON."""
    return {
        "prefill": [list(each) for each in record.prefill],
        "decode": [list(each) for each in record.decode],
        "loads_s": list(record.loads_s),
    }


def from_plain(values: object) -> SpeedRecord:
    """Raises ValueError for what `plain` never writes."""
    if not isinstance(values, Mapping):
        raise ValueError("a record is no object")
    prefill = tuple(PrefillMemory(*_numbers(row, 4)) for row in _rows(values.get("prefill")))
    decode = tuple(DecodeMemory(*_numbers(row, 5)) for row in _rows(values.get("decode")))
    loads = tuple(_numbers(values.get("loads_s"), None))[-LOADS_MAX:]
    counts = [each.work for each in prefill] + [step.batch for step in decode]
    times = [each.pace_s for each in prefill] + [step.step_s for step in decode] + list(loads)
    _check(counts + [step.context + 1.0 for step in decode], WORK_MAX)
    _check(times, SECONDS_MAX)
    return SpeedRecord(
        tuple(each._replace(observations=_few(each.observations)) for each in prefill),
        tuple(each._replace(observations=_few(each.observations)) for each in decode),
        loads,
    )


def _rows(values: object) -> list[object]:
    if not isinstance(values, list) or len(values) > ROWS_MAX:
        raise ValueError("no table")
    return values


def _numbers(values: object, length: int | None) -> list[Any]:
    if not isinstance(values, list) or (length is not None and len(values) != length):
        raise ValueError("no row")
    for each in values:
        if isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each):
            raise ValueError("no number")
    return values


def _check(values: list[float], most: float) -> None:
    for value in values:
        if not 0 < value <= most:
            raise ValueError(f"{value} is out of bounds")


def _few(observations: float) -> int:
    return min(OBSERVATIONS_RESTORED_MAX, max(1, int(observations)))
