"""Counters and histograms that every request passes through: plain numbers, added to on the event loop's thread only.

prometheus_client's own take a lock and several checks for each number; these are handed to it when somebody scrapes,
and come out as its own would (tests/unit/test_metrics.py compares with what those said). What is counted seldom stays
its own. Not here: what is counted, and the bound on labels (metrics.py).
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import INF, floatToGoString

TELLS_CREATED = os.environ.get("PROMETHEUS_DISABLE_CREATED_SERIES", "").lower() not in ("true", "1", "t")
"""prometheus_client's own setting: whether each series is accompanied by the time when it began."""


class Count:
    """One series of a counter. Whoever counts adds to `value`, never less than 0."""

    __slots__ = ("created_unix_s", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.created_unix_s = time.time()


class Spread:
    """One series of a histogram. `counts[i]`: how many were up to `bounds[i]` and above the bound before; the last one:
    above them all."""

    __slots__ = ("bounds", "counts", "created_unix_s", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.created_unix_s = time.time()

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class CountFamily:
    """A counter; `name` without "_total"."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry) -> None:
        self._name, self._text, self._names = name, text, tuple(labels)
        self._series: dict[tuple[str, ...], Count] = {}
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The series of these labels, from now on exported."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = Count()
        return found

    def describe(self) -> Iterable[Metric]:
        return [Metric(self._name, self._text, "counter")]

    def collect(self) -> Iterable[Metric]:
        family = Metric(self._name, self._text, "counter")
        for values, series in list(self._series.items()):
            labels = dict(zip(self._names, values, strict=True))
            family.add_sample(f"{self._name}_total", labels, series.value)
            _add_created(family, labels, series.created_unix_s)
        return [family]


class SpreadFamily:
    """A histogram; `bounds` ascend and leave out infinity."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], *, registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._names, self._bounds = name, text, tuple(labels), tuple(bounds)
        # A bound's text is a label's value: it must be the library's, which has no annotations.
        self._bucket_names: list[str] = [floatToGoString(bound) for bound in (*bounds, INF)]  # type: ignore[no-untyped-call]
        self._series: dict[tuple[str, ...], Spread] = {}
        registry.register(self)

    def labels(self, *values: str) -> Spread:
        """The series of these labels, from now on exported."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = Spread(self._bounds)
        return found

    def describe(self) -> Iterable[Metric]:
        return [Metric(self._name, self._text, "histogram")]

    def collect(self) -> Iterable[Metric]:
        family = Metric(self._name, self._text, "histogram")
        for values, series in list(self._series.items()):
            self._add(family, dict(zip(self._names, values, strict=True)), series)
        return [family]

    def _add(self, family: Metric, labels: dict[str, str], series: Spread) -> None:
        up_to = 0
        for name, count in zip(self._bucket_names, series.counts, strict=True):
            up_to += count
            family.add_sample(f"{self._name}_bucket", {**labels, "le": name}, up_to)
        family.add_sample(f"{self._name}_count", labels, up_to)
        family.add_sample(f"{self._name}_sum", labels, series.sum)
        _add_created(family, labels, series.created_unix_s)


def _add_created(family: Metric, labels: dict[str, str], created_unix_s: float) -> None:
    if TELLS_CREATED:
        family.add_sample(f"{family.name}_created", labels, created_unix_s)
