"""The queue's order against a dumb twin, fairness in tokens, bounds, expiry."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.scheduling import GATEWAY, MODEL, ask, node

from covey_scheduler.core.fairness import VirtualCounters
from covey_scheduler.core.queue import effective_class
from covey_scheduler.core.queues import Queues
from covey_scheduler.core.settings import SchedulerSettings

SETTINGS = SchedulerSettings(ageing_s=10.0)


@pytest.mark.parametrize(
    ("priority", "waited_s", "expected"),
    [(0, 0.0, 0), (0, 99.0, 0), (1, 9.9, 1), (1, 10.0, 0), (2, 9.9, 2), (2, 10.0, 1), (2, 500.0, 0), (2, -5.0, 2)],
)
def test_ageing(priority: int, waited_s: float, expected: int) -> None:
    assert effective_class(priority, waited_s, 10.0) == expected


@dataclass
class TwinEntry:
    request_id: str
    user: str
    priority: int
    since_s: float
    number: int
    tokens: int


class TwinQueue:
    """The rule as one sort of everything, and nothing clever: no lanes, no shared bookkeeping."""

    def __init__(self) -> None:
        self.waiting: list[TwinEntry] = []
        self.counters: dict[str, float] = {}
        self.floor = 0.0

    def add(self, entry: TwinEntry) -> None:
        others = [self.counters[e.user] for e in self.waiting]
        if entry.user not in [e.user for e in self.waiting]:
            own = self.counters.get(entry.user, 0.0)
            self.counters[entry.user] = max(own, min(others) if others else self.floor)
        self.waiting.append(entry)

    def serve(self, now_s: float) -> str | None:
        if not self.waiting:
            return None
        self.waiting.sort(
            key=lambda e: (
                max(0, e.priority - int((now_s - e.since_s) / 10.0)),
                self.counters[e.user],
                e.since_s,
                e.number,
            )
        )
        first = self.waiting.pop(0)
        self.counters[first.user] += first.tokens
        if not self.waiting:
            self.floor = self.counters[first.user]
        return first.request_id

    def withdraw(self, request_id: str) -> None:
        self.waiting = [e for e in self.waiting if e.request_id != request_id]


arrivals = st.tuples(
    st.just("add"), st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 40), st.integers(1, 1000)
)
steps = st.lists(st.one_of(arrivals, st.tuples(st.just("serve")), st.tuples(st.just("withdraw"))), max_size=60)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_the_order_is_the_twins(actions: list[tuple[object, ...]]) -> None:
    queues, twin = Queues(SETTINGS), TwinQueue()
    now_s, number, tokens_of = 100.0, 0, dict[str, int]()
    for action in actions:
        now_s += 3.0
        if action[0] == "add":
            _, user, priority, waited_s, tokens = action
            number += 1
            request_id = f"r{number}"
            tokens_of[request_id] = int(tokens)  # type: ignore[call-overload]
            queues.add(GATEWAY, ask(request_id, user=user, priority=priority, waited_s=float(waited_s)), now_s)  # type: ignore[arg-type]
            twin.add(TwinEntry(request_id, user, priority, now_s - waited_s, number, tokens_of[request_id]))  # type: ignore[arg-type,operator]
        elif action[0] == "withdraw":
            queues.remove((GATEWAY, f"r{number}"))
            twin.withdraw(f"r{number}")
        else:
            expected = twin.serve(now_s)
            queue = queues.queue(MODEL)
            first = None if queue is None else queue.first(now_s)
            assert (None if first is None else first.ask.request_id) == expected
            if first is not None:
                queues.remove(first.key)
                queues.charge(MODEL, first.ask.user, tokens_of[first.ask.request_id])
    assert sum(queues.lengths().values()) == len(queues) == len(twin.waiting)


def test_users_share_in_tokens_not_in_requests() -> None:
    queues = Queues(SETTINGS)
    size = {"heavy": 900, "light": 100}
    for number in range(200):
        for user in size:
            queues.add(GATEWAY, ask(f"{user}{number}", user=user), 0.0)
    served: Counter[str] = Counter()
    for _ in range(100):
        queue = queues.queue(MODEL)
        assert queue is not None
        first = queue.first(1.0)
        assert first is not None
        queues.remove(first.key)
        queues.charge(MODEL, first.ask.user, size[first.ask.user])
        served[first.ask.user] += size[first.ask.user]
    assert abs(served["heavy"] - served["light"]) <= 900


def test_idling_earns_no_credit() -> None:
    counters = VirtualCounters(10)
    counters.join("a", [])
    counters.charge("a", 5000, last_waiting=False)
    counters.join("b", ["a"])
    assert counters.of("b") == 5000
    counters.charge("a", 100, last_waiting=True)
    counters.join("c", [])
    assert counters.of("c") == 5100


def test_a_counter_never_falls_below_zero_and_users_are_bounded() -> None:
    counters = VirtualCounters(3)
    for number in range(10):
        counters.charge(f"u{number}", -50, last_waiting=False)
    assert len(counters) == 3
    assert counters.of("u9") == 0


def test_the_user_unseen_for_longest_is_forgotten() -> None:
    counters = VirtualCounters(2)
    for user in ("early", "late", "early", "new"):
        counters.charge(user, 10, last_waiting=False)
    assert [counters.of(user) for user in ("early", "late", "new")] == [20, 0, 10]


def test_the_model_unheard_of_for_longest_is_forgotten() -> None:
    queues = Queues(SchedulerSettings(models_max=2))
    for model in ("early", "late", "early", "new"):
        queues.charge(model, "u", 10)
    assert [queues.counters(model).of("u") for model in ("early", "new")] == [20, 10]
    queues.clear()
    assert queues.counters("early").of("u") == 0


def test_a_full_queue_turns_away_the_newest_of_who_holds_most() -> None:
    queues = Queues(SchedulerSettings(queue_length_max=3))
    for number in range(3):
        queues.add(GATEWAY, ask(f"h{number}", user="heavy"), float(number))
    entry, evicted = queues.add(GATEWAY, ask("l1", user="light"), 3.0)
    assert evicted is not None
    assert (entry.ask.request_id, evicted.ask.request_id) == ("l1", "h2")
    again, refused = queues.add(GATEWAY, ask("h3", user="heavy"), 4.0)
    assert refused is again
    assert len(queues) == 3


def test_who_has_nothing_waiting_any_more_is_not_among_the_users() -> None:
    queues = Queues(SETTINGS)
    queues.add(GATEWAY, ask("a", user="anna"), 0.0)
    queues.add(GATEWAY, ask("b", user="ben"), 0.0)
    queues.add(GATEWAY, ask("c", user="ben"), 0.0)
    queues.remove((GATEWAY, "a"))
    queues.remove((GATEWAY, "b"))
    assert set(queues.users(MODEL)) == {"ben"}


def test_the_sweep_comes_round_to_all() -> None:
    queues = Queues(SETTINGS)
    for number in range(5):
        queues.add(GATEWAY, ask(f"r{number}"), float(number))
    queue = queues.queue(MODEL)
    assert queue is not None
    seen = [entry.ask.request_id for _ in range(3) for entry in queue.next_to_check(2)]
    assert seen == ["r0", "r1", "r2", "r3", "r4", "r0"]


def test_all_models_together_are_bounded() -> None:
    queues = Queues(SchedulerSettings(queues_length_max=5, models_max=2))
    refused = [queues.add(GATEWAY, ask(f"r{i}", model=f"m{i}"), 0.0)[1] for i in range(8)]
    assert [r is not None for r in refused] == [False] * 5 + [True] * 3
    assert sum(queues.lengths().values()) == 5


def test_expiry_by_deadline_or_by_the_longest_wait() -> None:
    queues = Queues(SchedulerSettings(queue_wait_s_max=30.0))
    queues.add(GATEWAY, ask("short", deadline_s=5.0), 100.0)
    queues.add(GATEWAY, ask("none"), 100.0)
    queue = queues.queue(MODEL)
    assert queue is not None
    assert [e.ask.request_id for e in queue.expired(104.9)] == []
    assert [e.ask.request_id for e in queue.expired(105.0)] == ["short"]
    assert [e.ask.request_id for e in queue.expired(130.0)] == ["short", "none"]


def test_a_lost_gateway_takes_its_asks_along() -> None:
    queues = Queues(SETTINGS)
    queues.add(GATEWAY, ask("r"), 0.0)
    queues.add(node(2), ask("r"), 0.0)
    queues.remove_gateway(GATEWAY)
    assert len(queues) == 1
    assert queues.get((node(2), "r")) is not None
    queues.remove_gateway(node(2))
    assert queues.lengths() == {}
