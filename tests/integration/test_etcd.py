"""A pool of real agents whose leadership a real etcd holds, while members of both are killed.

The contract of every source of leadership is in tests/contract/test_leadership_sources.py. Tests here share one pool
and one cluster, and leave both whole.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from tests.support.etcd import EtcdCluster, needs_etcd
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL, AgentPool, ask_whole

from covey.config import Configuration
from covey.demo.agent_process import AgentProcess
from covey.doctor.etcd import check_etcd
from covey_mesh.core.timing import LAN_ETCD

pytestmark = needs_etcd

NAMES = ("anna", "ben", "carl")
ETCD_FAILOVER_S = 1.8
ELECTED_S = 2.0
"""Taking the key, pre-vote, two disks; on a machine that runs six other processes."""


class Office:
    """Three agents, three members of etcd."""

    def __init__(self, cluster: EtcdCluster, agents: AgentPool) -> None:
        self.cluster = cluster
        self.agents = agents

    def running(self) -> list[AgentProcess]:
        return [agent for agent in self.agents.agents.values() if agent.running]

    def seen(self, leaving_out: AgentProcess | None = None) -> set[str | None]:
        """Whom the agents follow; None stands for nobody."""
        pools = [self.agents.pool(agent) for agent in self.running() if agent is not leaving_out]
        return {None if pool is None else pool["leader_node_id"] or None for pool in pools}

    def leader(self) -> AgentProcess:
        (node_id,) = self.seen()
        return next(agent for agent in self.running() if agent.node_id == node_id)

    def seconds_until_led(self, limit_s: float, gone: AgentProcess | None = None) -> float:
        """Until all but `gone` follow one leader other than `gone`."""

        def led() -> bool:
            seen = self.seen(gone)
            return len(seen) == 1 and seen <= {agent.node_id for agent in self.running() if agent is not gone}

        return seconds_until(led, "a leader", limit_s)

    def ask_all(self) -> None:
        """Every running agent answers requests, also with the model of another machine."""
        for agent in self.running():
            assert ask_whole(agent.client, SHARED_MODEL)[1]
            for other in self.running():
                assert ask_whole(agent.client, f"only-{other.name}")[0] == other.name

    def restart(self, agent: AgentProcess) -> None:
        agent.start()
        agent.wait_answering()
        self.agents.wait_whole()


def seconds_until(condition: Callable[[], bool], what: str, limit_s: float) -> float:
    began_s = time.monotonic()
    wait_until(condition, what, limit_s)
    return time.monotonic() - began_s


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    with EtcdCluster() as cluster:
        cluster.leader()
        flags = [word for endpoint in cluster.endpoints for word in ("--etcd-endpoint", endpoint)]
        agents = AgentPool(NAMES, flags)
        try:
            agents.start()
            yield Office(cluster, agents)
        finally:
            agents.close()


def test_a_killed_leader_is_replaced_before_its_lease_in_etcd_is_over(office: Office) -> None:
    leader = office.leader()
    leader.kill()
    took_s = office.seconds_until_led(ELECTED_S, leader)
    print(f"agent that leads killed: another leads after {took_s:.2f} s")
    office.ask_all()
    office.restart(leader)


def test_a_frozen_leader_is_replaced_when_its_lease_is_over_and_wakes_up_as_nobody(office: Office) -> None:
    leader = office.leader()
    os.kill(leader.pid, signal.SIGSTOP)
    try:
        took_s = office.seconds_until_led(LAN_ETCD.ttl_s + LAN_ETCD.renew_s + ELECTED_S, leader)
    finally:
        os.kill(leader.pid, signal.SIGCONT)
    print(f"agent that leads frozen: another leads after {took_s:.2f} s")
    office.agents.wait_whole()
    assert office.leader() is not leader


def test_the_loss_of_one_member_even_the_leading_one_costs_the_pool_nothing(office: Office) -> None:
    before, lost = office.leader(), office.cluster.leader()
    lost.kill()
    ended_s = time.monotonic() + LAN_ETCD.ttl_s + ETCD_FAILOVER_S
    while time.monotonic() < ended_s:
        assert office.seen() == {before.node_id}
        time.sleep(0.1)
    before.kill()
    took_s = office.seconds_until_led(LAN_ETCD.ttl_s + ELECTED_S, before)
    print(f"with two members of etcd, agent that leads killed: another leads after {took_s:.2f} s")
    office.restart(before)
    office.cluster.start_all()


def test_without_a_majority_of_etcd_requests_go_on_and_with_it_one_leads_again(office: Office) -> None:
    members = office.cluster.members
    for member in (office.cluster.leader(), *members):
        if sum(one.running for one in members) > 1:
            member.kill()
    took_s = seconds_until(lambda: office.seen() == {None}, "the leader steps down", LAN_ETCD.ttl_s + 1.0)
    print(f"without a majority of etcd: no leader after {took_s:.2f} s")
    for _ in range(3):
        office.ask_all()
        assert office.seen() == {None}
    office.cluster.start_all()
    took_s = office.seconds_until_led(3 * ETCD_FAILOVER_S + ELECTED_S)
    print(f"members back: a leader after {took_s:.2f} s")
    office.agents.wait_whole()
    office.ask_all()


def test_an_agent_starts_and_serves_while_etcd_is_away(office: Office) -> None:
    agent = office.running()[0]
    for member in office.cluster.members:
        member.kill()
    agent.stop()
    agent.start()
    agent.wait_answering()
    wait_until(lambda: _serves(agent), "it serves its own model")
    office.cluster.start_all()
    office.agents.wait_whole()


def _serves(agent: AgentProcess) -> bool:
    models = agent.client.get("/v1/models")["data"]
    return any(model["id"] == f"only-{agent.name}" for model in models) and bool(
        ask_whole(agent.client, f"only-{agent.name}")[1]
    )


def test_doctor_asks_each_endpoint(office: Office) -> None:
    nobody = "127.0.0.1:1"
    configuration = Configuration(etcd_endpoints=(*office.cluster.endpoints, nobody))
    findings = check_etcd(configuration, None)
    assert [finding.level for finding in findings] == ["ok", "ok", "ok", "warn"]
    assert nobody in findings[-1].detail
    (alone,) = check_etcd(Configuration(etcd_endpoints=(nobody,)), None)
    assert alone.level == "fail"
