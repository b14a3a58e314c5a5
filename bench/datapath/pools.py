"""covey under measurement: whole pools of real agents (`covey up`), with the stand-in where vLLM would be.

An agent starts its engine as `python -m vllm.entrypoints.cli.main serve ... --uds SOCKET`. Here a package of that name
in a temporary folder, first on PYTHONPATH, becomes the stand-in instead: the agent's own code for vLLM runs unchanged,
over a Unix socket, and no setting exists by which a user could come upon it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.datapath.instruments import MODEL, STAND_IN
from covey import compiled
from covey.demo import ports
from covey.demo.agent_process import AgentProcess, DemoFailed, call_covey
from covey.errors import UserError

READY_TIMEOUT_S = 60.0
POLL_S = 0.1
RUNNING_MAX = "1024"

Found = dict[str, Any]
"""What an agent says of its pool."""


@dataclass(frozen=True)
class Shape:
    """Who serves and who leads: the agent that is asked ("entry"), or another machine ("other"); "both" serve.

    `machines` 1: a pool of the entry alone. `processes`: gateway processes of each agent. Without `data_channel`
    everything between the two goes over gRPC. `compiled`: with what `make compile` has built; else plain Python.
    """

    name: str
    served_by: str = "entry"
    led_by: str = "entry"
    machines: int = 2
    processes: int = 1
    data_channel: bool = True
    compiled: bool = False


SHAPES = (
    Shape("covey here", machines=1),
    Shape("covey here, leader remote", led_by="other"),
    Shape("covey remote, leader local", served_by="other"),
    Shape("covey remote, leader remote", served_by="other", led_by="other"),
)
OVER_GRPC = Shape("covey remote, over gRPC", served_by="other", data_channel=False)
COMPILED = Shape("covey here, compiled", machines=1, compiled=True)
BOTH = Shape("covey, both serve", served_by="both")
BOTH_COMPILED = Shape("covey, both serve, compiled", served_by="both", compiled=True)
"""Every request is decided: nothing is granted where two machines could take it."""

MORE_SHAPES = (
    COMPILED,
    BOTH,
    BOTH_COMPILED,
    OVER_GRPC,
    Shape("covey here, 2 processes", machines=1, processes=2),
)
"""In the table; no figure to reach is about them."""


class Pool:
    """One pool of one shape. `port` is the entry's; `pids` are all its agents."""

    def __init__(self, shape: Shape) -> None:
        self.name = shape.name
        self._shape = shape
        self._root = Path(tempfile.mkdtemp(prefix="covey-bench-"))
        places = ports.choose(((0, 0, 0, 0), (0, 0, 0, 0)))
        self._entry = self._agent("entry", places[0], places[1])
        self._other = self._agent("other", places[1], places[0])
        self._agents = [self._entry, self._other][: shape.machines]
        self.port = int(places[0].http.rpartition(":")[2])

    def _agent(self, name: str, own: ports.Addresses, peer: ports.Addresses) -> AgentProcess:
        state = self._root / name
        state.mkdir(mode=0o700)
        model = self._root / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text("{}")
        settings = ["--peer", peer.link] if self._shape.machines > 1 else []
        if self._shape.processes > 1:
            settings += ["--gateway-processes", str(self._shape.processes)]
        if not self._shape.data_channel:
            settings += ["--data-port", "0"]
        if self._shape.served_by in (name, "both"):
            settings += ["--model", f"{MODEL}={model}", "--device", "cpu", "--running-requests-max", RUNNING_MAX]
        plain = {} if self._shape.compiled else {compiled.SWITCH: "0"}
        return AgentProcess(name, state, own, tuple(settings), plain)

    @property
    def pids(self) -> list[int]:
        return [agent.pid for agent in self._agents if agent.running]

    def start(self, log_folder: Path) -> None:
        """Who starts first leads. Raises RuntimeError."""
        if self._shape.compiled and not compiled.fresh(compiled.ROOT):
            raise RuntimeError("nothing is compiled, or the sources have changed since: make compile")
        first = self._entry if self._shape.led_by == "entry" else self._other
        second = self._other if first is self._entry else self._entry
        try:
            with _stand_in_for_vllm(self._root):
                call_covey(first.state_dir, "init", "--name", "bench")
                first.start()
                first.wait_answering()
                self._until(first, lambda pool: pool["leader_node_id"] == first.node_id, "it does not lead")
                if self._shape.machines > 1:
                    token = call_covey(first.state_dir, "invite")["token"]
                    call_covey(second.state_dir, "join", str(token))
                    second.start()
                    second.wait_answering()
            self._until(self._entry, self._complete, "its pool is not complete")
        except DemoFailed as error:
            raise RuntimeError(str(error)) from error

    def _complete(self, pool: Found) -> bool:
        members = pool["members"]
        ready = [model for member in members for model in (member["load"] or {}).get("models", [])]
        leader = self._entry if self._shape.led_by == "entry" else self._other
        serving = 2 if self._shape.served_by == "both" else 1
        return (
            len(members) == self._shape.machines
            and pool["leader_node_id"] == leader.node_id
            # Their speeds are measured, too.
            and [(model["state"], model["detail"]) for model in ready] == [("ready", "")] * serving
        )

    def _until(self, agent: AgentProcess, condition: Callable[[Found], bool], otherwise: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        pool: Found = {}
        while time.monotonic() < deadline:
            agent.check_running()
            try:
                pool = dict(agent.client.get("/covey/v1/pool"))
                if condition(pool):
                    return
            except UserError:
                pass
            time.sleep(POLL_S)
        raise RuntimeError(f"{otherwise}: {json.dumps(pool)[:600]} {agent.last_lines()[-400:]}")

    def stop(self) -> None:
        for agent in self._agents:
            agent.ask_to_stop()
        for agent in self._agents:
            agent.stop()
        shutil.rmtree(self._root, ignore_errors=True)


@contextmanager
def _stand_in_for_vllm(root: Path) -> Iterator[None]:
    """Agents started within find the stand-in under vLLM's name."""
    folder = root / "python" / "vllm" / "entrypoints" / "cli"
    folder.mkdir(parents=True, exist_ok=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    program = str(STAND_IN)
    (folder / "main.py").write_text(f"import os, sys\nos.execv({program!r}, [{program!r}, *sys.argv[1:]])\n")
    path = os.pathsep.join([str(root / "python"), *filter(None, [os.environ.get("PYTHONPATH")])])
    with patch.dict(os.environ, {"PYTHONPATH": path}):
        yield
