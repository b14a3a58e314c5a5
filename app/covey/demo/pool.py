"""The demo's pool: two agents in a temporary directory, joined as two machines would be; nothing is left of it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from covey.demo import ports
from covey.demo.agent_process import POLL_INTERVAL_S, AgentProcess, DemoFailed, call_covey
from covey.errors import UserError
from covey.running import process_runs

CHAT_MODEL = "covey-demo-chat"
MODELS_IN_ALL = 3
READY_WITHIN_S = 600.0
_ENGINE_SIZE = ("--kv-cache-bytes", "64M")

Progress = Callable[..., None]
"""covey.demo.screen.Screen.progress."""


class DemoPool:
    """Use as a context manager: leaving it ends every process and removes every file."""

    def __init__(self, engine: str = "vllm") -> None:
        self._root = Path(tempfile.mkdtemp(prefix="covey-demo-"))
        first, second = ports.choose(((8080, 8081, 8082, 8083), (8090, 8091, 8092, 8093)))
        settings = ("--engine", engine, "--model", "demo", *_ENGINE_SIZE)
        self.first = AgentProcess("anna", self._root / "a", first, (*settings, "--model", "demo-embed"))
        self.second = AgentProcess("ben", self._root / "b", second, (*settings, "--peer", first.link))
        self.agents = (self.first, self.second)
        for agent in self.agents:
            agent.state_dir.mkdir(mode=0o700)

    def __enter__(self) -> DemoPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for agent in self.agents:
                agent.ask_to_stop()
            for agent in self.agents:
                agent.stop()
        except KeyboardInterrupt:
            # A second Ctrl-C: no waiting. Engines die with their agent.
            for agent in self.agents:
                agent.kill()
        finally:
            shutil.rmtree(self._root, ignore_errors=True)

    def start(self, progress: Progress) -> None:
        """Make the pool, join the second agent, start both; their models load from here on."""
        progress("making a pool and its first agent")
        call_covey(self.first.state_dir, "init", "--name", "demo")
        self.first.start()
        self.first.wait_answering()
        progress("inviting the second agent")
        token = call_covey(self.first.state_dir, "invite")["token"]
        call_covey(self.second.state_dir, "join", str(token))
        self.second.start()
        self.second.wait_answering()

    def wait_ready(self, progress: Progress) -> Mapping[str, Any]:
        """Until every agent sees every model ready and a leader; returns the pool as the last one sees it."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            for agent in self.agents:
                agent.check_running()
            pools = [self.pool_of(agent) for agent in self.agents]
            if all(pool is not None and _complete(pool) for pool in pools):
                found: Mapping[str, Any] = pools[-1] or {}
                return found
            progress(*_loading(pools[0]))
            time.sleep(POLL_INTERVAL_S)
        raise DemoFailed("the models did not become ready\n" + "\n".join(agent.last_lines() for agent in self.agents))

    def pool_of(self, agent: AgentProcess) -> Mapping[str, Any] | None:
        """What `agent` says of the pool, or None where it does not answer."""
        try:
            found: Mapping[str, Any] = agent.client.get("/covey/v1/pool")
            return found
        except UserError:
            return None

    def leader_and_other(self) -> tuple[AgentProcess, AgentProcess]:
        """Who leads now, and who does not."""
        pool = self.pool_of(self.first) or {}
        leader = next((agent for agent in self.agents if agent.node_id == pool.get("leader_node_id")), None)
        if leader is None:
            raise DemoFailed("the pool has no leader")
        return leader, next(agent for agent in self.agents if agent is not leader)


def _complete(pool: Mapping[str, Any]) -> bool:
    members = [member for member in pool["members"] if member["reachable"] and member["load"]]
    loads = [model for member in members for model in member["load"]["models"]]
    return (
        len(members) == 2
        and bool(pool["leader_node_id"])
        and len(loads) == MODELS_IN_ALL
        and all(model["state"] == "ready" for model in loads)
    )


def _loading(pool: Mapping[str, Any] | None) -> tuple[str, str]:
    """How many are ready, and how far one of the others has come."""
    if pool is None:
        return "waiting for the agents", ""
    loads = [(member["facts"]["name"], load) for member in pool["members"] for load in _models(member)]
    ready = sum(load["state"] == "ready" for _, load in loads)
    last = next(((name, load) for name, load in reversed(loads) if load["state"] != "ready"), None)
    detail = f"{last[1]['model']} on {last[0]}: {last[1]['detail'] or last[1]['state']}" if last else ""
    return f"loading models, {ready} of {MODELS_IN_ALL} ready", detail


def _models(member: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list((member["load"] or {}).get("models", []))


def descendants(pid: int) -> set[int]:
    """Processes that `pid` started, and those that they started."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                status = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(status.rpartition(")")[2].split()[1])
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = {child for child, parent in parents.items() if parent == waiting[-1]} - found
        waiting.pop()
        found |= children
        waiting += children
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that still run."""
    return {pid for pid in pids if process_runs(pid)}
