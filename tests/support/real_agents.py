"""Real agents as processes on loopback, with simulated engines: for tests of what a whole pool does.

Every agent is a `covey up` like a user's; joining goes through `covey invite` and `covey join`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.polling import wait_until

from covey.cli.agent_client import AgentClient, Stream
from covey.demo.agent_process import AgentProcess, call_covey
from covey.demo.pool import alive, descendants
from covey.demo.ports import choose
from covey.errors import UserError

SHARED_MODEL = "shared"


class AgentPool:
    """`names[0]` makes the pool. Each machine serves `shared` and a model of its own, `only-NAME`."""

    def __init__(self, names: Sequence[str], settings: Sequence[str] = ()) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="covey-t-"))
        addresses = choose(tuple((0, 0, 0, 0) for _ in names))
        self.agents: dict[str, AgentProcess] = {}
        for name, where in zip(names, addresses, strict=True):
            peers = [word for other in addresses if other is not where for word in ("--peer", other.link)]
            models = ("--model", SHARED_MODEL, "--model", f"only-{name}")
            state_dir = self._root / name
            state_dir.mkdir(mode=0o700)
            flags = ("--engine", "simulated", *models, *peers, *settings)
            self.agents[name] = AgentProcess(name, state_dir, where, flags)

    def start(self) -> None:
        """All of them up, each seeing every other with its models ready, and one leader."""
        first, *others = self.agents.values()
        call_covey(first.state_dir, "init", "--name", "test")
        first.start()
        first.wait_answering()
        for agent in others:
            call_covey(agent.state_dir, "join", str(call_covey(first.state_dir, "invite")["token"]))
            agent.start()
        for agent in others:
            agent.wait_answering()
        self.wait_whole()

    def wait_whole(self, names: Sequence[str] | None = None, timeout_s: float = 30.0) -> None:
        """Until each of `names` (default: all) sees all of them reachable and ready, and the same leader."""
        wanted = [self.agents[name] for name in names or self.agents]

        def agreed() -> bool:
            pools = [self.pool(agent) for agent in wanted]
            return all(p is not None and whole(p, [a.node_id for a in wanted]) for p in pools) and (
                len({p["leader_node_id"] for p in pools if p}) == 1
            )

        wait_until(agreed, f"a whole pool of {[agent.name for agent in wanted]}", timeout_s)

    def pool(self, agent: AgentProcess) -> dict[str, Any] | None:
        """What `agent` says of the pool; None where it does not answer."""
        try:
            found: dict[str, Any] = agent.client.get("/covey/v1/pool")
            return found
        except UserError:
            return None

    def leader(self) -> AgentProcess:
        """Who leads, as the first running agent sees it."""
        viewer = next(agent for agent in self.agents.values() if agent.running)
        pool = self.pool(viewer) or {}
        return next(agent for agent in self.agents.values() if agent.node_id == pool.get("leader_node_id"))

    def close(self) -> None:
        """End all; fails the test where a process is left."""
        pids = {pid for a in self.agents.values() if a.running for pid in (a.pid, *descendants(a.pid))}
        for agent in self.agents.values():
            agent.ask_to_stop()
        for agent in self.agents.values():
            agent.stop()
        shutil.rmtree(self._root)
        wait_until(lambda: not alive(pids), "no process is left")


def whole(pool: dict[str, Any], node_ids: list[str]) -> bool:
    """True if all of these machines are seen, reachable and ready, and one of them leads."""
    members = {m["facts"]["node_id"]: m for m in pool["members"]}
    return bool(pool["leader_node_id"] in node_ids) and all(
        node in members
        and members[node]["reachable"]
        and members[node]["load"]
        and members[node]["load"]["models"]
        and all(model["state"] == "ready" for model in members[node]["load"]["models"])
        for node in node_ids
    )


def ask(client: AgentClient, model: str, max_tokens: int = 8) -> Stream:
    """Begin one streamed chat; raises UserError where it is refused."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": max_tokens}
    return client.stream("/v1/chat/completions", {**body, "stream": True})


def ask_whole(client: AgentClient, model: str, max_tokens: int = 8) -> tuple[str, str]:
    """One chat to its end: (name of the machine that served, text)."""
    stream = ask(client, model, max_tokens)
    text = "".join(c["delta"].get("content") or "" for event in stream for c in event.get("choices", []))
    return stream.headers["x-covey-node"], text
