"""The pool of a chaos run: agents that can be killed, frozen, wiped and starved of disk, and the history of all that.

Each state directory lies on a tiny disk of its own. Folders carry the pid; those of dead pids are swept. Not here:
when what is done (scenarios.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.lan.agents import POOL_NAME, HostAgent, LanPool
from tests.lan.chaos.judging import GatewayHistory
from tests.lan.lab import Host
from tests.lan.shell import tool
from tests.support.engines import engine_processes
from tests.support.polling import wait_until
from tests.support.real_agents import whole

ROOT = Path(__file__).resolve().parents[3]
DISK = "2m"
FOREVER_S = float("inf")
_FOLDER = re.compile(r"covey-chaos-(\d+)-")
STOP_GRACE_S = 3.0


class ChaosAgent(HostAgent):
    """The agent of one host, started beside a thread that takes inner faults (tests/lan/programs/agent.py)."""

    def __init__(self, host: Host, root: Path, settings: Sequence[str]) -> None:
        self._disk = root / f"{host.name}.disk"
        self._disk.mkdir(mode=0o700)
        tool("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "covey-chaos", str(self._disk))
        super().__init__(host, self._disk, settings)
        self._log = root / f"{host.name}.log"
        self._log.touch()
        self._fifo = root / f"{host.name}.fifo"
        os.mkfifo(self._fifo)
        self._log_read = 0
        self.history = GatewayHistory()
        self.frozen = False

    def command(self, *arguments: str, state_dir: Path | None = None) -> list[str]:
        command = super().command(*arguments, state_dir=state_dir)
        if arguments[0] == "up":
            at = command.index("-m")
            command[at : at + 2] = ["-m", "tests.lan.programs.agent", str(self._fifo)]
            # A crash below Python leaves its stack in the log.
            command[1:1] = ["PYTHONFAULTHANDLER=1"]
            command[1:1] = [f"PYTHONPATH={os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}"]
        return command

    @property
    def exit_code(self) -> int | None:
        """Of a process that has ended by itself; negative: the signal."""
        return None if self._process is None else self._process.poll()

    @property
    def log_path(self) -> Path:
        return self._log

    # --- what is done to it ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, where it does not run."""
        if not self.running:
            super().start()

    def wait_answering(self) -> None:
        """Also closes the span of its absence."""
        super().wait_answering()
        now_s = time.time()
        self.history.ended = [(begin, min(end, now_s)) for begin, end in self.history.ended]

    def kill(self) -> None:
        """kill -9."""
        if self.running:
            self._gone()
            self.history.killed.append(time.time())
            self.frozen = False
            super().kill()

    def stop_in_order(self) -> None:
        """SIGTERM, and wait."""
        self._gone()
        self.stop()

    def _gone(self) -> None:
        self.history.ended.append((time.time(), FOREVER_S))

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing moves."""
        self.history.frozen.append((time.time(), FOREVER_S))
        self.frozen = True
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT, where it is frozen."""
        if self.frozen and self.running:
            os.kill(self.pid, signal.SIGCONT)
            self.frozen = False
            now_s = time.time()
            self.history.frozen = [(begin, min(end, now_s)) for begin, end in self.history.frozen]

    def inner(self, command: str) -> None:
        """See tests/lan/programs/agent.py."""
        word, _, number = command.partition(" ")
        if word == "block":
            # Its own clients wait with it, as those of a frozen one.
            self.history.frozen.append((time.time(), time.time() + float(number) + 0.5))
        descriptor = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "w") as lines:
            lines.write(command + "\n")

    def signal_engines(self, number: signal.Signals) -> None:
        """To every process of its engines (real ones)."""
        for pid in engine_processes(self):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def fill_disk(self) -> None:
        """No byte more fits beside the state."""
        with contextlib.suppress(OSError), (self._disk / "filling").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    def free_disk(self) -> None:
        (self._disk / "filling").unlink(missing_ok=True)

    def wipe(self) -> None:
        """As on a new machine; the settings file is put back, since people write it."""
        settings = self.settings_file.read_text()
        shutil.rmtree(self.state_dir)
        self.state_dir.mkdir(mode=0o700)
        self.settings_file.write_text(settings)

    def log_since(self) -> list[str]:
        """Lines that it has logged since the last call."""
        with self._log.open("rb") as file:
            file.seek(self._log_read)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self._log_read += len(content)
        return content.decode(errors="replace").splitlines()

    def unmount(self) -> None:
        tool("umount", "--lazy", str(self._disk), check=False)


class ChaosPool(LanPool):
    """One ChaosAgent a host; the first makes the pool. Machines without models need no engine to be whole."""

    def __init__(self, hosts: Sequence[Host], settings: Sequence[str], models: Callable[[str], Sequence[str]]) -> None:
        """`models`: host name -> what it serves."""
        sweep_folders()
        self._root = Path(tempfile.mkdtemp(prefix=f"covey-chaos-{os.getpid()}-"))
        self.agents = {}
        self.servers = [host.name for host in hosts if models(host.name)]
        for host in hosts:
            words = [word for model in models(host.name) for word in ("--model", model)]
            self.agents[host.name] = ChaosAgent(host, self._root, ("--grace-s", str(STOP_GRACE_S), *settings, *words))

    def is_whole(self) -> bool:
        """All see all, with their models ready, under one leader."""
        members = self.chaos_members
        if not all(agent.running and not agent.frozen for agent in members):
            return False
        pools = [self.pool(agent) for agent in members]
        if any(pool is None for pool in pools) or len({pool["leader_node_id"] for pool in pools if pool}) != 1:
            return False
        leads = str(next(pool["leader_node_id"] for pool in pools if pool))
        return all(self._all_there(pool, leads) for pool in pools if pool)

    def _all_there(self, pool: dict[str, Any], leads: str) -> bool:
        ids = {agent.node_id: agent.name in self.servers for agent in self.chaos_members}
        # A leader without models is as good a leader.
        serving = {**pool, "leader_node_id": next(node for node, serves in ids.items() if serves)}
        reachable = {member["facts"]["node_id"] for member in pool["members"] if member["reachable"]}
        return leads in ids and set(ids) <= reachable and whole(serving, [node for node in ids if ids[node]])

    def wait_whole(self, names: Sequence[str] | None = None, timeout_s: float = 30.0) -> None:
        assert names is None
        wait_until(self.is_whole, "a whole pool", timeout_s)

    def __getitem__(self, name: str) -> ChaosAgent:
        agent = self.agents[name]
        assert isinstance(agent, ChaosAgent)
        return agent

    @property
    def chaos_members(self) -> list[ChaosAgent]:
        return [self[name] for name in self.agents]

    def rejoin(self, agent: ChaosAgent) -> None:
        """A wiped machine joins as a new one, invited by the first."""
        agent.covey("join", self[next(iter(self.agents))].covey("invite")["token"])

    def close(self) -> None:
        """Kill all, unmount, remove. Safe to call twice."""
        for agent in self.chaos_members:
            agent.kill()
            agent.unmount()
        shutil.rmtree(self._root, ignore_errors=True)


def sweep_folders() -> None:
    """Unmount and remove what runs of dead processes left."""
    for folder in Path(tempfile.gettempdir()).glob("covey-chaos-*"):
        match = _FOLDER.match(folder.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            for disk in folder.glob("*.disk"):
                tool("umount", "--lazy", str(disk), check=False)
            shutil.rmtree(folder, ignore_errors=True)


__all__ = ["POOL_NAME", "ChaosAgent", "ChaosPool"]
