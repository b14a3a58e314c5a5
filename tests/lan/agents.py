"""Whole agents on the hosts of a lab: `covey init`, `covey invite`, `covey join` and `covey up` as a person runs them.

They find each other by mDNS alone. Not here: what is expected of them (test_pool.py and its siblings).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lan.client import HostClient
from tests.lan.lab import Host
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL, AgentPool

from covey.demo.agent_process import AgentProcess, DemoFailed
from covey.demo.ports import Addresses

KEY = "a-key-for-the-lab-only-0123456789"
POOL_NAME = "office"
HTTP_PORT, GRPC_PORT, LINK_PORT, ENROL_PORT, DATA_PORT = 8080, 8081, 8082, 8083, 8084
EVERYWHERE = Addresses(*(f"0.0.0.0:{port}" for port in (HTTP_PORT, GRPC_PORT, LINK_PORT, ENROL_PORT)))
COMMAND_TIMEOUT_S = 60.0


class HostAgent(AgentProcess):
    """The agent of one host. Its gateway is open to the LAN, with a key from its settings file."""

    def __init__(self, host: Host, folder: Path, settings: Sequence[str]) -> None:
        state_dir = folder / host.name
        state_dir.mkdir(mode=0o700)
        super().__init__(host.name, state_dir, EVERYWHERE, tuple(settings))
        self.host = host
        self.settings_file = state_dir / "covey.toml"
        self.settings_file.write_text(f'[keys]\nlab = "{KEY}"\n')
        self.extra: tuple[str, ...] = ()
        """Settings of the next start only for this host; the last one wins."""

    @property
    def client(self) -> HostClient:
        """A client on the agent's own host: no key on loopback."""
        return HostClient(self.host, f"127.0.0.1:{HTTP_PORT}")

    def client_from(self, host: Host, key: str = KEY) -> HostClient:
        """A client on another host, by the LAN."""
        return HostClient(host, f"{self.host.address}:{HTTP_PORT}", key)

    def covey(self, *arguments: str) -> Mapping[str, Any]:
        """Run a command of covey on the host; its JSON. Raises DemoFailed."""
        done = self.host.run(self.command("--json", *arguments), timeout_s=COMMAND_TIMEOUT_S)
        if done.returncode != 0:
            raise DemoFailed(f"covey {arguments[0]} failed on {self.name}:\n{done.stdout}{done.stderr}")
        found: Mapping[str, Any] = json.loads(done.stdout)
        return found

    def start(self) -> None:
        """Begin; must be called by the main thread, with which the agent dies at the latest."""
        self._asked = False
        where = self.addresses
        addresses = ("--http", where.http, "--grpc", where.grpc, "--link", where.link, "--enrol", where.enrol)
        command = self.command("up", "--log-level", "info", *addresses, *self._settings, *self.extra)
        with self._log.open("ab") as log:
            # As bytes, only because the demo's agents are: nothing is read from it.
            self._process = self.host.popen(command, stdout=log, stderr=log)  # type: ignore[assignment]

    def command(self, *arguments: str, state_dir: Path | None = None) -> list[str]:
        """The covey command with this host's settings, or on another state directory."""
        unset = [word for name in os.environ if name.startswith("COVEY_") for word in ("-u", name)]
        where = ["--config", str(self.settings_file), "--state-dir", str(state_dir or self.state_dir)]
        return ["env", *unset, sys.executable, "-m", "covey", *where, *arguments]


class LanPool(AgentPool):
    """One agent on each of `hosts`; the first makes the pool. `models`: host name -> models, beside those for all."""

    def __init__(self, hosts: Sequence[Host], settings: Sequence[str], models: Mapping[str, Sequence[str]]) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="covey-l-"))
        self.agents = {}
        for host in hosts:
            words = [word for model in models[host.name] for word in ("--model", model)]
            self.agents[host.name] = HostAgent(host, self._root, (*settings, *words))

    def __getitem__(self, name: str) -> HostAgent:
        agent = self.agents[name]
        assert isinstance(agent, HostAgent)
        return agent

    @property
    def members(self) -> list[HostAgent]:
        return [self[name] for name in self.agents]

    def join_all(self) -> None:
        """The first token is the one that `covey init` prints, the others come from `covey invite`."""
        first, *others = self.members
        token = first.covey("init", "--name", POOL_NAME)["token"]
        first.start()
        first.wait_answering()
        for agent in others:
            agent.covey("join", token or first.covey("invite")["token"])
            token = ""

    def start(self, ready_within_s: float = 30.0) -> None:
        """All of them in the pool, up and whole."""
        self.join_all()
        for agent in self.members[1:]:
            agent.start()
        for agent in self.members[1:]:
            agent.wait_answering()
        self.wait_whole(timeout_s=ready_within_s)

    def led_by(self, viewer: HostAgent) -> str:
        """The node id of the leader that this agent sees; "" for none, or where it does not answer."""
        return str((self.pool(viewer) or {}).get("leader_node_id") or "")

    def others(self, *agents: HostAgent) -> list[HostAgent]:
        """All members but these."""
        return [agent for agent in self.members if agent not in agents]

    def restart(self, agent: HostAgent) -> None:
        """Start what was ended, and wait until the pool is whole again."""
        agent.start()
        agent.wait_answering()
        self.wait_whole()


def simulated_pool(hosts: Sequence[Host]) -> LanPool:
    """Each host serves `shared` and `only-NAME`; all but the first serve `pair`."""
    models = {host.name: [SHARED_MODEL, f"only-{host.name}"] for host in hosts}
    for host in hosts[1:]:
        models[host.name].append("pair")
    speeds = ("--simulated-prefill-tokens-per-s", str(PREFILL_TOKENS_PER_S), "--simulated-decode-tokens-per-s", "200")
    return LanPool(hosts, ("--engine", "simulated", *speeds), models)


PREFILL_TOKENS_PER_S = 1000
SLOW_PROMPT = "word " * 3000
"""Three seconds until the first token."""


def await_leader(pool: LanPool, viewers: Sequence[HostAgent], among: Sequence[HostAgent]) -> HostAgent:
    """Until all viewers see the same leader, one of `among`."""

    def same() -> HostAgent | None:
        seen = {pool.led_by(viewer) for viewer in viewers}
        return next((agent for agent in among if seen == {agent.node_id}), None)

    return wait_until(same, f"{[v.name for v in viewers]} have one leader among {[a.name for a in among]}")
