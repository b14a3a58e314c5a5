"""Metrics of files and batches, read when Prometheus asks; no label but fixed words."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from covey_gateway.io.batches.runner import BatchRunner


class BatchCollector(Collector):
    """Registered once."""

    def __init__(self, runner: BatchRunner) -> None:
        self._runner = runner

    def collect(self) -> Iterator[Metric]:
        runner = self._runner
        yield GaugeMetricFamily("covey_batches_open", "Batches of this machine that have not ended.", runner.running)
        yield GaugeMetricFamily("covey_batch_lines_in_flight", "Lines of batches being answered.", runner.in_flight)
        yield GaugeMetricFamily(
            "covey_batch_window", "Lines of batches that may be in flight now.", runner.window_size()
        )
        ended = CounterMetricFamily("covey_batch_lines", "Lines of batches that ended here.", labels=["outcome"])
        for outcome in ("completed", "failed"):
            ended.add_metric([outcome], runner.lines_ended[outcome])
        yield ended
        used_bytes, files = runner.kept
        yield GaugeMetricFamily("covey_batch_storage_bytes", "Files and answers kept on this machine.", used_bytes)
        yield GaugeMetricFamily("covey_batch_files", "Files kept on this machine.", files)
        yield GaugeMetricFamily(
            "covey_batch_storage_waiting", "1 while answers wait for the disk.", float(bool(runner.saving()))
        )
