"""Single situations with requests in flight, each played for one seed; Violation or AssertionError where covey fails.

Not here: random schedules (chaos.py), leadership alone (test_cases.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.sim.client import CHAT, Asked, Habits, Request
from tests.sim.cluster import Cluster, Shape
from tests.sim.machine import Machine

PATIENT = Habits(leaving=0.0, pausing=0.0)
ENDED_WITHIN_S = 60.0
ASKED = Asked(CHAT, 7, True, 16)


@dataclass
class Told:
    """What became of a story's requests."""

    outcomes: dict[str, int]
    attempts_most: int
    attempts_mean: float
    messages: int


@contextmanager
def pool(seed: int, *speeds: float) -> Iterator[Cluster]:
    """One machine a speed (0: no engine), up for a while; the first one that has no engine leads, if there is one."""
    with Cluster(seed, Shape(len(speeds), habits=PATIENT, speeds=speeds)) as cluster:
        cluster.start(cluster.machines[0])
        cluster.run(1.5)
        for machine in cluster.machines[1:]:
            cluster.start(machine)
        cluster.run(4.0 + cluster.dice.random())
        cluster.seconds_until_agreed(5.0)
        yield cluster


def ask(cluster: Cluster, gateway: Machine, count: int = 1) -> list[Request]:
    return [cluster.clients.ask(gateway, ASKED) for _ in range(count)]


def told(cluster: Cluster, requests: list[Request]) -> Told:
    """Runs until all have ended."""
    until_s = cluster.loop.now_s + ENDED_WITHIN_S
    while any(request.open for request in requests):
        assert cluster.loop.now_s < until_s, f"never ended: {[r for r in requests if r.open][:3]}"
        cluster.run(0.25)
    attempts = []
    for request in requests:
        record = None if request.active is None else request.runner.record(request.active.request_id)
        attempts.append(len(record.attempts) if record is not None else 0)
    outcomes: dict[str, int] = {}
    for request in requests:
        outcome = request.outcome or "gateway gone"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    mean = sum(attempts) / max(1, len(attempts))
    return Told(outcomes, max(attempts, default=0), mean, sum(cluster.network.messages.values()))


def _cut(cluster: Cluster, one: Machine, other: Machine) -> None:
    cluster.network.cut(one, other)
    cluster.network.cut(other, one)


def leader_without_the_node(seed: int) -> Told:
    """The gateway reaches the leader and the only engine; those two do not reach each other."""
    with pool(seed, 0.0, 1.0, 0.0) as cluster:
        leader, node, gateway = cluster.machines
        _cut(cluster, leader, node)
        requests = []
        for _ in range(12):
            requests += ask(cluster, gateway)
            cluster.run(0.5)
        return told(cluster, requests)


def leader_without_the_gateway(seed: int) -> Told:
    """The node reaches the leader; the gateway reaches the node only."""
    with pool(seed, 0.0, 1.0, 0.0) as cluster:
        leader, _, gateway = cluster.machines
        _cut(cluster, leader, gateway)
        requests = []
        for _ in range(12):
            requests += ask(cluster, gateway)
            cluster.run(0.5)
        return told(cluster, requests)


def sends_but_does_not_hear(seed: int) -> tuple[Told, Told]:
    """Nothing reaches one machine: (its own clients, which its own engine serves; everybody else's)."""
    with pool(seed, 0.0, 1.0, 1.0, 1.0) as cluster:
        deaf, others = cluster.machines[1], [cluster.machines[0], *cluster.machines[2:]]
        for other in others:
            cluster.network.cut(other, deaf)
        mine, theirs = [], []
        for number in range(24):
            mine += ask(cluster, deaf)
            theirs += ask(cluster, others[number % len(others)])
            cluster.run(0.5)
        return told(cluster, mine), told(cluster, theirs)


def back_with_a_high_counter(seed: int) -> Told:
    """A laptop that led itself many times comes back in the middle of everybody's work."""
    with pool(seed, 1.0, 1.0, 1.0) as cluster:
        laptop, others = cluster.machines[2], cluster.machines[:2]
        for other in others:
            _cut(cluster, laptop, other)
        for _ in range(4):
            cluster.run(2.5)
            laptop.kill()
            cluster.start(laptop)
        cluster.run(4.0)
        assert laptop in cluster.leading(), "it leads itself"
        leader = cluster.machines[0].election.leader(cluster.machines[0].now_s())
        requests = ask(cluster, others[0], 4)
        cluster.network.heal()
        for number in range(20):
            requests += ask(cluster, others[number % 2])
            cluster.run(0.2)
        assert cluster.agreed() == leader, cluster.describe()
        return told(cluster, requests)


def queued_when_the_leader_dies(seed: int) -> Told:
    """More requests than the pool can run are queued at the leader, which is killed."""
    with pool(seed, 0.0, 1.0, 1.0, 0.0) as cluster:
        leader, gateway = cluster.machines[0], cluster.machines[3]
        requests = ask(cluster, gateway, 30)
        cluster.run(0.15)
        queued = sum(leader.scheduler.queue_lengths().values())
        assert queued > 5, f"{queued} requests were queued"
        leader.kill()
        return told(cluster, requests)


def overload_without_a_leader(seed: int) -> Told:
    """No machine can write a ballot, so nobody leads; and far more is asked than the engines can run."""
    with pool(seed, 1.0, 0.5, 0.5, 0.0) as cluster:
        for machine in cluster.machines:
            machine.disk.full = True
        leader = cluster.leader_machine()
        leader.cut_power()
        cluster.run(4.0)
        gateways = [machine for machine in cluster.machines if machine.running]
        assert not cluster.leading(), cluster.describe()
        cluster.network.messages.clear()
        requests = [request for gateway in gateways for request in ask(cluster, gateway, 20)]
        return told(cluster, requests)


def slow_leader_of_a_full_pool(seed: int) -> Told:
    """The leader's answers come later than gateways wait for them, while machines refuse: many old answers arrive."""
    with pool(seed, 0.0, 0.5, 0.25, 0.0) as cluster:
        leader, gateways = cluster.machines[0], cluster.machines[1:]
        requests: list[Request] = []
        for number in range(12):
            requests += ask(cluster, gateways[number % 3], 4)
            leader.extra_delay_s = cluster.dice.choice((0.0, 0.3, 0.5))
            cluster.run(cluster.dice.uniform(0.2, 0.9))
        leader.extra_delay_s = 0.0
        return told(cluster, requests)


def leader_wakes_with_old_answers(seed: int) -> Told:
    """A leader stops for a moment; the request goes on without it and fails; then all its answers come at once."""
    with pool(seed, 0.0, 0.25, 0.25, 0.0) as cluster:
        leader, node, other, gateway = cluster.machines
        leader.freeze()
        requests = ask(cluster, gateway, 6)
        cluster.run(1.47)
        for machine in (node, other):
            machine.process.enter(machine.node.supervisor.crash, 0.1)
        cluster.run(0.03)
        leader.thaw()
        return told(cluster, requests)


def queued_when_two_leaders_meet(seed: int) -> Told:
    """Both sides of a partition are full when it heals: one leader, and with it its queue, goes."""
    with pool(seed, 0.0, 0.25, 0.0, 0.25, 0.0) as cluster:
        here, there = cluster.machines[:3], cluster.machines[3:]
        for one in here:
            for other in there:
                _cut(cluster, one, other)
        cluster.run(6.0)
        assert len(cluster.leading()) == 2, cluster.describe()
        requests = ask(cluster, here[2], 20) + ask(cluster, there[1], 20)
        cluster.run(0.3)
        assert all(machine.scheduler.queue_lengths() for machine in cluster.leading())
        cluster.network.heal()
        return told(cluster, requests)
