"""One contract for whatever says who may lead: the built-in election, and a key in a real etcd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.contract.leadership_pools import MACHINES, BuiltInPool, EtcdPool, LeadershipPool
from tests.support.etcd import EtcdCluster, needs_etcd

FOUND_WITHIN_S = 5.0
REPLACED_WITHIN_S = 5.0
"""Of a leader whose process ended: both sources have proof of that and need no lease to end."""


@pytest.fixture(scope="module")
def etcd_cluster() -> Iterator[EtcdCluster]:
    with EtcdCluster() as cluster:
        cluster.leader()
        yield cluster


@pytest.fixture(params=["built-in", pytest.param("etcd", marks=needs_etcd)])
def pool(request: pytest.FixtureRequest) -> Iterator[LeadershipPool]:
    made: LeadershipPool
    made = EtcdPool(request.getfixturevalue("etcd_cluster")) if request.param == "etcd" else BuiltInPool()
    try:
        made.seconds_until_agreed(FOUND_WITHIN_S)
        yield made
    finally:
        made.close()


def test_one_leader_is_found_and_obeyed_by_all(pool: LeadershipPool) -> None:
    assert pool.obeyed_by(pool.ballot()) == MACHINES


def test_leadership_rests_while_nothing_happens(pool: LeadershipPool) -> None:
    before = pool.ballot()
    pool.run(3.0)
    assert pool.ballot() == before


def test_a_killed_leader_is_replaced_under_a_higher_ballot(pool: LeadershipPool) -> None:
    before = pool.ballot()
    pool.kill(before.node_id)
    took_s = pool.seconds_until_agreed(REPLACED_WITHIN_S)
    print(f"leader killed: another leads after {took_s:.2f} s")
    assert pool.ballot() > before
    assert pool.obeyed_by(before) == 0


def test_a_stopping_leader_hands_over(pool: LeadershipPool) -> None:
    before = pool.ballot()
    pool.stop(before.node_id)
    took_s = pool.seconds_until_agreed(REPLACED_WITHIN_S)
    print(f"leader stopped: another leads after {took_s:.2f} s")
    assert pool.ballot() > before


def test_the_last_machine_leads_itself(pool: LeadershipPool) -> None:
    for _ in range(MACHINES - 1):
        before = pool.ballot()
        pool.kill(before.node_id)
        pool.seconds_until_agreed(REPLACED_WITHIN_S)
    assert pool.obeyed_by(pool.ballot()) == 1


def test_a_machine_that_returns_follows_and_keeps_its_promise(pool: LeadershipPool) -> None:
    gone = pool.ballot().node_id
    pool.kill(gone)
    pool.seconds_until_agreed(REPLACED_WITHIN_S)
    promised, led_by = pool.promised(gone), pool.ballot()
    pool.start(gone)
    pool.seconds_until_agreed(REPLACED_WITHIN_S)
    assert pool.ballot().node_id == led_by.node_id, "a returning machine does not depose a healthy leader"
    assert pool.promised(gone) >= promised
