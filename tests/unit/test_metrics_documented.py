"""docs/metrics.md names every metric, and no metric that does not exist; so does the dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.batches import FakeDoor

from covey_gateway.core.batches.settings import BatchSettings
from covey_gateway.io.batches.library import BatchLibrary
from covey_gateway.io.batches.metrics import BatchCollector
from covey_gateway.io.batches.runner import BatchRunner
from covey_gateway.io.metrics import GatewayMetrics
from covey_gateway.io.processes.metrics import ProcessesCollector
from covey_gateway.io.processes.port import Surroundings
from covey_gateway.io.processes.supervisor import GatewayProcesses
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId

ROOT = Path(__file__).resolve().parents[2]
NODE = NodeId("a" * 32)
SUFFIXES = ("_bucket", "_sum", "_count")


def _exported() -> set[str]:
    metrics = GatewayMetrics("1", NODE, lambda: PoolView(NODE), dict, lambda: 0.0)
    library = BatchLibrary(Path(), NODE, BatchSettings(), lambda: 0.0)
    metrics.registry.register(BatchCollector(BatchRunner(library, FakeDoor(), lambda: PoolView(NODE))))
    around = Surroundings(None, metrics, metrics.requests_lost)  # type: ignore[arg-type]
    metrics.registry.register(ProcessesCollector(GatewayProcesses(0, (), lambda _: b"", around)))
    families = list(metrics.registry.collect())
    library.thread.close()
    names = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    return {n for n in names if n.startswith("covey_")}


def _used(text: str) -> set[str]:
    """Metric names that a text uses, without a histogram's suffix."""
    found = set(re.findall(r"\bcovey_[a-z_]+", text))
    return {next((n.removesuffix(s) for s in SUFFIXES if n.endswith(s)), n) for n in found}


def test_every_metric_is_documented() -> None:
    rows = re.findall(r"^\| `(covey_[a-z_]+)` \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    assert sorted(rows) == sorted(_exported())


def test_the_documents_expressions_use_metrics_that_exist() -> None:
    assert _used((ROOT / "docs/metrics.md").read_text()) <= _exported()


def test_the_dashboard_uses_metrics_that_exist() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/pool.json").read_text())
    expressions = [t["expr"] for p in dashboard["panels"] for t in p.get("targets", [])]
    assert len(expressions) > 20
    assert _used("\n".join(expressions)) <= _exported()
