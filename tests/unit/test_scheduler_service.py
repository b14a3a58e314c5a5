"""The service on a fake mesh and a fake clock: what it feeds, sends, counts and schedules."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.scheduling import GATEWAY, MODEL, ask, member, model_load, node, updated, view

from covey_mesh.core.asking import Answer, AttemptReport, GrantedWork, Outcome
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_scheduler.io.counters import QUEUE_WAIT_BUCKETS_S, SchedulerCounters
from covey_scheduler.io.service import SchedulerService

SELF = node(1)
BALLOT = Ballot(3, SELF)


class FakeMesh:
    """Only what the scheduler uses."""

    def __init__(self, pool: PoolView) -> None:
        self.pool = pool
        self.sent: list[tuple[NodeId, Answer]] = []
        self.linked = True
        self.listeners: list[Any] = []

    @property
    def self_id(self) -> NodeId:
        return SELF

    def view(self) -> PoolView:
        return self.pool

    def subscribe(self, listener: Any) -> None:
        self.listeners.append(listener)

    def send(self, node_id: NodeId, message: Answer) -> bool:
        self.sent.append((node_id, message))
        return self.linked

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the scheduler has no business with {name}")


class FakeLoop:
    """Timers that run when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.timers: list[tuple[float, Any, FakeTimer]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Any) -> FakeTimer:
        timer = FakeTimer()
        self.timers.append((when, callback, timer))
        return timer

    def advance(self, seconds: float) -> None:
        until = self.now_s + seconds
        for _ in range(1000):
            due = [t for t in self.timers if t[0] <= until and not t[2].cancelled]
            if not due:
                break
            first = min(due, key=lambda t: t[0])
            self.timers.remove(first)
            self.now_s = max(self.now_s, first[0])
            first[1]()
        self.now_s = until

    def pending(self) -> int:
        return sum(1 for t in self.timers if not t[2].cancelled)


class FakeTimer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> FakeLoop:
    fake = FakeLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: fake)
    return fake


def leading(loop: FakeLoop, *members: Any) -> tuple[SchedulerService, FakeMesh]:
    mesh = FakeMesh(view(*members))
    service = SchedulerService(mesh, loop.time, lambda: 1_700_000_000.0)  # type: ignore[arg-type]
    service.start()
    service.leadership_changed(SELF, BALLOT)
    return service, mesh


def full() -> Any:
    return member(SELF, model_load(running_requests=4, queued_tokens=400))


def test_an_ask_is_answered_with_a_stamped_decision(loop: FakeLoop) -> None:
    service, mesh = leading(loop, member(SELF, model_load()))
    assert mesh.listeners == [service]
    service.ask_received(GATEWAY, ask("r"))
    ((gateway, answer),) = mesh.sent
    assert (gateway, answer.outcome, answer.node_id) == (GATEWAY, Outcome.ASSIGNED, SELF)
    assert answer.decision is not None
    assert answer.decision.decided_at_unix_s == 1_700_000_000.0
    assert service.counters.decisions[Outcome.ASSIGNED] == 1
    assert loop.pending() == 0


def test_it_may_lead_already_when_it_starts(loop: FakeLoop) -> None:
    mesh = FakeMesh(view(member(SELF, model_load())))
    service = SchedulerService(mesh, loop.time, lambda: 0.0)  # type: ignore[arg-type]
    assert not service.leading
    service.start()
    assert service.leading


def test_not_leading_it_drops_and_counts(loop: FakeLoop) -> None:
    service, mesh = leading(loop, member(SELF, model_load()))
    service.leadership_changed(node(2), Ballot(4, node(2)))
    service.ask_received(GATEWAY, ask("r"))
    assert mesh.sent == []
    assert service.counters.asks_dropped == 1
    assert not service.leading


def test_queued_asks_leave_when_a_report_shows_room(loop: FakeLoop) -> None:
    service, mesh = leading(loop, full())
    service.ask_received(GATEWAY, ask("r"))
    assert service.queue_lengths() == {MODEL: 1}
    loop.advance(1.0)
    mesh.pool = view(updated(full(), model_load()), version=2)
    for _ in range(100):
        service.member_changed(SELF)
    assert len(mesh.sent) == 1, "a hundred reports are one event, a moment later"
    loop.advance(0.005)
    assert [a.outcome for _, a in mesh.sent] == [Outcome.QUEUED, Outcome.ASSIGNED]
    assert service.counters.queue_wait_s_sum == pytest.approx(1.005)
    assert service.queue_lengths() == {}
    loop.advance(1.0)
    assert loop.pending() == 0, "an idle scheduler has no timer"


def test_a_pending_change_counts_before_an_ask_is_decided(loop: FakeLoop) -> None:
    service, mesh = leading(loop, full())
    mesh.pool = view(updated(full(), model_load()), version=2)
    service.member_changed(SELF)
    service.ask_received(GATEWAY, ask("r"))
    assert [a.outcome for _, a in mesh.sent] == [Outcome.ASSIGNED]


def test_a_deadline_is_kept_by_the_timer(loop: FakeLoop) -> None:
    service, mesh = leading(loop, full())
    service.ask_received(GATEWAY, ask("r", deadline_s=2.0))
    loop.advance(1.0)
    assert len(mesh.sent) == 1
    loop.advance(1.2)
    assert mesh.sent[1][1].outcome is Outcome.NO_CANDIDATE


def test_grants_are_counted_and_what_is_told_of_them_reaches_the_core(loop: FakeLoop) -> None:
    idle = member(SELF, model_load(running_limit=64, prefill_tokens_per_s=1e5))
    service, mesh = leading(loop, idle)
    service.ask_received(GATEWAY, ask("a"))
    grant = mesh.sent[0][1].grant
    assert grant is not None
    assert (service.counters.grants, service.counters.requests_granted) == (1, grant.requests)
    before = service._core._queues.counters(MODEL).of("")
    service.granted_work(GATEWAY, GrantedWork(MODEL, SELF, "", 1, 1, 100, 10))
    assert service._core._queues.counters(MODEL).of("") > before
    service.leadership_changed(node(2), Ballot(4, node(2)))
    service.granted_work(GATEWAY, GrantedWork(MODEL, SELF, "", 1, 1, 100, 10))
    assert not service.leading


def test_reports_and_lost_gateways_reach_the_core(loop: FakeLoop) -> None:
    service, _ = leading(loop, full())
    service.ask_received(GATEWAY, ask("a"))
    service.ask_received(GATEWAY, ask("b"))
    service.attempt_reported(GATEWAY, AttemptReport("a", 1, withdrawn=True))
    assert service.queue_lengths() == {MODEL: 1}
    service.member_lost(GATEWAY, LinkLoss.REPLACED)
    assert service.queue_lengths() == {MODEL: 1}, "the machine is still there, on another link"
    service.member_lost(GATEWAY, LinkLoss.RESET)
    assert service.queue_lengths() == {}


def test_an_answer_that_cannot_be_sent_is_counted(loop: FakeLoop) -> None:
    service, mesh = leading(loop, member(SELF, model_load()))
    mesh.linked = False
    service.ask_received(GATEWAY, ask("r"))
    assert service.counters.answers_undeliverable == 1


def test_stopped_it_leaves_no_timer_and_says_nothing(loop: FakeLoop) -> None:
    service, mesh = leading(loop, full())
    service.ask_received(GATEWAY, ask("r"))
    service.member_changed(SELF)
    service.stop()
    service.stop()
    assert loop.pending() == 0
    service.ask_received(GATEWAY, ask("s"))
    service.member_changed(SELF)
    service.leadership_changed(None, NO_BALLOT)
    assert len(mesh.sent) == 1
    assert loop.pending() == 0


def test_waits_are_counted_in_buckets() -> None:
    counters = SchedulerCounters()
    for wait_s in (0.0, 0.005, 0.3, 1e6):
        counters.decided(Outcome.ASSIGNED, wait_s)
    counters.decided(Outcome.QUEUED, 5.0)
    assert counters.queue_wait_count == 4
    assert counters.queue_wait_buckets[0] == 2
    assert counters.queue_wait_buckets[QUEUE_WAIT_BUCKETS_S.index(0.5)] == 1
    assert counters.queue_wait_buckets[-1] == 1
    assert counters.decisions == {Outcome.ASSIGNED: 4, Outcome.QUEUED: 1, Outcome.NO_CANDIDATE: 0}
