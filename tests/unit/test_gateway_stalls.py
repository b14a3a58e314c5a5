"""Machines that accept and stay silent, over a pool in memory: noticed, left alone, moved away from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.gateway import A, B, C, FakeMesh, member
from tests.support.gateway_pool import Pool
from tests.support.simulated_attempt import SimulatedAttempt
from tests.support.streams import CHAT, fields, read, undisturbed

from covey_gateway.core.circuit import PAUSE_FIRST_S
from covey_gateway.core.progress import Work, pace_of
from covey_mesh.core.asking import Outcome
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.facts import Member
from covey_mesh.core.names import NodeId


def measured(node_id: NodeId) -> Member:
    plain = member(node_id, "m")
    (load,) = plain.load.models
    fast = replace(load, prefill_tokens_per_s=5000.0, decode_tokens_per_s=100.0)
    return replace(plain, load=replace(plain.load, models=(fast,)))


def fast_pool() -> Pool:
    return Pool(FakeMesh(measured(A), measured(B), measured(C)))


PACE = pace_of(measured(B).load.models[0], Work(10, 9, True))


def test_an_engine_that_accepts_and_never_answers_is_left_and_the_request_moved() -> None:
    pool = fast_pool()
    client, active = pool.submit(**fields(CHAT))
    attempt = pool.mesh.assign(B)
    pool.timers.advance(PACE.first_s + 0.1)
    assert attempt.cancelled
    assert "stalled: nothing came for" in pool.mesh.asks[-1].excluded[B]
    SimulatedAttempt(pool.mesh.assign(C)).finish()
    assert read(client).text == undisturbed(CHAT).text
    assert pool.observer.events[:2] == ["stalled m b", "retried stalled"]
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert [a.outcome for a in record.attempts] == ["stalled", "completed"]
    assert pool.quiet()


@pytest.mark.parametrize("after", [1, 5])
def test_a_stream_that_stops_midway_is_continued_elsewhere(after: int) -> None:
    pool = fast_pool()
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(after)
    for _ in range(100):
        if first.attempt.cancelled:
            break
        pool.timers.advance(0.1)
    assert PACE.gap_s - 0.1 <= pool.timers.now_s - 1000 <= PACE.gap_s * 1.5 + 0.1
    SimulatedAttempt(pool.mesh.assign(C)).finish()
    told = read(client)
    assert (told.text, told.error) == (undisturbed(CHAT).text, None)
    assert told.flag == {"continued": 1, "machines": ["host-b", "host-c"]}


def test_the_machine_that_goes_on_is_not_blamed_for_the_first_ones_silence() -> None:
    pool = fast_pool()
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(2)
    pool.timers.advance(PACE.gap_s * 1.5 + 0.1)
    assert first.attempt.cancelled
    second = SimulatedAttempt(pool.mesh.assign(C))
    second.role()
    second.tokens(1)
    pool.timers.advance(PACE.gap_s * 0.9)
    assert not second.attempt.cancelled
    second.tokens(second.left)
    second.end()
    assert read(client).text == undisturbed(CHAT).text


def test_what_may_be_held_back_is_waited_for() -> None:
    """A tool call comes as a whole: the engine is silent for as long as its tokens take."""
    waited = {}
    for more in ({}, {"tools": [{"type": "function", "function": {"name": "f"}}]}):
        pool = fast_pool()
        pool.submit(**fields(CHAT, max_tokens=1000, **more))
        first = SimulatedAttempt(pool.mesh.assign(B))
        first.role()
        first.tokens(1)
        while not first.attempt.cancelled:
            pool.timers.advance(1.0)
        waited[bool(more)] = pool.timers.now_s - 1000.0
    assert waited[True] > 3 * waited[False]


@pytest.mark.parametrize("after", [None, 3])
def test_a_machine_that_says_its_engine_is_silent_counts_as_stalled(after: int | None) -> None:
    """The node saw it first: the request goes elsewhere at once, and two of them open the circuit."""
    pool = fast_pool()
    clients = []
    for _ in range(2):
        client, _ = pool.submit(**fields(CHAT))
        clients.append(client)
        first = SimulatedAttempt(pool.mesh.assign(B))
        if after is not None:
            first.role()
            first.tokens(after)
        first.attempt.sink.end(Failure(FailureCode.STALLED, "nothing came from it for 3.1 s"))
        SimulatedAttempt(pool.mesh.assign(C)).finish()
    assert [read(client).text for client in clients] == [undisturbed(CHAT).text] * 2
    assert [e for e in pool.observer.events if e.startswith("stalled")] == ["stalled m b", "stalled m b opened"]
    pool.submit(**fields(CHAT))
    assert "its answers stalled" in pool.mesh.asks[-1].excluded[B]


def test_slow_but_moving_streams_and_paused_readers_are_left_alone() -> None:
    pool = fast_pool()
    client, active = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    for _ in range(4):
        pool.timers.advance(PACE.gap_s * 0.9)
        first.tokens(1)
    active.pause()
    pool.timers.advance(PACE.gap_s * 50)
    active.resume()
    first.tokens(first.left)
    first.end()
    assert read(client).text == undisturbed(CHAT).text
    assert not [e for e in pool.observer.events if e.startswith("stalled")]


def test_work_that_came_to_the_machine_meanwhile_counts() -> None:
    pool = fast_pool()
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    busy = measured(B)
    (load,) = busy.load.models
    loads = (replace(load, queued_tokens=20_000, running_requests=40),)
    pool.mesh.members[B] = replace(busy, load=replace(busy.load, models=loads))
    pool.timers.advance(PACE.first_s * 2)
    assert not first.attempt.cancelled
    first.finish()
    assert read(client).done


def test_a_machine_that_measured_nothing_yet_is_given_time() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT, messages=[{"role": "user", "content": "long " * 1000}]))
    attempt = pool.mesh.assign(B)
    pool.timers.advance(20.0)
    assert not attempt.cancelled
    SimulatedAttempt(attempt).finish()
    assert read(client).done


def test_an_answer_in_one_piece_may_take_as_long_as_its_tokens() -> None:
    pool = fast_pool()
    pool.submit(max_tokens=1000)
    attempt = pool.mesh.assign(B)
    pool.timers.advance(40.0)
    assert not attempt.cancelled
    pool.timers.advance(40.0)
    assert attempt.cancelled


def test_who_stalls_twice_gets_nothing_but_a_probe_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    pool = fast_pool()
    for _ in range(2):
        pool.submit(**fields(CHAT))
        pool.mesh.assign(B)
    pool.timers.advance(PACE.first_s + 0.1)
    assert pool.observer.events.count("stalled m b opened") == 1
    assert len([r for r in caplog.records if "does not answer" in r.message]) == 1
    for ask in pool.mesh.asks[-2:]:
        pool.mesh.answer(Outcome.ASSIGNED, C, ask=ask)
        SimulatedAttempt(pool.mesh.newest()).finish()
    fresh, _ = pool.submit(**fields(CHAT))
    assert pool.mesh.asks[-1].excluded == {B: "its answers stalled; tried again in 5 s"}
    SimulatedAttempt(pool.mesh.assign(C)).finish()
    assert read(fresh).done
    pool.timers.advance(PAUSE_FIRST_S)
    probe, _ = pool.submit(**fields(CHAT))
    assert pool.mesh.asks[-1].excluded == {}
    attempt = pool.mesh.assign(B)
    pool.submit(**fields(CHAT))
    assert pool.mesh.asks[-1].excluded == {B: "its answers stalled; one request is trying it"}
    SimulatedAttempt(attempt).finish()
    assert read(probe).done
    pool.submit(**fields(CHAT))
    assert pool.mesh.asks[-1].excluded == {}
