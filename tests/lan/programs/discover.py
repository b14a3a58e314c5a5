"""Runs Discovery on a host: prints every hint, obeys commands on its input, ends at the input's end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from dataclasses import replace

from tests.lan.programs.lines import commands, emit

from covey_mesh.core.advertisement import Advertisement
from covey_mesh.core.names import NodeId, PoolId
from covey_mesh.io.discovery import Discovery, DiscoverySettings
from covey_mesh.io.interfaces import InterfaceMonitor

GIB = 1024**3


async def main(arguments: argparse.Namespace) -> None:
    advertisement = Advertisement(
        pool_id=PoolId(arguments.pool),
        node_id=NodeId(arguments.node),
        name=arguments.name,
        version="0.1.0",
        incarnation=1,
        link_port=arguments.port,
        http_port=8080,
        gpus="NVIDIA Test 24GB",
        total_bytes=24 * GIB,
        free_bytes=24 * GIB,
    )
    monitor = InterfaceMonitor()
    discovery = Discovery(advertisement, on_hint, monitor, DiscoverySettings(loopback_only=arguments.loopback))
    monitor.start()
    discovery.start()
    emit("started")
    async for command in commands():
        if command["command"] == "free":
            advertisement = replace(advertisement, free_bytes=command["gib"] * GIB)
            discovery.advertise(advertisement)
        elif command["command"] == "status":
            known = [
                [list(hint.addresses), hint.claimed, hint.advertisement.free_bytes // GIB] for hint in discovery.known()
            ]
            emit(
                "status",
                known=known,
                counts=dict(discovery.counts),
                instance=discovery.instance,
                problem=discovery.problem,
                addresses=[one.address for one in discovery.addresses()],
            )
    await discovery.stop()
    await monitor.stop()
    emit("stopped")


def on_hint(addresses: tuple[str, ...], claimed: NodeId, summary: Advertisement) -> None:
    emit("hint", addresses=list(addresses), claimed=claimed, name=summary.name, free_gib=summary.free_bytes // GIB)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--name", default="host")
    parser.add_argument("--port", type=int, default=4711)
    parser.add_argument("--loopback", action="store_true")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    asyncio.run(main(parser.parse_args()))
