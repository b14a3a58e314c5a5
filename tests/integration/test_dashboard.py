"""A real Prometheus scrapes a real pool: every expression of the dashboard gives an answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL, AgentPool, ask_whole

from covey.cli.agent_client import AgentClient
from covey.demo.ports import choose

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/pool.json").read_text())
EXPRESSIONS = [(p["title"], t["expr"]) for p in DASHBOARD["panels"] for t in p.get("targets", [])]

# What a pool without GPUs and without trouble cannot show: their expressions must parse, but may be empty.
EMPTY_HERE = (
    "covey_gpu_",
    "covey_broken_answers",
    "covey_retries",
    "covey_refused",
    "covey_links_lost",
    "covey_queue_requests",
)

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="apt-get install prometheus"),
]


CHAT = "/v1/chat/completions"
QUESTION = {"model": SHARED_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}


class Prometheus:
    """A server of its own, with its data in a temporary directory."""

    def __init__(self, folder: Path, targets: list[str]) -> None:
        text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
        assert "- first:8080" in text
        lines = [line for line in text.splitlines() if line.strip() != "- second:8080"]
        listed = "\n".join(f"          - {target}" for target in targets)
        text = "\n".join(lines).replace("          - first:8080", listed).replace("_interval: 5s", "_interval: 1s")
        (folder / "prometheus.yml").write_text(text)
        self.url = f"http://{choose(((0, 0, 0, 0),))[0].http}"
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector; raises on an expression that Prometheus refuses."""
        question = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{question}", timeout=5) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def answers(self, expression: str) -> bool:
        try:
            return bool(self.query(expression))
        except OSError:
            return False

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


def whole_batch(client: AgentClient, path: Path) -> None:
    """Two lines, answered."""
    lines = [{"custom_id": str(n), "method": "POST", "url": CHAT, "body": QUESTION} for n in range(2)]
    path.write_text("\n".join(map(json.dumps, lines)))
    file = client.send_file("/v1/files", {"purpose": "batch"}, path, lambda _: None)
    wish = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "1h"}
    batch = client.post("/v1/batches", wish)
    wait_until(lambda: client.get(f"/v1/batches/{batch['id']}")["status"] == "completed", "the batch is answered")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Two agents with some traffic behind them, scraped for long enough to have rates."""
    pool = AgentPool(("anna", "ben"))
    server = None
    try:
        pool.start()
        server = Prometheus(tmp_path_factory.mktemp("prometheus"), [a.addresses.http for a in pool.agents.values()])
        found = server
        whole_batch(pool.agents["anna"].client, tmp_path_factory.mktemp("batch") / "lines.jsonl")

        def traffic_is_seen() -> bool:
            for agent in pool.agents.values():
                ask_whole(agent.client, SHARED_MODEL)
                agent.client.post(CHAT, {**QUESTION, "n": 4})
            streamed = found.answers("sum(rate(covey_time_per_output_token_seconds_count[1m])) > 0")
            others = ("covey_parts_total", "covey_batch_lines_total")
            return streamed and all(found.answers(f"sum(rate({name}[1m]))") for name in others)

        wait_until(traffic_is_seen, "Prometheus sees a rate of requests", 60)
        yield server
    finally:
        if server is not None:
            server.close()
        pool.close()


def test_every_target_is_up(scraped: Prometheus) -> None:
    wait_until(lambda: len(scraped.query('up{job="covey"} == 1')) == 2, "both agents are scraped")


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS, ids=[t for t, _ in EXPRESSIONS])
def test_every_panel_has_an_answer(scraped: Prometheus, title: str, expression: str) -> None:
    found = scraped.query(expression)
    if not any(name in expression for name in EMPTY_HERE):
        assert found, f"panel {title!r} stays empty: {expression}"


def test_one_leader_is_seen(scraped: Prometheus) -> None:
    wait_until(lambda: scraped.query("sum(covey_is_leader)")[0]["value"][1] == "1", "one leader")


def test_promtool_accepts_every_expression_and_the_configuration(tmp_path: Path) -> None:
    rules = [{"record": f"covey:panel_{n}", "expr": expression} for n, (_, expression) in enumerate(EXPRESSIONS)]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", str(file)], check=True, capture_output=True)
    configuration = ROOT / "deploy/prometheus/prometheus.yml"
    subprocess.run(["promtool", "check", "config", str(configuration)], check=True, capture_output=True)


def test_the_exposition_is_clean(scraped: Prometheus) -> None:
    """promtool's linter reads what an agent really serves."""
    target = scraped.query("covey_build_info")[0]["metric"]["instance"]
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
        text = answer.read()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()
