import random

import pytest

from covey_mesh.core.exchange import FailureCode
from covey_mesh.core.marks import mark_of
from covey_node.core import admission as module
from covey_node.core.admission import Admission, Bounds, Place, Ticket, Verdict
from covey_node.core.meter import Meter
from covey_node.core.retry_after import RETRY_AFTER_MS_MAX, RETRY_AFTER_MS_UNMEASURED, retry_after_ms


def admission(running: int = 2, waiting: int = 2, kv: int = 10_000, context: int = 4_096) -> Admission:
    return Admission(Bounds(running, waiting, kv, context), Meter())


def offer(to: Admission, name: str, attempt: int = 1, prompt: int = 10, output: int = 10, body: int = 100) -> Verdict:
    return to.offer(name, attempt, prompt, output, body, 0.0)


def admitted(to: Admission, name: str, **values: int) -> Ticket:
    verdict = offer(to, name, **values)
    assert verdict.ticket is not None
    return verdict.ticket


def test_runs_then_waits_then_refuses() -> None:
    door = admission()
    places = [admitted(door, f"r{n}").place for n in range(4)]
    assert places == [Place.RUNNING, Place.RUNNING, Place.WAITING, Place.WAITING]
    refused = offer(door, "r4")
    assert refused.ticket is None
    assert refused.failure is not None
    assert refused.failure.code is FailureCode.RESOURCE_EXHAUSTED
    assert "2 requests running and 2 waiting" in refused.failure.message
    assert refused.failure.retry_after_ms > 0


def test_release_starts_the_next_in_order_of_arrival() -> None:
    door = admission(running=1, waiting=3)
    first = admitted(door, "a")
    waiting = [admitted(door, name) for name in "bcd"]
    assert door.release(first) == [waiting[0]]
    assert waiting[0].place is Place.RUNNING
    assert door.release(waiting[1]) == []
    assert door.release(waiting[0]) == [waiting[2]]


def test_the_marks_are_of_those_that_run_and_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    door = admission(running=1, waiting=3)
    tickets = [admitted(door, name) for name in "abc"]
    assert door.marks == {mark_of(name, 1) for name in "abc"}
    newer = offer(door, "b", attempt=2)
    door.release(tickets[0])
    assert newer.superseded is tickets[1]
    door.release(tickets[1])
    assert door.marks == {mark_of("b", 2), mark_of("c", 1)}
    monkeypatch.setattr(module, "MARKS_MAX", 1)
    assert door.marks is None, "too many to be told"


def test_kv_cache_bounds_what_runs() -> None:
    door = admission(running=10, waiting=10, kv=100)
    first = admitted(door, "a", prompt=50, output=20)
    second = admitted(door, "b", prompt=50, output=20)
    assert (first.place, second.place) == (Place.RUNNING, Place.WAITING)
    assert door.kv_tokens_free == 30
    assert door.release(first) == [second]


def test_a_large_request_is_not_overtaken() -> None:
    door = admission(running=10, waiting=10, kv=100)
    admitted(door, "a", prompt=50, output=10)
    large = admitted(door, "large", prompt=80, output=10)
    small = admitted(door, "small", prompt=5, output=5)
    assert (large.place, small.place) == (Place.WAITING, Place.WAITING)


def test_a_request_larger_than_the_cache_runs_alone() -> None:
    door = admission(kv=100, context=100)
    assert admitted(door, "a", prompt=90, output=80).place is Place.RUNNING
    assert admitted(door, "b", prompt=1, output=1).place is Place.WAITING


def test_a_prompt_that_fits_the_context_but_not_the_cache_is_refused() -> None:
    refused = offer(admission(kv=100, context=4096), "a", prompt=101)
    assert refused.failure is not None
    assert refused.failure.code is FailureCode.RESOURCE_EXHAUSTED
    assert "101 tokens of KV cache, 100 exist" in refused.failure.message


def test_a_prompt_beyond_the_context_is_the_engines_to_refuse() -> None:
    assert admitted(admission(kv=100, context=100), "a", prompt=5000).place is Place.RUNNING


def test_an_engine_without_kv_cache_is_bounded_by_count_alone() -> None:
    door = admission(running=2, kv=0, context=512)
    assert [admitted(door, n, prompt=400).place for n in "abc"] == [Place.RUNNING, Place.RUNNING, Place.WAITING]


def test_waiting_bodies_are_bounded_in_bytes() -> None:
    door = admission(running=1, waiting=100)
    admitted(door, "a")
    half = module.WAITING_BODY_BYTES_MAX // 2
    admitted(door, "b", body=half)
    admitted(door, "c", body=half)
    refused = offer(door, "d", body=1)
    assert refused.failure is not None
    assert "bytes" in refused.failure.message


@pytest.mark.parametrize("leaves", ["running", "waiting"])
def test_bytes_of_bodies_that_wait_no_more_are_given_back(leaves: str) -> None:
    door = admission(running=1, waiting=3)
    first = admitted(door, "a", body=1)
    large = admitted(door, "b", body=module.WAITING_BODY_BYTES_MAX)
    assert offer(door, "c", body=1).failure is not None
    door.release(large if leaves == "waiting" else first)
    admitted(door, "c", body=module.WAITING_BODY_BYTES_MAX)


def test_a_newer_attempt_supersedes() -> None:
    door = admission(running=1)
    old = admitted(door, "a", attempt=1)
    verdict = offer(door, "a", attempt=2)
    assert verdict.superseded is old
    assert verdict.ticket is not None
    assert verdict.ticket.place is Place.WAITING
    assert door.release(old) == [verdict.ticket]


def test_an_older_or_equal_attempt_is_stale() -> None:
    door = admission()
    door.release(admitted(door, "a", attempt=3))
    for attempt in (1, 2):
        stale = offer(door, "a", attempt=attempt)
        assert stale.failure is not None
        assert stale.failure.code is FailureCode.STALE_ATTEMPT
    admitted(door, "b", attempt=3)
    duplicate = offer(door, "b", attempt=3)
    assert duplicate.failure is not None
    assert duplicate.failure.code is FailureCode.STALE_ATTEMPT
    assert duplicate.superseded is None


def test_remembered_attempts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS_REMEMBERED", 3)
    door = admission(running=100)
    for n in range(10):
        door.release(admitted(door, f"r{n}", attempt=2))
    assert len(door._attempts) == 3
    assert offer(door, "r9", attempt=1).failure is not None
    assert offer(door, "r0", attempt=1).failure is None


def test_queued_tokens_fall_with_progress() -> None:
    door = admission()
    ticket = admitted(door, "a", prompt=100, output=50)
    assert door.queued_tokens == 150
    door.progressed(ticket, 1)
    assert door.queued_tokens == 49
    door.progressed(ticket, 60)
    assert door.queued_tokens == 0
    door.release(ticket)
    assert door.kv_tokens_free == 10_000


def test_an_answer_that_outgrows_its_reservation_reserves_more() -> None:
    door = admission()
    ticket = admitted(door, "a", prompt=100, output=50)
    door.progressed(ticket, 80)
    assert door.kv_tokens_free == 10_000 - 180


def test_expected_output_is_learned() -> None:
    door = admission()
    before = admitted(door, "x", output=0).expected_output_tokens
    for n in range(100):
        ticket = admitted(door, f"r{n}", output=0)
        door.progressed(ticket, 10)
        door.release(ticket)
    after = admitted(door, "y", output=0)
    assert before == module.EXPECTED_OUTPUT_TOKENS_FIRST
    assert after.expected_output_tokens == pytest.approx(15, abs=3)


def test_waiting_requests_expire() -> None:
    door = admission(running=1)
    admitted(door, "a")
    waiting = admitted(door, "b")
    assert door.expired(module.WAITING_S_MAX - 0.1) == []
    assert door.expired(module.WAITING_S_MAX) == [waiting]


@pytest.mark.parametrize(
    ("left", "waiting", "prompts", "prefill", "decode", "expected_ms"),
    [
        ([], 0, 0, 0.0, 0.0, RETRY_AFTER_MS_UNMEASURED),
        ([100], 0, 0, 0.0, 0.0, RETRY_AFTER_MS_UNMEASURED),
        ([100], 0, 0, 0.0, 50.0, 2_000),
        ([100, 100], 0, 0, 0.0, 50.0, 1_000),
        ([100, 100], 3, 0, 0.0, 50.0, 4_000),
        ([100, 100], 3, 1_000, 500.0, 50.0, 6_000),
        ([0, 0], 0, 0, 0.0, 50.0, 50),
        ([10**9], 9, 0, 0.0, 1.0, RETRY_AFTER_MS_MAX),
    ],
)
def test_retry_after(
    left: list[int], waiting: int, prompts: int, prefill: float, decode: float, expected_ms: int
) -> None:
    assert retry_after_ms(left, waiting, prompts, prefill, decode) == expected_ms


@pytest.mark.parametrize("seed", range(20))
def test_never_overbooked_and_never_leaking(seed: int) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    bounds = Bounds(dice.randint(1, 8), dice.randint(1, 8), dice.choice([0, 300, 2000]), 1000)
    door = Admission(bounds, Meter())
    live: list[Ticket] = []
    for step in range(400):
        if dice.random() < 0.6 or not live:
            verdict = door.offer(
                f"r{dice.randrange(30)}", dice.randint(1, 5), dice.randint(1, 250), 50, 10, float(step)
            )
            assert (verdict.ticket is None) != (verdict.failure is None)
            if verdict.ticket is not None:
                live.append(verdict.ticket)
            if verdict.superseded is not None:
                live.remove(verdict.superseded)
                door.release(verdict.superseded)
        else:
            door.release(live.pop(dice.randrange(len(live))))
        running = [t for t in live if t.place is Place.RUNNING]
        assert len(running) == door.running <= bounds.running
        assert len(live) - len(running) == door.waiting <= bounds.waiting + 1
        reserved = sum(t.reserved_tokens for t in running)
        assert bounds.kv_tokens == 0 or reserved <= bounds.kv_tokens
        assert door.kv_tokens_free == max(0, bounds.kv_tokens - reserved)
        assert door.waiting == 0 or door.running > 0
    for ticket in live:
        door.release(ticket)
    assert (door.running, door.waiting, door.queued_tokens) == (0, 0, 0)


def test_tokens_of_an_attempt_that_is_over_reserve_nothing() -> None:
    door = admission(kv=1000)
    ticket = admitted(door, "a")
    door.release(ticket)
    door.progressed(ticket, 500)
    assert door.kv_tokens_free == 1000


def test_the_engines_own_count_replaces_ours() -> None:
    door = admission()
    ticket = admitted(door, "a")
    door.progressed(ticket, 30)
    door.corrected(ticket, 12, 20)
    assert (ticket.prompt_tokens, ticket.output_tokens) == (12, 20)


def test_of_remembered_requests_the_one_unseen_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS_REMEMBERED", 2)
    door = admission(running=9)
    for name, attempt in (("a", 5), ("b", 5), ("a", 6), ("c", 5)):
        door.release(admitted(door, name, attempt=attempt))
    assert offer(door, "a", attempt=1).failure is not None
    assert offer(door, "b", attempt=1).failure is None


def test_a_long_bound_reserves_what_answers_usually_take() -> None:
    door = admission(kv=1_000_000, context=0)
    for number in range(200):
        ticket = admitted(door, f"r{number}")
        door.progressed(ticket, 10)
        door.release(ticket)
    assert admitted(door, "long", output=100_000).reserved_tokens < 100
    assert admitted(door, "short", output=5).reserved_tokens == 15


def test_no_more_is_reserved_than_there_is_and_all_of_it_may_be() -> None:
    door = admission(running=9, kv=40)
    assert admitted(door, "a").place is Place.RUNNING
    assert admitted(door, "b").place is Place.RUNNING
    assert door.kv_tokens_free == 0
    alone = admission(kv=40, context=4000)
    assert admitted(alone, "a", prompt=30, output=500).reserved_tokens == 40


def test_a_running_attempt_that_is_superseded_leaves_no_room_in_the_line() -> None:
    door = admission(running=1, waiting=1)
    admitted(door, "a")
    admitted(door, "b")
    verdict = offer(door, "a", attempt=2)
    assert verdict.failure is not None
    assert verdict.superseded is not None, "it is over all the same"


@pytest.mark.parametrize("seed", range(20))
def test_the_common_case_decides_as_the_general_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS_REMEMBERED", 30)
    dice = random.Random(seed)
    common, general = (admission(running=6, waiting=3, kv=1_000, context=600) for _ in range(2))
    tickets: list[tuple[Ticket, Ticket]] = []
    for number in range(600):
        if tickets and dice.random() < 0.5:
            pair = tickets.pop(dice.randrange(len(tickets)))
            output = dice.choice((0, 1, 50, 700))
            for door, ticket in zip((common, general), pair, strict=True):
                door.progressed(ticket, output)
            freed = [[t.request_id for t in d.release(t)] for d, t in zip((common, general), pair, strict=True)]
            assert freed[0] == freed[1], (seed, number)
        name, attempt = f"r{dice.randrange(60)}", dice.randrange(4)
        asked = {"prompt": dice.choice((1, 90, 400, 900, 1500)), "output": dice.choice((0, 5, 300, 5000))}
        one = offer(common, name, attempt=attempt, **asked)
        two = general.decide(name, attempt, asked["prompt"], asked["output"], 100, 0.0, True)
        assert (one.failure, one.superseded is None) == (two.failure, two.superseded is None), (seed, number)
        if one.superseded is not None and two.superseded is not None:
            tickets = [pair for pair in tickets if pair[0] is not one.superseded]
            common.release(one.superseded)
            general.release(two.superseded)
        if one.ticket is not None and two.ticket is not None:
            tickets.append((one.ticket, two.ticket))
        assert (one.ticket and vars_of(one.ticket)) == (two.ticket and vars_of(two.ticket)), (seed, number)
        assert state_of(common) == state_of(general), (seed, number)


def vars_of(ticket: Ticket) -> tuple[object, ...]:
    return (
        ticket.request_id,
        ticket.attempt,
        ticket.place,
        ticket.prompt_tokens,
        ticket.expected_output_tokens,
        ticket.reserved_tokens,
        ticket.mark,
    )


def state_of(door: Admission) -> tuple[object, ...]:
    return (door.running, door.waiting, door.running_limit, door.kv_tokens_free, door.queued_tokens, door.marks)
