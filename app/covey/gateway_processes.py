"""The agent's further gateway processes as the configuration wants them: how many, what each is told, how it begins.

Not here: supervising them (covey_gateway.io.processes), what one does (gateway_process.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

from covey.config import Configuration
from covey.gateway_process import ProcessSettings
from covey.security import key_digests
from covey_gateway.core.pages import Routes
from covey_gateway.core.settings import HttpSettings, RequestSettings
from covey_gateway.core.sharing import CLASSES
from covey_gateway.io.metrics import GatewayMetrics
from covey_gateway.io.processes.metrics import ProcessesCollector
from covey_gateway.io.processes.page_relay import described
from covey_gateway.io.processes.port import Surroundings
from covey_gateway.io.processes.supervisor import GatewayProcesses
from covey_mesh.core.names import NodeId
from covey_mesh.io.mesh import MeshRuntime
from covey_scheduler.core.sharding import ShardingSettings

COMMAND = (sys.executable, "-m", "covey.compiled", "covey.gateway_process")

Shared = TypeVar("Shared", HttpSettings, RequestSettings, ShardingSettings)

SHARES = 8
"""Listening sockets of each further process; the agent has one. It does the machine's and the pool's part of every
request, so that it should take few connections itself; it answers on, whatever becomes of the others."""

PAGES_SHARE = 0.75
"""Of the connections of the agent's own socket that all processes together may take for pages: commands go on."""


def gateway_processes(
    wanted: int, mesh: MeshRuntime, metrics: GatewayMetrics, settings: Callable[[int], bytes]
) -> GatewayProcesses | None:
    """None where the agent's own process is all there is. `settings` is asked at each start of one."""
    if wanted == 1:
        return None
    around = Surroundings(mesh, metrics, metrics.requests_lost)
    made = GatewayProcesses(wanted - 1, (*COMMAND, str(os.getpid())), settings, around)
    mesh.subscribe(made)
    metrics.registry.register(ProcessesCollector(made))
    return made


def in_shares(settings: Shared, count: int) -> Shared:
    """What one of `count` processes gets: budgets of memory in equal shares; the number of connections and of requests
    is each process's own."""
    budgets = [each.name for each in dataclasses.fields(settings) if each.name.endswith("_total_bytes_max")]
    return dataclasses.replace(settings, **{name: getattr(settings, name) // count for name in budgets})


def process_settings(
    configuration: Configuration, node_id: NodeId, number: int, http: HttpSettings, routes: Routes
) -> bytes:
    """What process `number` reads first."""
    count = configuration.gateway_processes
    settings = ProcessSettings(
        number=number,
        node_id=node_id,
        agent_socket=http.unix_path,
        pages=described(routes),
        pages_max=max(1, int(http.connections_unix_max * PAGES_SHARE) // (count - 1)),
        key_digests=key_digests(configuration.keys),
        best_classes=best_classes(configuration),
        http=dataclasses.replace(http, unix_path="", shares=SHARES),
        requests=request_settings(configuration),
        sharding=sharding_settings(configuration),
        grace_s=configuration.grace_s,
        log_level=configuration.log_level,
        log_format=configuration.log_format,
    )
    return msgspec.json.encode(settings)


def best_classes(configuration: Configuration) -> dict[str, int]:
    """Owner of a key -> the best class that its requests may have."""
    return {owner: CLASSES[word] for owner, word in configuration.key_priorities.items()}


def request_settings(configuration: Configuration) -> RequestSettings:
    """Of each gateway process, the agent's own among them."""
    return in_shares(RequestSettings(), configuration.gateway_processes)


def sharding_settings(configuration: Configuration) -> ShardingSettings:
    """Likewise."""
    whole = ShardingSettings(enabled=configuration.shard_requests, inputs_min=configuration.shard_inputs_min)
    return in_shares(whole, configuration.gateway_processes)


async def refuse_shared(host: str, port: int) -> None:
    """Raises OSError where another program listens there already: with SO_REUSEPORT the kernel would deal out
    connections between the two without a word."""
    if not port:
        return
    loop = asyncio.get_running_loop()
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                alone.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            alone.bind(address)
