"""What machines have measured is seen from every one, in `covey speeds` and in metrics, and outlives their agents."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.polling import wait_until
from tests.support.real_agents import AgentPool, ask_whole

from covey.demo.agent_process import AgentProcess, call_covey

SPEED = 50.0
ANSWERS = 12


@pytest.fixture
def pool() -> Iterator[AgentPool]:
    made = AgentPool(("anna", "ben"), ("--simulated-decode-tokens-per-s", f"{SPEED:g}"))
    try:
        made.start()
        yield made
    finally:
        made.close()


def speeds(seen_from: AgentProcess, model: str) -> dict[str, Any]:
    (row,) = call_covey(seen_from.state_dir, "speeds", model)["speeds"]
    return dict(row)


def metrics(agent: AgentProcess) -> str:
    with urllib.request.urlopen(f"http://{agent.addresses.http}/metrics", timeout=10) as answer:
        text: bytes = answer.read()
    return text.decode()


def test_speeds_are_seen_everywhere_and_survive_a_restart(pool: AgentPool) -> None:
    anna, ben = pool.agents.values()
    assert speeds(anna, "only-ben")["source"] == "prior"
    for _ in range(ANSWERS):
        ask_whole(anna.client, "only-ben", 12)
    learned = wait_until(
        lambda: (row := speeds(anna, "only-ben"))["source"] == "learned" and row, "what was measured is told"
    )
    assert learned["name"] == "ben"
    assert learned["decode_tokens_per_s"] == pytest.approx(SPEED, rel=0.5)
    assert learned["load_s"] >= 0
    assert learned["slower"] < 3
    assert 'covey_model_decode_step_seconds{batch="1"' in metrics(anna)
    assert ben.stop() == 0
    assert (ben.state_dir / "speeds.json").is_file()
    ben.start()
    ben.wait_answering()
    pool.wait_whole()
    row = wait_until(lambda: (row := speeds(anna, "only-ben"))["reachable"] and row, "it is back")
    assert row["source"] == "stored"
    assert row["observations"] > 0
    assert row["decode_tokens_per_s"] == pytest.approx(learned["decode_tokens_per_s"], rel=0.3)
