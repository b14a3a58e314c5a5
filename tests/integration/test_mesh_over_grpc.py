"""The real mesh over the real transport: machines on loopback find each other, elect, lose a leader, come back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.links import facts_of, new_member, new_pool

from covey_mesh.core.facts import NodeLoad
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

    def __init__(self, identity: Identity, incarnation: int) -> None:
        facts = facts_of(identity, incarnation)
        self.identity = identity
        self.worker = DiskWorker()
        self.transport = GrpcTransport(identity, None, "127.0.0.1:0", facts)
        self.mesh = MeshRuntime(
            self.transport,
            facts,
            lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
            random.Random(identity.node_id).random,
            BallotStore(identity.state_dir, self.worker),
            PeerCache(identity.state_dir, self.worker),
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
        self.mesh.set_facts(replace(self._facts, link_addresses=(self.address,), facts_version=1))
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


@contextlib.asynccontextmanager
async def pool(directory: Path, machines: int) -> AsyncIterator[list[Agent]]:
    """Machines that were told of the first one only."""
    keeper = new_pool(directory / "0")
    identities = [keeper, *(new_member(directory / str(n), keeper) for n in range(1, machines))]
    agents = [Agent(identity, 1) for identity in identities]
    try:
        await agents[0].start()
        for agent in agents[1:]:
            await agent.start(agents[0].address)
        await until(lambda: agreed(agents), "one leader, everybody in every view")
        yield agents
    finally:
        for agent in agents:
            await agent.stop()


def agreed(agents: list[Agent]) -> bool:
    running = [agent for agent in agents if agent.running]
    leaders = {agent.leader for agent in running}
    ids = {agent.identity.node_id for agent in running}
    views = [{n for n, m in agent.mesh.view().members.items() if m.reachable} for agent in running]
    return len(leaders) == 1 and leaders <= ids and all(view == ids for view in views)


@pytest.mark.asyncio
async def test_machines_told_of_one_find_all_and_elect_one(tmp_path: Path) -> None:
    async with pool(tmp_path, 3) as agents:
        agents[1].mesh.publish(NodeLoad(agents[1].identity.node_id, 1, 7))
        seen_by = agents[2].mesh
        await until(
            lambda: seen_by.view().members[agents[1].identity.node_id].load.sequence == 7, "the load is seen by all"
        )


@pytest.mark.asyncio
async def test_a_leader_that_dies_is_replaced_without_waiting_for_its_lease(tmp_path: Path) -> None:
    async with pool(tmp_path, 3) as agents:
        leader = next(agent for agent in agents if agent.leader == agent.identity.node_id)
        await leader.crash()
        gap_s = await until(lambda: agreed(agents), "another leader")
        print(f"without a leader for {gap_s:.2f} s")


@pytest.mark.asyncio
async def test_a_machine_that_restarts_keeps_its_promise_and_rejoins_from_its_cache(tmp_path: Path) -> None:
    async with pool(tmp_path, 2) as agents:
        promised = agents[1].mesh.status().ballot
        await agents[1].stop()
        await until(lambda: agreed(agents), "the other leads alone")
        agents[1] = Agent(agents[1].identity, 2)
        await agents[1].start()
        await until(lambda: agreed(agents), "the machine is back")
        assert agents[1].mesh.status().ballot >= promised
