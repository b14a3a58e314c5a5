"""Real vLLM processes: none outlives its agent, a dead one is started again and reported."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from covey_node.io import runtime_files

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "app" / "covey" / "demo_models" / "covey-demo-chat"
START_S_MAX = 300.0
GONE_S_MAX = 5.0

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900), pytest.mark.asyncio]


@dataclass
class Agent:
    """The agent's process and what it has reported."""

    process: asyncio.subprocess.Process
    folder: Path
    reports: list[dict[str, Any]] = field(default_factory=list)

    def notes(self) -> list[runtime_files.Note]:
        found = [runtime_files.read_note(path) for path in self.folder.glob("*.engine")]
        return [note for note in found if note is not None]

    def engine_processes(self) -> list[int]:
        return [pid for note in self.notes() for pid in note.processes()]

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next report of which the condition holds."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S_MAX):
            while line := await self.process.stdout.readline():
                report: dict[str, Any] = json.loads(line)
                self.reports.append(report)
                if condition(report):
                    return report
        raise AssertionError(f"the agent ended; last reports: {self.reports[-3:]}")


@pytest_asyncio.fixture
async def agent() -> AsyncIterator[Agent]:
    with tempfile.TemporaryDirectory(prefix="cvy", dir="/tmp") as folder:
        command = [sys.executable, "-m", "tests.integration.agent_with_engine", folder, str(MODEL)]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        started = Agent(process, Path(folder))
        try:
            yield started
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            for note in started.notes():
                note.kill_all()


def process_named(pids: list[int], part: str) -> int:
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in pids}
    found = [pid for pid, name in names.items() if part in name]
    assert len(found) == 1, names
    return found[0]


async def gone(pids: list[int], within_s: float) -> list[int]:
    """Which of them are still there after that long."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s
    left = pids
    while left and loop.time() < deadline_s:
        await asyncio.sleep(0.05)
        left = [pid for pid in left if runtime_files.started_at(pid) is not None]
    return left


async def test_engines_die_and_are_replaced(agent: Agent) -> None:
    """One story, since a start costs half a minute: serving process killed, core killed, agent killed."""
    await agent.until(lambda report: report["state"] == "ready")

    first = agent.engine_processes()
    serving = process_named(first, "serve")
    os.kill(serving, signal.SIGKILL)
    report = await agent.until(lambda report: report["state"] == "backing-off")
    assert "SIGKILL" in report["detail"]
    assert await gone(first, GONE_S_MAX) == []
    report = await agent.until(lambda report: report["state"] == "ready")
    assert report["restarts"] == 1

    second = agent.engine_processes()
    core = process_named(second, "EngineCore")
    os.kill(core, signal.SIGKILL)
    await agent.until(lambda report: report["state"] == "backing-off")
    report = await agent.until(lambda report: report["state"] == "ready")
    assert report["restarts"] == 2

    third = agent.engine_processes()
    assert len(third) >= 2
    agent.process.kill()
    await agent.process.wait()
    assert await gone(third, GONE_S_MAX) == []


async def test_an_agent_killed_during_the_start_leaves_nothing(agent: Agent) -> None:
    await agent.until(lambda report: report["state"] == "starting" and "starting the engine" in report["detail"])
    processes = agent.engine_processes()
    assert processes
    agent.process.kill()
    await agent.process.wait()
    assert await gone(processes, GONE_S_MAX) == []
