"""The whole examination, with the network and the agent replaced: all steps told, exit codes, JSON, odd agents."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.links import new_pool

from covey.cli.group import cli
from covey.doctor import examination, probes
from covey.doctor.examination import Examination
from covey.doctor.finding import Finding, fail, warn
from covey.doctor.pair import Survey, survey_to_json
from covey.settings import load

OWN = "1" * 32
ENGINE = Finding("ok", "vLLM", "fine")


class FakeAgent:
    """Answers the doctor's questions; a page that is an exception is raised."""

    def __init__(self) -> None:
        facts = {"node_id": OWN, "name": "desk", "link_addresses": ["10.0.0.1:8082"], "gateway_addresses": []}
        me = {"facts": facts, "load": {"models": []}, "reachable": True, "silent_for_s": 0.0}
        self.pool: dict[str, Any] = {"node_id": OWN, "leader_node_id": OWN, "models": [{}], "members": [me]}
        self.survey: dict[str, Any] = survey_to_json(Survey(machines=1, known=1))
        self.leader_after = 0

    def get(self, path: str) -> Any:
        self.leader_after -= 1
        return {**self.pool, "leader_node_id": "" if self.leader_after >= 0 else self.pool["leader_node_id"]}

    def post(self, path: str, body: Any, timeout_s: float) -> Any:
        return self.survey


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look at the network takes time."""

    async def nobody(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(probes, "probe_multicast", lambda _: [])
    monkeypatch.setattr(probes, "browse", nobody)
    monkeypatch.setattr(probes, "probe_ports", lambda _: [])
    monkeypatch.setattr(probes, "clock_synchronized", lambda: None)
    monkeypatch.setattr(examination.machine, "check_machine", lambda facts, engine: [ENGINE])


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> FakeAgent:
    made = FakeAgent()
    monkeypatch.setattr(examination, "running_agent", lambda _: object())
    monkeypatch.setattr(examination.AgentClient, "local", lambda _: made)
    monkeypatch.setattr(examination, "LEADER_ASK_INTERVAL_S", 0.0)
    return made


def covey(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--state-dir", str(folder / "state"), *arguments])


async def examined(folder: Path) -> tuple[list[str], list[Finding]]:
    told: list[str] = []
    one = Examination(load({"state_dir": folder}).configuration)
    findings = await one.run(lambda step, found: told.append(step))
    assert sorted(told) == sorted(one.steps)
    return told, findings


def titles(findings: list[Finding]) -> list[str]:
    return [finding.title for finding in findings if finding.level != "ok"]


@pytest.mark.asyncio
async def test_without_a_pool_or_an_agent(quiet: None, tmp_path: Path) -> None:
    _, findings = await examined(tmp_path)
    assert titles(findings) == ["pool", "multicast"]


@pytest.mark.asyncio
async def test_with_an_agent_alone(quiet: None, agent: FakeAgent, tmp_path: Path) -> None:
    new_pool(tmp_path)
    _, findings = await examined(tmp_path)
    assert titles(findings) == ["multicast", "other machines"]


@pytest.mark.asyncio
@pytest.mark.parametrize("survey", [{}, {"pairs": [1], "heard": [], "machines": 1, "known": 1, "late": 0}])
async def test_an_agent_of_another_version(quiet: None, agent: FakeAgent, tmp_path: Path, survey: Any) -> None:
    new_pool(tmp_path)
    agent.survey = survey
    _, findings = await examined(tmp_path)
    assert titles(findings) == ["multicast", "other machines"]


@pytest.mark.asyncio
async def test_an_election_under_way_is_no_finding(quiet: None, agent: FakeAgent, tmp_path: Path) -> None:
    new_pool(tmp_path)
    agent.leader_after = 3
    _, findings = await examined(tmp_path)
    assert "leader" not in titles(findings)


@pytest.mark.asyncio
async def test_no_leader_for_long_is_one(
    quiet: None, agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "LEADER_WAIT_S", 0.0)
    new_pool(tmp_path)
    agent.leader_after = 10**6
    _, findings = await examined(tmp_path)
    assert "leader" in titles(findings)


@pytest.mark.parametrize(
    ("found", "code"), [(warn("disk", "small", "free some"), 0), (fail("disk", "full", "free some"), 5)]
)
def test_exit_codes_and_json(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Finding, code: int
) -> None:
    monkeypatch.setattr(examination.machine, "check_machine", lambda facts, engine: [found])
    done = covey(tmp_path, "--json", "doctor")
    assert done.exit_code == code
    content = json.loads(done.output)
    assert sorted(content) == ["findings", "survey"]
    assert content["findings"][0] == found.as_json()
    for_people = covey(tmp_path, "doctor")
    assert for_people.exit_code == code
    assert "-> free some" in for_people.output


def test_the_engine_is_started_only_when_asked(quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    monkeypatch.setattr(examination, "read_machine", lambda state_dir, start_engine: started.append(start_engine))
    covey(tmp_path, "doctor")
    covey(tmp_path, "doctor", "--thorough")
    assert started == [False, True]


def test_a_silent_name_server_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, released = threading.Event(), threading.Event()

    def silent(host: str) -> list[str]:
        asked.set()
        released.wait(60)
        return ["10.0.0.1"]

    monkeypatch.setattr(probes, "_resolved", silent)
    assert asyncio.run(probes.resolve("office.local", timeout_s=0.01)) == []
    assert asked.wait(60)
    released.set()


def test_a_name_that_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_resolved", lambda host: [f"address of {host}"])
    assert asyncio.run(probes.resolve("office.local.")) == ["address of office.local"]
