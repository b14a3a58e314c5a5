"""The load's process: clients that ask without pause, each on the host of its gateway, one JSON line a request.

A process of its own, so that what the harness does (start agents, pull cables) never shows as a pause in a stream.
Input, JSON lines: `run` (a mix, at every gateway), `stop` (finish what runs; answered), `undisturbed` (everything
that will be asked, once). Ends with its input. Not here: what outcomes mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tests.lan.agents import GRPC_PORT, HTTP_PORT
from tests.lan.chaos.client import Asking
from tests.lan.chaos.grpc_client import GrpcAsking
from tests.lan.chaos.kinds import KINDS, MIXES, PROMPTS_A_KIND
from tests.lan.chaos.observation import Ended, Observation
from tests.lan.namespaces import inside_namespace

UNREACHABLE_PAUSE_S = 0.1
PROBE_PAUSE_S = 0.02
LAG_PERIOD_S = 0.02


class Load:
    """`namespaces`: host name -> network namespace."""

    def __init__(self, namespaces: dict[str, str], seed: int) -> None:
        self._namespaces = namespaces
        self._tunnels = itertools.count()
        self._random = random.Random(f"load:{seed}")
        self._stopping = asyncio.Event()
        self._clients: list[asyncio.Task[None]] = []
        self._probes: asyncio.Future[list[None]] | None = None
        self._lag_s = 0.0
        self._pause_s_max = 0.0

    async def run(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        watching = asyncio.create_task(self._watch_lag())
        async for line in reader:
            command = json.loads(line)
            await getattr(self, f"_do_{command.pop('command')}")(**command)
        watching.cancel()

    async def _watch_lag(self) -> None:
        """How late this machine runs a timer: what no event loop on it can be blamed for."""
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(LAG_PERIOD_S)
            self._lag_s = max(self._lag_s, time.monotonic() - before_s - LAG_PERIOD_S)

    async def _do_run(self, mix: str, clients_max: int, pause_s_max: float) -> None:
        self._stopping.clear()
        self._pause_s_max = pause_s_max
        self._lag_s = 0.0
        pairs = [(entry, kind) for kind in MIXES[mix] for entry in self._namespaces][:clients_max]
        self._clients = [asyncio.create_task(self._ask_on(entry, kind)) for entry, kind in pairs]

    async def _do_stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._clients)
        say(event="stopped", lag_s=self._lag_s)

    async def _do_undisturbed(self, entries: list[str], kinds: list[str]) -> None:
        """Everything that will be asked, at each of these gateways."""
        asked = [(entry, kind, n) for kind in kinds for n in range(PROMPTS_A_KIND) for entry in entries]
        seen = await asyncio.gather(*(self._ask(*one) for one in asked))
        say(event="undisturbed", lines=[observation.as_line() for observation in seen])

    async def _do_probe(self, asked: list[list[str]], seconds: float) -> None:
        """For each (gateway, model), short requests one after the other. Commands go on to be taken meanwhile."""
        until_s = time.time() + seconds
        self._probes = asyncio.gather(*(self._probe(entry, model, until_s) for entry, model in asked))
        self._probes.add_done_callback(lambda _: say(event="probed"))

    async def _probe(self, entry: str, model: str, until_s: float) -> None:
        while time.time() < until_s:
            observation = await self._ask(entry, "short", 0, model)
            say(event="probe", line=observation.as_line())
            await asyncio.sleep(PROBE_PAUSE_S)

    async def _ask_on(self, entry: str, kind: str) -> None:
        while not self._stopping.is_set():
            observation = await self._ask(entry, kind, self._random.randrange(PROMPTS_A_KIND))
            pause_s = self._random.random() * self._pause_s_max
            if observation.ended is Ended.UNREACHABLE:
                pause_s = UNREACHABLE_PAUSE_S
            say(event="ended", line=observation.as_line())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _ask(self, entry: str, kind: str, prompt_number: int, model: str = "") -> Observation:
        model = model or KINDS[kind].model(entry)
        with inside_namespace(self._namespaces[entry]):
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        observation = Observation(kind, entry, model, prompt_number, time.time())
        if KINDS[kind].grpc:
            name = f"covey-load-{os.getpid()}-{next(self._tunnels)}"
            return await GrpcAsking(observation).run(made, ("127.0.0.1", GRPC_PORT), name)
        body = json.dumps(KINDS[kind].body(model, prompt_number)).encode()
        return await Asking(observation).run(made, ("127.0.0.1", HTTP_PORT), body)


def say(**content: Any) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    assert Path("/run/netns").is_dir()
    asyncio.run(Load(json.loads(sys.argv[1]), int(sys.argv[2])).run())
