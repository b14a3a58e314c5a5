"""Leadership in etcd, in virtual time: real sources over one store in memory that can be cut off, slow or forgetful.

The same class against real etcd: tests/contract/test_leadership_sources.py, tests/integration/test_etcd.py.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from tests.sim.virtual_loop import VirtualLoop

pytest.importorskip("aetcd", reason="the extra etcd is not installed")

from covey_mesh.core.leadership_source import Candidature
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN_ETCD
from covey_mesh.io.etcd_client import EtcdUnavailable, Held
from covey_mesh.io.etcd_leadership import EtcdLeadership, leader_key

A, B, C = (NodeId(letter * 32) for letter in "abc")
CALL_S = 0.002


class Store:
    """What etcd knows: one key, leases, revisions. `majority` False: nobody gets an answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.majority = True
        self.held: Held | None = None
        self.revision = 1
        self.leases: dict[int, float] = {}
        self.ids = itertools.count(100)
        self.changes: list[asyncio.Future[None]] = []
        self.writes = 0

    def expire(self) -> None:
        for lease_id, until_s in list(self.leases.items()):
            if until_s <= self.loop.time():
                self.end(lease_id)

    def end(self, lease_id: int) -> None:
        self.leases.pop(lease_id, None)
        if self.held is not None and self.held.lease_id == lease_id:
            self.put(None)

    def put(self, held: Held | None) -> None:
        self.held = held
        self.revision += 1
        self.writes += 1
        for change in self.changes:
            if not change.done():
                change.set_result(None)


class Client:
    """Of one machine. `cut`: it reaches no member. `lost_answers`: so many answers to `take` get lost."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.cut = False
        self.lost_answers = 0
        self.closed = False
        self.switched = 0
        self.endpoint = "memory"

    def use_next_endpoint(self) -> None:
        self.switched += 1

    async def close(self) -> None:
        self.closed = True

    async def _answered(self) -> None:
        await asyncio.sleep(CALL_S)
        if self.cut or not self.store.majority:
            await asyncio.sleep(LAN_ETCD.call_timeout_s)
            raise EtcdUnavailable(self.endpoint, "timed out", "wait")
        self.store.expire()

    async def read(self, key: bytes) -> Held | None:
        await self._answered()
        return self.store.held

    async def grant_lease(self, ttl_s: float) -> int:
        await self._answered()
        lease_id = next(self.store.ids)
        self.store.leases[lease_id] = self.store.loop.time() + ttl_s
        return lease_id

    async def keep_alive(self, lease_id: int) -> float:
        await self._answered()
        if lease_id not in self.store.leases:
            return 0.0
        self.store.leases[lease_id] = self.store.loop.time() + LAN_ETCD.ttl_s
        return LAN_ETCD.ttl_s

    async def revoke(self, lease_id: int) -> None:
        await self._answered()
        self.store.end(lease_id)

    async def take(self, key: bytes, node_id: NodeId, lease_id: int) -> bool:
        await self._answered()
        free = self.store.held is None
        if free:
            self.store.put(Held(node_id, lease_id, self.store.revision + 1, self.store.revision + 1))
        if self.lost_answers:
            self.lost_answers -= 1
            raise EtcdUnavailable(self.endpoint, "reset", "wait")
        return free

    async def take_away(self, key: bytes, revision: int) -> bool:
        await self._answered()
        same = self.store.held is not None and self.store.held.revision == revision
        if same:
            self.store.put(None)
        return same

    async def changed(self, key: bytes, read_at: int, timeout_s: float) -> bool:
        await self._answered()
        if self.store.revision > read_at + 1000:
            raise EtcdUnavailable(self.endpoint, "compacted", "wait")
        change: asyncio.Future[None] = self.store.loop.create_future()
        self.store.changes.append(change)
        done, _ = await asyncio.wait([change], timeout=timeout_s)
        self.store.changes.remove(change)
        return bool(done)


class Machine:
    """A candidate that leads whenever it may (`able`)."""

    def __init__(self, node_id: NodeId, store: Store, offset_s: float) -> None:
        self.self_id = node_id
        self.store = store
        self.able = True
        self.candidature: Candidature | None = None
        self.history: list[int] = []
        self.offset_s = offset_s
        self.begin()

    def begin(self) -> None:
        """A new process."""
        self.candidature = None
        self.client = Client(self.store)
        client: Any = self.client
        self.source = EtcdLeadership(client, "pool", self.now_s, lambda: 0.5)
        self.source.start(self)

    def now_s(self) -> float:
        return self.store.loop.time() + self.offset_s

    @property
    def may_stand(self) -> bool:
        return self.candidature is not None and self.now_s() < self.candidature.until_s

    @property
    def leads(self) -> bool:
        return self.able and self.may_stand

    def candidacy_opened(self, candidature: Candidature) -> None:
        self.candidature = candidature
        if not self.history or self.history[-1] != candidature.counter:
            self.history.append(candidature.counter)

    def candidacy_closed(self) -> None:
        self.candidature = None


class Office:
    """Three machines; `run` lets time pass and checks that at most one of them may stand at a time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.store = Store(loop)
        self.machines = [loop.run_until_complete(self._make(n, number)) for number, n in enumerate((A, B, C))]

    async def _make(self, node_id: NodeId, number: int) -> Machine:
        return Machine(node_id, self.store, 1000.0 * number)

    def run(self, duration_s: float) -> None:
        end_s = self.loop.time() + duration_s
        while self.loop.time() < end_s:
            self.loop.run_until_complete(asyncio.sleep(0.01))
            self.store.expire()
            assert len(self.standing) <= 1, "two machines may stand"

    def until_someone_stands(self, limit_s: float) -> float:
        began_s = self.loop.time()
        while not self.standing:
            self.run(0.01)
            assert self.loop.time() - began_s < limit_s, "nobody may stand"
        return self.loop.time() - began_s

    @property
    def standing(self) -> list[Machine]:
        return [machine for machine in self.machines if machine.may_stand]

    @property
    def holder(self) -> Machine:
        (one,) = self.standing
        return one

    def others(self) -> list[Machine]:
        return [machine for machine in self.machines if machine is not self.holder]


@pytest.fixture
def office() -> Iterator[Office]:
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    made = Office(loop)
    try:
        made.until_someone_stands(1.0)
        yield made
    finally:
        for machine in made.machines:
            machine.source.halt()
        loop.run_until_complete(asyncio.sleep(2 * LAN_ETCD.call_timeout_s))
        assert all(machine.client.closed for machine in made.machines)
        asyncio.set_event_loop(None)
        loop.close()


def test_the_counter_is_the_revision_at_which_the_key_was_taken(office: Office) -> None:
    assert office.store.held is not None
    assert office.holder.history == [office.store.held.revision]
    assert office.store.held.node_id == office.holder.self_id


def test_a_holder_goes_on_for_long_and_the_others_write_nothing(office: Office) -> None:
    holder, writes = office.holder, office.store.writes
    office.run(120.0)
    assert office.holder is holder
    assert office.store.writes == writes


def test_a_machine_that_reaches_etcd_no_more_ends_before_another_begins(office: Office) -> None:
    lost = office.holder
    lost.client.cut = True
    office.run(LAN_ETCD.ttl_s - LAN_ETCD.renew_s - 0.1)
    assert office.holder is lost
    office.run(2.0)
    gap_s = office.until_someone_stands(3.0)
    print(f"nobody may stand for {gap_s:.2f} s")
    assert office.holder is not lost
    lost.client.cut = False
    office.run(10.0)
    assert office.holder is not lost


def test_without_a_majority_nobody_stands_and_with_it_again_one_does(office: Office) -> None:
    first = office.holder.history[-1]
    office.store.majority = False
    office.run(LAN_ETCD.ttl_s)
    assert not office.standing
    office.run(60.0)
    assert not office.standing
    office.store.majority = True
    office.until_someone_stands(3.0)
    assert office.holder.history[-1] > first


def test_a_short_outage_of_etcd_costs_nothing(office: Office) -> None:
    holder = office.holder
    for _ in range(10):
        office.store.majority = False
        office.run(1.8)
        office.store.majority = True
        office.run(3.0)
        assert office.holder is holder


def test_a_machine_proven_gone_is_replaced_without_waiting_for_its_lease(office: Office) -> None:
    gone = office.holder
    gone.source.halt()
    gone.candidacy_closed()
    office.machines.remove(gone)
    for other in office.machines:
        other.source.machine_gone(gone.self_id)
    assert office.until_someone_stands(1.0) < 0.5
    office.machines.append(gone)


def test_a_machine_that_dies_silently_is_replaced_after_its_lease(office: Office) -> None:
    gone = office.holder
    gone.source.halt()
    gone.candidacy_closed()
    assert office.until_someone_stands(LAN_ETCD.ttl_s + 2 * LAN_ETCD.watch_s) <= LAN_ETCD.ttl_s + 0.5


def test_proof_about_a_machine_that_does_not_hold_the_key_changes_nothing(office: Office) -> None:
    holder, writes = office.holder, office.store.writes
    for machine in office.machines:
        machine.source.machine_gone(NodeId("e" * 32))
        machine.source.machine_gone(office.others()[0].self_id)
    office.run(10.0)
    assert office.holder is holder
    assert office.store.writes == writes


def test_stopping_hands_over_at_once(office: Office) -> None:
    stopped = office.holder
    office.loop.run_until_complete(stopped.source.stop())
    stopped.candidacy_closed()
    assert office.until_someone_stands(1.0) < 0.5
    assert office.holder is not stopped
    office.loop.run_until_complete(stopped.source.stop())


def test_a_process_that_restarts_takes_its_former_key_away_and_stands_again(office: Office) -> None:
    machine = office.holder
    machine.source.halt()
    office.loop.run_until_complete(_begin(machine))
    assert not machine.may_stand
    assert office.until_someone_stands(1.0) < 0.5


async def _begin(machine: Machine) -> None:
    machine.begin()


def test_a_lost_answer_to_the_taking_leaves_no_key_without_a_holder(office: Office) -> None:
    for machine in office.machines:
        machine.client.lost_answers = 1
    gone = office.holder
    office.loop.run_until_complete(gone.source.stop())
    gone.candidacy_closed()
    office.until_someone_stands(2.0)


def test_who_holds_the_key_and_cannot_lead_leaves_it_to_another(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    broken = office.holder
    broken.able = False
    office.run(LAN_ETCD.stand_within_s + 2.0)
    assert office.holder is not broken
    assert "cannot lead" in caplog.text
    office.run(60.0)
    assert office.holder is not broken


def test_a_key_deleted_by_hand_ends_the_candidature_within_one_renewal(office: Office) -> None:
    first = office.holder.history[-1]
    before = office.holder
    office.store.put(None)
    office.store.put(Held(NodeId("e" * 32), 0, office.store.revision + 1, office.store.revision + 1))
    office.run(LAN_ETCD.renew_s + 0.1)
    assert not before.may_stand
    office.store.put(None)
    office.until_someone_stands(1.0)
    assert office.holder.history[-1] > first


def test_an_outage_is_said_once_with_what_to_do_and_its_end_too(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    office.store.majority = False
    office.run(30.0)
    office.store.majority = True
    office.run(LAN_ETCD.watch_s + 2.0)
    said = [record.getMessage() for record in caplog.records]
    assert sum("timed out" in text for text in said) == len(office.machines)
    assert sum("answers again" in text for text in said) == len(office.machines)
    assert all(machine.client.switched > 3 for machine in office.machines)


def test_one_failed_call_is_no_news(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.store.majority = False
    office.run(LAN_ETCD.renew_s + 0.5)
    office.store.majority = True
    office.run(10.0)
    assert office.holder.client.switched > 0
    assert not caplog.records


def test_our_own_bug_closes_the_candidature_and_is_said_loudly(
    office: Office, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(key: bytes) -> None:
        raise KeyError("a bug")

    machine = office.holder
    monkeypatch.setattr(machine.client, "read", broken)
    office.run(1.5)
    assert not machine.may_stand
    assert "crashed" in caplog.text
    office.until_someone_stands(10.0)


def test_pools_do_not_share_a_key() -> None:
    assert leader_key("one") != leader_key("two")
