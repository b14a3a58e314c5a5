"""One of an agent's gateway processes: `python -m covey.gateway_process AGENT_PID SOCKET`, which the agent starts.

The HTTP edge and the request runner of any gateway, on the agent's own address; everything that is of the machine or
the pool (view, leader, engines, links, pages, metrics) is at the other end of the socket. It ends with its agent,
however that ends. Not here: what the agent does for it (covey_gateway.io.processes).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import sys
from dataclasses import dataclass

import msgspec
import uvloop

from covey import logs
from covey.file_limit import raise_file_limit
from covey_engine_plugin.death import die_with_parent
from covey_gateway.core.keys import KeyRing
from covey_gateway.core.process_ids import local_part
from covey_gateway.core.settings import HttpSettings, RequestSettings
from covey_gateway.io.http_server import HttpServer
from covey_gateway.io.loop_lag import LoopLag
from covey_gateway.io.processes.agent_mesh import AgentMesh
from covey_gateway.io.processes.channel import GONE
from covey_gateway.io.processes.page_relay import PageRelay, PageRoute
from covey_gateway.io.runner import RequestRunner
from covey_gateway.io.status import QUERY_KIND, record_answer
from covey_mesh.core.names import NodeId
from covey_mesh.io.discovery import boottime_s
from covey_scheduler.core.leaderless import choose_alone
from covey_scheduler.core.sharding import ShardingSettings

log = logging.getLogger(__name__)

ID_BITS = 44
"""Random ones in a request's id."""

ENDED_BY_AGENT = 3
"""Exit status where the agent is gone, or no longer understood."""


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """All that a process is told at its start, through its standard input. Keys only as digests."""

    number: int
    node_id: str
    agent_socket: str
    pages: list[PageRoute]
    pages_max: int
    key_digests: dict[str, str]
    best_classes: dict[str, int]
    http: HttpSettings
    requests: RequestSettings
    sharding: ShardingSettings
    grace_s: float
    log_level: str
    log_format: str


class GatewayProcess:
    """Runs until it is told to drain, gets SIGTERM, or loses its agent."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._grace_s: asyncio.Future[float] = self._loop.create_future()
        self.mesh = AgentMesh(NodeId(settings.node_id), self._drain, _agent_gone)
        self._lag = LoopLag(self._loop, self.mesh.observer.loop_lagged)
        self._runner = RequestRunner(
            self.mesh, boottime_s, random.random, settings.requests, self.mesh.observer, choose_alone, self._loop,
            new_id=lambda: local_part(settings.number, random.getrandbits(ID_BITS)),
            best_classes=settings.best_classes, sharding=settings.sharding,
        )  # fmt: skip
        routes = PageRelay(settings.agent_socket, settings.pages_max).routes(settings.pages)
        keys = KeyRing(settings.key_digests)
        self._http = HttpServer(self._runner, keys, routes, settings.http, self.mesh.observer, boottime_s)
        self.mesh.answer_queries(QUERY_KIND, lambda asked: record_answer(self._runner, self.mesh.self_id, asked))

    async def main(self, agent: socket.socket) -> None:
        """Raises OSError where the address cannot be listened on."""
        self._loop.add_signal_handler(signal.SIGTERM, self._drain, self._settings.grace_s)
        agent.setblocking(False)
        await self._loop.create_unix_connection(lambda: self.mesh.channel, sock=agent)
        await self.mesh.known.wait()
        await self._http.start()
        self._lag.start()
        gc.collect()
        gc.freeze()
        self.mesh.listening()
        await self._http.drain(await self._grace_s)
        self._lag.stop()
        await self.mesh.leave()

    def _drain(self, grace_s: float) -> None:
        if not self._grace_s.done():
            self._grace_s.set_result(grace_s)


def _agent_gone(why: str) -> None:
    """Nobody is left to serve for: every connection breaks, as with any process that is killed."""
    if why != GONE:
        log.error("the agent is not understood; this gateway process ends", extra={"reason": why})
    os._exit(ENDED_BY_AGENT)


def read_settings(raw: bytes) -> ProcessSettings:
    """Raises msgspec.ValidationError."""
    return msgspec.json.decode(raw, type=ProcessSettings)


def main(arguments: list[str]) -> None:
    """Does not return where the agent ends first."""
    die_with_parent(int(arguments[0]))
    settings = read_settings(sys.stdin.buffer.read())
    logs.set_up(settings.log_level, settings.log_format)
    raise_file_limit()
    agent = socket.socket(fileno=int(arguments[1]))

    async def run() -> None:
        await GatewayProcess(settings).main(agent)

    uvloop.run(run())


if __name__ == "__main__":
    main(sys.argv[1:])
