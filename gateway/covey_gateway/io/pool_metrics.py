"""Gauges of the pool as this machine sees it, read from the view when Prometheus asks: nothing to keep in step.

Every agent exports every machine that it sees, so that scraping one is enough; where all are scraped, aggregate with
`max by (node)`. Labels are bounded by MACHINES_MAX and MODELS_MAX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from covey_gateway.core.speed_table import steps
from covey_mesh.core.facts import EngineState, Gpu, Member, ModelLoad, PoolView

MACHINES_MAX = 256
"""Machines with series of their own; of a larger pool the lowest ids are exported, and the count of all."""

MODELS_MAX = 64
"""Models a machine is exported with."""

_GPU: tuple[tuple[str, str, Callable[[Gpu], float | None]], ...] = (
    ("covey_gpu_memory_total_bytes", "GPU memory.", lambda g: g.memory_total_bytes),
    ("covey_gpu_memory_free_bytes", "GPU memory not in use by any process.", lambda g: g.memory_free_bytes),
    ("covey_gpu_utilization_ratio", "Share of time a kernel ran, 0 to 1.", lambda g: _ratio(g.utilization_percent)),
    ("covey_gpu_power_watts", "Power drawn.", lambda g: g.power_w),
    ("covey_gpu_temperature_celsius", "Core temperature.", lambda g: g.temperature_c),
    ("covey_gpu_foreign_processes", "Processes on the GPU that covey did not start.", lambda g: g.foreign_processes),
)

_MODEL: tuple[tuple[str, str, Callable[[ModelLoad], float]], ...] = (
    ("covey_model_ready", "1 where the engine answers.", lambda m: float(m.ready)),
    (
        "covey_model_wedged",
        "1 where the engine lives and nothing comes from it.",
        lambda m: float(m.state is EngineState.WEDGED),
    ),
    ("covey_model_running_requests", "Requests in the engine's batch.", lambda m: m.running_requests),
    ("covey_model_waiting_requests", "Requests admitted and waiting on the machine.", lambda m: m.waiting_requests),
    ("covey_model_running_limit", "Requests that may run at once.", lambda m: m.running_limit),
    ("covey_model_queued_tokens", "Tokens still to be computed for admitted requests.", lambda m: m.queued_tokens),
    ("covey_model_kv_cache_tokens_capacity", "KV-cache capacity.", lambda m: m.kv_cache_tokens_total),
    ("covey_model_kv_cache_tokens_free", "KV-cache capacity not in use.", lambda m: m.kv_cache_tokens_free),
    ("covey_model_prefill_tokens_per_second", "Measured; 0 before the first.", lambda m: m.prefill_tokens_per_s),
    (
        "covey_model_decode_tokens_per_second",
        "Measured, a stream; 0 before the first.",
        lambda m: m.decode_tokens_per_s,
    ),
    (
        "covey_model_speed_confidence",
        "Of the two speeds: 0 a guess, 1 many observations close together.",
        lambda m: m.speeds.confidence,
    ),
    (
        "covey_model_slowdown_ratio",
        "Present time against the usual one, the worse of both kinds; above 1 is slower.",
        lambda m: max(m.speeds.prefill_factor, m.speeds.decode_factor),
    ),
    ("covey_model_load_seconds", "Of the engine, usually; 0 before the first.", lambda m: m.speeds.load_s),
    ("covey_model_restarts", "Restarts of the engine since the agent started.", lambda m: m.restarts),
)


def _ratio(percent: int | None) -> float | None:
    return None if percent is None else percent / 100


class PoolCollector(Collector):
    """Registered once; `view` and `queue_lengths` are called at each scrape."""

    def __init__(self, view: Callable[[], PoolView], queue_lengths: Callable[[], dict[str, int]]) -> None:
        self._view = view
        self._queue_lengths = queue_lengths

    def collect(self) -> Iterator[Metric]:
        view = self._view()
        members = [view.members[node_id] for node_id in sorted(view.members)][:MACHINES_MAX]
        yield from _pool(view)
        yield from _machines(members)
        for name, text, read in _GPU:
            yield _gpu_family(name, text, members, read)
        for model_name, text, read_model in _MODEL:
            yield _model_family(model_name, text, members, read_model)
        yield _steps_family(members)
        yield self._queue()

    def _queue(self) -> Metric:
        family = GaugeMetricFamily(
            "covey_queue_requests",
            "Requests waiting at the leader, where this machine is the leader.",
            labels=["model"],
        )
        for model, length in sorted(self._queue_lengths().items())[:MODELS_MAX]:
            family.add_metric([model], length)
        return family


def _pool(view: PoolView) -> Iterator[Metric]:
    yield GaugeMetricFamily("covey_pool_machines", "Machines in the view.", value=len(view.members))
    reachable = sum(1 for m in view.members.values() if m.reachable)
    yield GaugeMetricFamily("covey_pool_machines_reachable", "Machines that can serve now.", value=reachable)
    yield GaugeMetricFamily("covey_ballot", "Counter of the granted ballot.", value=view.ballot.counter)
    yield GaugeMetricFamily(
        "covey_has_leader", "1 while this machine follows or is a leader.", value=float(view.leader is not None)
    )
    leading = float(view.leader == view.self_id)
    yield GaugeMetricFamily("covey_is_leader", "1 while this machine leads.", value=leading)


def _machines(members: Iterable[Member]) -> Iterator[Metric]:
    reachable = GaugeMetricFamily("covey_machine_reachable", "1 while reachable from here.", labels=["node", "name"])
    draining = GaugeMetricFamily("covey_machine_draining", "1 while it takes no new work.", labels=["node"])
    round_trip = GaugeMetricFamily("covey_machine_round_trip_seconds", "Of a heartbeat.", labels=["node"])
    for member in members:
        reachable.add_metric([member.node_id, member.facts.name[:64]], float(member.reachable))
        draining.add_metric([member.node_id], float(member.load.draining))
        round_trip.add_metric([member.node_id], member.round_trip_s)
    yield from (reachable, draining, round_trip)


def _gpu_family(name: str, text: str, members: Iterable[Member], read: Callable[[Gpu], float | None]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["node", "gpu", "gpu_name"])
    for member in members:
        for gpu in member.load.gpus:
            value = read(gpu)
            if value is not None:
                family.add_metric([member.node_id, str(gpu.index), gpu.name], value)
    return family


def _model_family(name: str, text: str, members: Iterable[Member], read: Callable[[ModelLoad], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["node", "model", "engine"])
    for member in members:
        for load in member.load.models[:MODELS_MAX]:
            family.add_metric([member.node_id, load.model, load.engine], read(load))
    return family


def _steps_family(members: Iterable[Member]) -> Metric:
    family = GaugeMetricFamily(
        "covey_model_decode_step_seconds",
        "Measured time of one token for each stream of a batch of 1, 8 or 32, as usual; no series before the first.",
        labels=["node", "model", "engine", "batch"],
    )
    for member in members:
        for load in member.load.models[:MODELS_MAX]:
            for step in steps(load):
                family.add_metric([member.node_id, load.model, load.engine, str(step.batch)], step.step_ms / 1000)
    return family
