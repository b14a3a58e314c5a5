"""What is counted, and that no client can grow a label set."""

from __future__ import annotations

import pytest

from covey_gateway.core.observer import RequestSummary
from covey_gateway.io import metrics as metrics_module
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
