"""The real mesh over the real transport: machines on loopback find each other, elect, lose a leader, come back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.links import new_member, new_pool
from tests.support.mesh_agents import Agent, until

from covey_mesh.core.facts import NodeLoad


@contextlib.asynccontextmanager
async def pool(directory: Path, machines: int, data_port: int | None = 0) -> AsyncIterator[list[Agent]]:
    """Machines that were told of the first one only."""
    keeper = new_pool(directory / "0")
    identities = [keeper, *(new_member(directory / str(n), keeper) for n in range(1, machines))]
    agents = [Agent(identity, 1, data_port=data_port) for identity in identities]
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
@pytest.mark.parametrize("data_port", [None, 0], ids=["grpc", "data"])
async def test_a_leader_that_dies_is_replaced_without_waiting_for_its_lease(
    tmp_path: Path, data_port: int | None
) -> None:
    async with pool(tmp_path, 3, data_port) as agents:
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
