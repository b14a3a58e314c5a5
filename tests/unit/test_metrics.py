"""What is counted, and that no client can grow a label set."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from covey_gateway.core.observer import RequestSummary
from covey_gateway.io import metrics as metrics_module
from covey_gateway.io import tallies
from covey_gateway.io.metrics import GatewayMetrics
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.facts import EngineState, Gpu, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss

A, B = NodeId("a" * 32), NodeId("b" * 32)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _view() -> PoolView:
    gpu = Gpu(0, "GPU-1", "RTX", 24 << 30, 20 << 30, utilization_percent=50)
    load = ModelLoad("m", EngineState.READY, "vllm", Task.GENERATE, 2048, running_requests=3)
    member = Member(NodeFacts(A, "desk", "1", 1, 1), NodeLoad(A, 1, 1, (gpu,), (load,)), reachable=True)
    return PoolView(A, 1, A, Ballot(7, A), {A: member})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> GatewayMetrics:
    return GatewayMetrics("1", A, _view, lambda: {"m": 2}, clock)


def _summary(model: str = "m", **changes: object) -> RequestSummary:
    values: dict[str, object] = {
        "path": "/v1/chat/completions", "model": model, "node_id": A, "status": 200, "streaming": True, "seconds": 2.0,
        "first_byte_s": 0.5, "chunks": 16, "prompt_tokens": 10, "output_tokens": 16, "attempts": 2, "broken": False,
    }  # fmt: skip
    return RequestSummary(**(values | changes))  # type: ignore[arg-type]


def _value(metrics: GatewayMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_request_is_counted_once(metrics: GatewayMetrics) -> None:
    metrics.request_started("/v1/chat/completions", "m")
    assert _value(metrics, "covey_requests_in_flight") == 1
    metrics.first_byte("m", A, 0.5)
    metrics.finished(_summary())
    assert _value(metrics, "covey_requests_in_flight") == 0
    assert _value(metrics, "covey_requests_total", path="/v1/chat/completions", model="m", status="200") == 1
    assert _value(metrics, "covey_time_per_output_token_seconds_sum", model="m", node=A) == pytest.approx(0.1)
    assert _value(metrics, "covey_tokens_total", model="m", node=A, kind="output") == 16
    assert _value(metrics, "covey_attempts_total") == 2


@pytest.mark.parametrize("change", [{"first_byte_s": None}, {"output_tokens": 1}, {"streaming": False}])
def test_no_pace_without_two_streamed_tokens(metrics: GatewayMetrics, change: dict[str, object]) -> None:
    metrics.finished(_summary(**change))
    assert _value(metrics, "covey_time_per_output_token_seconds_count", model="m", node=A) is None


def test_labels_stop_growing(metrics: GatewayMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "LABEL_VALUES_MAX", 4)
    for number in range(20):
        metrics.finished(_summary(model=f"invented-{number}"))
    models = {
        sample.labels["model"]
        for family in metrics.registry.collect()
        if family.name == "covey_requests"
        for sample in family.samples
    }
    assert len(models) <= 5
    assert "other" in models


def test_a_failover_is_timed_and_counted(metrics: GatewayMetrics, clock: Clock) -> None:
    metrics.leadership_changed(A, Ballot(1, A))
    clock.now_s += 10
    metrics.leadership_changed(None, NO_BALLOT)
    clock.now_s += 1.25
    metrics.leadership_changed(B, Ballot(2, B))
    assert _value(metrics, "covey_leader_changes_total") == 2
    assert _value(metrics, "covey_failovers_total") == 1
    assert _value(metrics, "covey_leaderless_seconds_sum") == pytest.approx(1.25)


def test_regaining_the_same_leader_is_no_failover(metrics: GatewayMetrics) -> None:
    for ballot in (Ballot(1, A), Ballot(3, A)):
        metrics.leadership_changed(A, ballot)
        metrics.leadership_changed(None, NO_BALLOT)
    assert _value(metrics, "covey_failovers_total") == 0


def test_the_pool_is_read_at_the_scrape(metrics: GatewayMetrics) -> None:
    metrics.member_lost(B, LinkLoss.SILENT)
    text = metrics.exposition().decode()
    for line in (
        f'covey_gpu_utilization_ratio{{gpu="0",gpu_name="RTX",node="{A}"}} 0.5',
        f'covey_model_running_requests{{engine="vllm",model="m",node="{A}"}} 3.0',
        'covey_queue_requests{model="m"} 2.0',
        "covey_ballot 7.0",
        "covey_is_leader 1.0",
        'covey_links_lost_total{reason="silent"} 1.0',
    ):
        assert line in text
    assert "covey_gpu_power_watts{" not in text


# What prometheus_client's own counters and histograms said after `_live_through`, before there was io/tallies.py.
GOLDEN = Path(__file__).with_name("metrics_golden.txt")


def _live_through(metrics: GatewayMetrics, clock: Clock) -> None:
    """Each call at least once, values on and beside the bounds of buckets, labels that need escaping."""
    numbers = random.Random(20261122)
    paths, models, nodes = ("/v1/chat/completions", "/v1/embeddings"), ("m", 'quo"ted\\', ""), (A, B, None)
    for number in range(60):
        path, model, node = paths[number % 2], models[number % 3], nodes[number % 7 % 3]
        seconds = numbers.choice((0.0, 0.005, 0.05, 0.1, 1, 7.3, 600, 601, numbers.random()))
        metrics.request_started(path, model)
        first = numbers.choice((None, seconds / 4))
        if first is not None and node is not None:
            metrics.first_byte(model, node, first)
        told = _summary(
            model, path=path, node_id=node, status=numbers.choice((200, 200, 499, 503)), seconds=seconds,
            first_byte_s=first, streaming=number % 5 < 3, output_tokens=number % 4, prompt_tokens=number, attempts=1,
            broken=number % 11 == 0,
        )  # fmt: skip
        metrics.part_finished(told) if number % 13 == 7 else metrics.finished(told)
    for number in range(5):
        metrics.loop_lagged((0.0, 0.005, 0.0051, 30, 31)[number])
    metrics.request_started(paths[0], "m")
    metrics.requests_lost(1)
    metrics.request_cut(paths[1], 3)
    metrics.retried("link_lost")
    metrics.stream_broke("resumed", 0.25)
    metrics.stream_broke("gave_up")
    metrics.stalled("m", B, opened=False)
    metrics.stalled("m", B, opened=True)
    metrics.ask_timed_out()
    metrics.decided_alone()
    metrics.refused("draining")
    metrics.member_lost(B, LinkLoss.SILENT)
    metrics.leadership_changed(A, Ballot(1, A))
    metrics.leadership_changed(None, NO_BALLOT)
    clock.now_s += 1.25
    metrics.leadership_changed(B, Ballot(2, B))


def _of_covey(metrics: GatewayMetrics) -> str:
    """Without the figures of this process."""
    lines = metrics.exposition().decode().splitlines(keepends=True)
    return "".join(line for line in lines if "covey_" in line)


def test_prometheus_is_told_as_by_its_own_client(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1234.5)
    metrics = GatewayMetrics("1", A, _view, lambda: {"m": 2}, clock)
    _live_through(metrics, clock)
    assert _of_covey(metrics) == GOLDEN.read_text()


def test_straight_through_counts_as_the_calls_that_it_stands_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1234.5)
    one, other = (GatewayMetrics("1", A, _view, dict, clock) for _ in range(2))
    path = "/v1/completions"
    for model, node, seconds in (("m", A, 0.05), ("m", A, 0.0501), ("n", A, 700.0), ("m", B, 0.0)):
        for each in (one, other):
            each.request_started(path, model)
        one.first_byte(model, node, seconds)
        one.finished(
            _summary(model, path=path, node_id=node, seconds=seconds, first_byte_s=seconds, streaming=False, attempts=1)
        )
        other.straight(path, model, node, seconds, 10, 16)
    assert _of_covey(one) == _of_covey(other)
    assert _value(other, "covey_requests_in_flight") == 0


def test_straight_through_stays_in_the_bounds_of_labels(
    metrics: GatewayMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "LABEL_VALUES_MAX", 4)
    monkeypatch.setattr(metrics_module, "SERIES_KNOWN_MAX", 8)
    for number in range(20):
        metrics.straight("/v1/completions", f"m{number}", NodeId(f"{number}"), 0.1, 1, 1)
    text = metrics.exposition().decode()
    assert text.count("covey_requests_total{") <= 5
    assert 'model="other"' in text
    assert _value(metrics, "covey_attempts_total") == 20


def test_series_without_the_time_when_they_began(metrics: GatewayMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.straight("/v1/completions", "m", A, 0.1, 1, 1)
    assert b"covey_request_seconds_created" in metrics.exposition()
    monkeypatch.setattr(tallies, "TELLS_CREATED", False)
    assert b"covey_request_seconds_created" not in metrics.exposition()
