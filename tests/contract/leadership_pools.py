"""Pools of three machines with either source of leadership, behind one interface for the contract tests.

The built-in election runs in virtual time (tests/sim). etcd is real, three processes, with real links between machines.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Protocol

from tests.sim.cluster import Cluster, Shape
from tests.sim.machine import Machine
from tests.support.etcd import EtcdCluster
from tests.support.links import new_member, new_pool
from tests.support.mesh_agents import Agent, until

from covey_mesh.core.ballot import Ballot
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN_ETCD
from covey_mesh.core.transitions import Role
from covey_mesh.io.ballot_store import FILE_NAME, decode
from covey_mesh.io.etcd_client import EtcdClient
from covey_mesh.io.etcd_leadership import EtcdLeadership
from covey_mesh.io.identity import Identity

MACHINES = 3


class LeadershipPool(Protocol):
    """Three machines, started."""

    def seconds_until_agreed(self, limit_s: float) -> float:
        """Until all living machines follow one living leader under one ballot; fails after `limit_s`."""

    def ballot(self) -> Ballot:
        """The one that all follow."""

    def run(self, duration_s: float) -> None:
        """Let time pass."""

    def kill(self, node_id: NodeId) -> None:
        """kill -9."""

    def stop(self, node_id: NodeId) -> None:
        """Cleanly."""

    def start(self, node_id: NodeId) -> None:
        """Again, with its disk."""

    def promised(self, node_id: NodeId) -> Ballot:
        """The highest ballot on its disk."""

    def obeyed_by(self, ballot: Ballot) -> int:
        """How many living machines take placement commands under `ballot` now."""

    def close(self) -> None: ...


class BuiltInPool:
    """In virtual time, with S1 watched all the time."""

    def __init__(self, seed: int = 1) -> None:
        self._cluster = Cluster(seed, Shape(MACHINES)).__enter__()
        self._cluster.start_all()

    def _machine(self, node_id: NodeId) -> Machine:
        return next(machine for machine in self._cluster.machines if machine.node_id == node_id)

    def _alive(self) -> list[Machine]:
        return [machine for machine in self._cluster.machines if machine.alive]

    def _ballots(self) -> set[Ballot]:
        return {machine.election.ballot(machine.now_s()) for machine in self._alive()}

    def seconds_until_agreed(self, limit_s: float) -> float:
        start_s = self._cluster.loop.time()
        while self._cluster.agreed() is None or len(self._ballots()) != 1:
            assert self._cluster.loop.time() - start_s < limit_s, self._cluster.describe()
            self._cluster.run(0.02)
        return self._cluster.loop.time() - start_s

    def ballot(self) -> Ballot:
        (found,) = self._ballots()
        return found

    def run(self, duration_s: float) -> None:
        self._cluster.run(duration_s)

    def kill(self, node_id: NodeId) -> None:
        self._machine(node_id).kill()

    def stop(self, node_id: NodeId) -> None:
        self._cluster.stop_now(self._machine(node_id))
        self._cluster.run(1.0)

    def start(self, node_id: NodeId) -> None:
        self._cluster.start(self._machine(node_id))

    def promised(self, node_id: NodeId) -> Ballot:
        promise = self._machine(node_id).disk.promise
        assert promise is not None
        return promise.ballot

    def obeyed_by(self, ballot: Ballot) -> int:
        return sum(machine.election.may_obey(ballot, machine.now_s()) for machine in self._alive())

    def close(self) -> None:
        self._cluster.__exit__(None, None, None)


class EtcdPool:
    """Real links and real disks, on a loop of its own that runs while a test waits."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self._cluster = cluster
        self._root = Path(tempfile.mkdtemp(prefix="covey-mesh-"))
        self._runner = asyncio.Runner()
        keeper = new_pool(self._root / "0")
        identities = [keeper, *(new_member(self._root / str(n), keeper) for n in range(1, MACHINES))]
        self._incarnations = itertools.count(1)
        self._agents: dict[NodeId, Agent] = {}
        for identity in identities:
            self._agents[identity.node_id] = self._runner.run(self._make(identity))

    async def _make(self, identity: Identity) -> Agent:
        known = [agent.address for agent in self._agents.values() if agent.running]
        agent = Agent(identity, next(self._incarnations), self._source(identity.pool_id))
        await agent.start(*known)
        return agent

    def _source(self, pool_id: str) -> EtcdLeadership:
        endpoints = list(self._cluster.endpoints)
        random.shuffle(endpoints)
        client = EtcdClient(endpoints, None, LAN_ETCD.call_timeout_s)
        return EtcdLeadership(client, pool_id, lambda: time.clock_gettime(time.CLOCK_BOOTTIME), random.random)

    def _alive(self) -> list[Agent]:
        return [agent for agent in self._agents.values() if agent.running]

    def _ballots(self) -> set[Ballot]:
        return {agent.mesh.status().ballot for agent in self._alive()}

    def _agreed(self) -> bool:
        ballots = self._ballots()
        living = {agent.identity.node_id for agent in self._alive()}
        roles = {agent.mesh.status().role for agent in self._alive()}
        return len(ballots) == 1 and next(iter(ballots)).node_id in living and roles <= {Role.LEADING, Role.FOLLOWING}

    def seconds_until_agreed(self, limit_s: float) -> float:
        took_s = self._runner.run(until(self._agreed, "one leader"))
        assert took_s < limit_s, f"took {took_s:.1f} s"
        return took_s

    def ballot(self) -> Ballot:
        (found,) = self._ballots()
        return found

    def run(self, duration_s: float) -> None:
        self._runner.run(asyncio.sleep(duration_s))

    def kill(self, node_id: NodeId) -> None:
        self._runner.run(self._agents[node_id].crash())

    def stop(self, node_id: NodeId) -> None:
        self._runner.run(self._agents[node_id].stop())

    def start(self, node_id: NodeId) -> None:
        self._agents[node_id] = self._runner.run(self._make(self._agents[node_id].identity))

    def promised(self, node_id: NodeId) -> Ballot:
        stored = decode((self._agents[node_id].identity.state_dir / FILE_NAME).read_bytes())
        return stored.ballot

    def obeyed_by(self, ballot: Ballot) -> int:
        return sum(agent.mesh.may_obey(ballot) for agent in self._alive())

    def close(self) -> None:
        for agent in self._alive():
            self._runner.run(agent.stop())
        self._runner.close()
        shutil.rmtree(self._root)
