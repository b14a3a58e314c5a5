"""Figures of the gateway processes themselves, read when Prometheus asks. Those of their requests are with the agent's
(observed.py). Labels are bounded by covey_gateway.core.process_ids.PROCESSES_MAX.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from covey_gateway.io.processes.supervisor import GatewayProcesses

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessesCollector(Collector):
    """Registered once."""

    def __init__(self, processes: GatewayProcesses) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        processes = self._processes
        running = processes.running
        # The agent is one of them.
        yield GaugeMetricFamily("covey_gateway_processes", "Gateway processes that listen.", 1 + len(running))
        yield CounterMetricFamily(
            "covey_gateway_process_restarts", "Gateway processes that ended and were started again.", processes.restarts
        )
        yield CounterMetricFamily(
            "covey_gateway_process_hangs", "Gateway processes that were killed because they hung.", processes.hung
        )
        cpu = CounterMetricFamily(
            "covey_gateway_process_cpu_seconds", "CPU time of a further gateway process.", labels=["process"]
        )
        memory = GaugeMetricFamily(
            "covey_gateway_process_resident_memory_bytes", "Of a further gateway process.", labels=["process"]
        )
        for number, pid in running.items():
            found = _usage(pid)
            if found is not None:
                cpu.add_metric([str(number)], found[0])
                memory.add_metric([str(number)], found[1])
        yield from (cpu, memory)


def _usage(pid: int) -> tuple[float, float] | None:
    """CPU seconds and resident bytes (proc(5)); None for a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, float(int(fields[21]) * _PAGE_BYTES)
