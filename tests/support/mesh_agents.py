"""Mesh, transport and disk of one machine, for tests over real links on loopback."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace

from tests.support.links import facts_of

from covey_mesh.core.leadership_source import LeadershipSource
from covey_mesh.core.names import NodeId
from covey_mesh.io.ballot_store import BallotStore
from covey_mesh.io.disk_worker import DiskWorker
from covey_mesh.io.identity import Identity
from covey_mesh.io.mesh import FROM_PERSON, MeshRuntime
from covey_mesh.io.peer_cache import PeerCache
from covey_mesh.io.transport import GrpcTransport

WAIT_S = 20.0


class Agent:
    """Mesh, transport and disk of one machine."""

    def __init__(
        self, identity: Identity, incarnation: int, source: LeadershipSource | None = None, data_port: int | None = 0
    ) -> None:
        facts = facts_of(identity, incarnation)
        self.identity = identity
        self.worker = DiskWorker()
        self.transport = GrpcTransport(identity, None, "127.0.0.1:0", facts, data_port=data_port)
        self.mesh = MeshRuntime(
            self.transport,
            facts,
            lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
            random.Random(identity.node_id).random,
            BallotStore(identity.state_dir, self.worker),
            PeerCache(identity.state_dir, self.worker),
            source=source,
        )
        self.transport.report_to(self.mesh)
        self._facts = facts
        self.running = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.transport.port}"

    @property
    def leader(self) -> NodeId | None:
        return self.mesh.status().leader

    async def start(self, *peers: str) -> None:
        await self.mesh.start()
        await self.transport.start()
        data_port = self.transport.data_port
        self.mesh.set_facts(replace(self._facts, link_addresses=(self.address,), facts_version=1, data_port=data_port))
        for peer in peers:
            self.mesh.hint((peer,), FROM_PERSON)
        self.running = True

    async def crash(self) -> None:
        """Without handing over."""
        self.running = False
        self.mesh.halt()
        await self.transport.close()
        self.worker.close()

    async def stop(self) -> None:
        if self.running:
            await self.mesh.stop()
            await self.crash()


async def until(condition: Callable[[], bool], what: str) -> float:
    """Seconds that it took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < WAIT_S, f"did not happen: {what}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began_s
