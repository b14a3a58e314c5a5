"""The request runner over a pool in memory: whole requests, with leaders and machines that fail at every point."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.support.gateway import SELF, A, B, C, FakeClient, FakeMesh, member
from tests.support.gateway_pool import CHAT, Pool

from covey_gateway.core.fair_starts import STARTS_A_TURN
from covey_gateway.core.front import IncomingRequest
from covey_gateway.core.settings import RequestSettings
from covey_mesh.core.asking import Ask, Decision, Outcome
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.facts import EngineState, PoolView
from covey_mesh.core.limits import DECISIONS_KEPT
from covey_mesh.core.names import NodeId

LOST = Failure(FailureCode.LINK_LOST, "the link is gone")


def error_of(client: FakeClient) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(client.body)["error"]
    return error


def test_a_stream_through_the_leaders_choice() -> None:
    pool = Pool()
    client, active = pool.submit(stream=True)
    ask = pool.mesh.asks[-1]
    assert (ask.model, ask.user, ask.attempt, ask.max_output_tokens) == ("m", "ada", 1, 256)
    attempt = pool.mesh.assign(B)
    assert (
        attempt.request.body
        == json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}).encode()
    )
    assert pool.runner.in_flight() == {B: 1}
    pool.timers.advance(0.25)
    attempt.stream("1", "2", "[DONE]")
    attempt.sink.end(None)
    assert client.body == b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
    assert client.ended == 1
    head = client.heads[0]
    assert (head.status, head.node_id, head.node_name, head.attempts) == (200, B, "host-b", 1)
    assert head.request_id == active.request_id
    assert head.request_id == f"req-{SELF[:8]}-{0:012x}"
    assert pool.quiet()


def test_metrics_and_record_tell_the_same() -> None:
    pool = Pool()
    client, active = pool.submit(stream=True)
    attempt = pool.mesh.assign(B)
    pool.timers.advance(0.25)
    attempt.stream("1", '{"usage":{"prompt_tokens":12,"completion_tokens":34}}', "[DONE]")
    pool.timers.advance(0.75)
    attempt.sink.end(None)
    assert client.ended == 1
    (summary,) = pool.observer.summaries
    assert pool.observer.started == [(CHAT, "m")]
    assert pool.observer.events == ["first_byte m b 0.250"]
    assert (summary.status, summary.seconds, summary.first_byte_s, summary.chunks) == (200, 1.0, 0.25, 3)
    assert (summary.prompt_tokens, summary.output_tokens, summary.attempts, summary.broken) == (12, 34, 1, False)
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert (record.status, record.node_id, record.total_s, record.first_byte_s) == (200, B, 1.0, 0.25)
    (kept,) = record.attempts
    assert (kept.attempt, kept.node_id, kept.outcome, kept.total_s) == (1, B, "completed", 1.0)
    assert "hello" not in repr(record)
    assert pool.mesh.reports[-1].output_tokens == 34


def test_a_machine_that_dies_before_the_first_byte_is_not_noticed() -> None:
    pool = Pool()
    client, active = pool.submit(stream=True)
    pool.mesh.assign(B).sink.end(LOST)
    assert pool.mesh.asks[-1].excluded == {B: "link_lost: the link is gone"}
    attempt = pool.mesh.assign(C)
    attempt.stream("x", "[DONE]")
    attempt.sink.end(None)
    assert client.body == b"data: x\n\ndata: [DONE]\n\n"
    assert client.heads[0].attempts == 2
    assert pool.observer.events[0] == "retried link_lost"
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert [(a.node_id, a.outcome) for a in record.attempts] == [(B, "link_lost"), (C, "completed")]
    assert pool.quiet()


def test_a_whole_answer_survives_a_death_in_its_middle() -> None:
    pool = Pool()
    client, _ = pool.submit()
    first = pool.mesh.assign(B)
    first.sink.head(200, "application/json")
    first.sink.data(b'{"half')
    first.sink.end(LOST)
    pool.mesh.assign(C).answer(b'{"whole":1}')
    assert client.body == b'{"whole":1}'
    assert client.ended == 1
    assert pool.quiet()


def test_late_answers_and_late_bytes_of_old_attempts_are_ignored() -> None:
    pool = Pool()
    client, _ = pool.submit(stream=True)
    old_ask = pool.mesh.asks[-1]
    old = pool.mesh.assign(B)
    old.sink.end(LOST)
    pool.mesh.answer(Outcome.ASSIGNED, A, ask=old_ask)
    assert len(pool.mesh.attempts) == 1
    new = pool.mesh.assign(C)
    old.stream("old")
    old.sink.end(None)
    new.stream("new")
    old.sink.data(b"data: old\n\n")
    new.sink.end(None)
    assert client.body == b"data: new\n\n"
    assert pool.quiet()


def test_an_answer_from_somebody_who_does_not_lead_is_ignored() -> None:
    pool = Pool()
    pool.submit()
    pool.mesh.answer(Outcome.ASSIGNED, B, by=C)
    assert pool.mesh.attempts == []


def test_requests_flow_without_a_leader() -> None:
    pool = Pool(FakeMesh(leader=None))
    client, active = pool.submit(stream=True)
    assert pool.mesh.asks == []
    attempt = pool.mesh.attempts[-1]
    attempt.stream("x")
    attempt.sink.end(None)
    assert client.status == 200
    assert client.heads[0].why.endswith("by gateway")
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert [(d.decided_by, d.decided_at_unix_s) for d in record.decisions] == [("gateway", 1.7e9)]
    assert "decided_alone" in pool.observer.events


def test_leaderless_choices_count_this_gateways_own_requests() -> None:
    seen: list[dict[NodeId, int]] = []

    def choose(ask: Ask, view: PoolView, mine: Mapping[NodeId, int], unit: Any) -> tuple[NodeId | None, Decision]:
        seen.append(dict(mine))
        return A, Decision(ask.request_id, ask.attempt, ask.model, 0, "gateway", SELF, Outcome.ASSIGNED, "test")

    pool = Pool(FakeMesh(leader=None))
    pool.runner._alone._choose = choose
    pool.submit()
    pool.submit()
    assert seen == [{}, {A: 1}]


def test_a_silent_leader_costs_one_wait_and_then_none_for_a_while() -> None:
    settings = RequestSettings()
    pool = Pool()
    pool.submit()
    assert pool.mesh.attempts == []
    pool.timers.advance(settings.ask_acknowledged_within_s)
    assert len(pool.mesh.attempts) == 1
    assert pool.mesh.reports[-1].withdrawn
    pool.submit()
    assert len(pool.mesh.attempts) == 2
    assert len(pool.mesh.asks) == 1
    pool.timers.advance(settings.leader_distrusted_s)
    pool.submit()
    assert len(pool.mesh.asks) == 2


def test_of_many_requests_at_once_a_few_begin_at_each_turn_of_the_loop() -> None:
    pool = Pool()
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
    for user in ["ada"] * 30 + ["bob"]:
        pool.runner.submit(IncomingRequest(CHAT, body, user, 1, None), FakeClient())
    pool.timers.turn()
    assert [ask.user for ask in pool.mesh.asks].count("bob") == 1, "one user's many do not keep another's waiting"
    assert len(pool.mesh.asks) == STARTS_A_TURN
    pool.timers.settle()
    assert len(pool.mesh.asks) == 31


def test_what_one_gateway_decides_alone_it_spreads_over_time() -> None:
    slow = replace(member(A, "m").load.models[0], prefill_tokens_per_s=50.0)
    machine = replace(member(A, "m"), load=replace(member(A, "m").load, models=(slow,)))
    pool = Pool(FakeMesh(machine, leader=None))
    for _ in range(100):
        pool.submit()
    begun = len(pool.mesh.attempts)
    assert begun <= 3, "prompts of a quarter of a second, and the one that goes beyond it"
    pool.timers.advance(2.0)
    assert begun < len(pool.mesh.attempts) <= 20


def test_a_leader_without_a_link_is_not_waited_for() -> None:
    mesh = FakeMesh()
    mesh.unreachable.add(A)
    pool = Pool(mesh)
    client, _ = pool.submit()
    mesh.attempts[-1].answer(b"{}")
    assert client.status == 200


def test_who_lost_all_links_goes_on_with_the_first_that_is_back() -> None:
    pool = Pool()
    client, _ = pool.submit(stream=True)
    for node_id in (A, B, C):
        attempt = pool.mesh.assign(node_id)
        pool.mesh.members[node_id] = replace(pool.mesh.members[node_id], reachable=False)
        pool.mesh.lose(node_id)
        attempt.sink.end(Failure(FailureCode.LINK_LOST, "the link is gone"))
    pool.mesh.answer(Outcome.NO_CANDIDATE)
    asks = len(pool.mesh.asks)
    pool.mesh.changed(B)
    assert len(pool.mesh.asks) == asks, "it is still not linked"
    pool.mesh.members[B] = replace(pool.mesh.members[B], reachable=True)
    pool.mesh.changed(B)
    assert set(pool.mesh.asks[-1].excluded) == {A, C}
    attempt = pool.mesh.assign(B)
    attempt.stream("x")
    attempt.sink.end(None)
    assert client.body == b"data: x\n\n"
    assert pool.quiet()


def test_a_leader_lost_while_requests_are_queued_loses_none() -> None:
    pool = Pool()
    clients = []
    for _ in range(5):
        clients.append(pool.submit(stream=True)[0])
        pool.mesh.answer(Outcome.QUEUED)
    assert pool.mesh.attempts == []
    pool.mesh.lose(A)
    pool.mesh.lead(None)
    assert len(pool.mesh.attempts) == 5
    for attempt in pool.mesh.attempts:
        attempt.stream("x")
        attempt.sink.end(None)
    assert [client.body for client in clients] == [b"data: x\n\n"] * 5
    assert pool.quiet()


def test_a_new_leader_gets_the_queued_requests() -> None:
    pool = Pool()
    client, _ = pool.submit(stream=True)
    pool.mesh.answer(Outcome.QUEUED)
    pool.timers.advance(1.0)
    pool.mesh.lead(B)
    ask = pool.mesh.asks[-1]
    assert pool.mesh.sent[-1][0] == B
    assert (ask.attempt, ask.waited_s) == (2, pytest.approx(1.0))
    attempt = pool.mesh.assign(C)
    attempt.stream("x")
    attempt.sink.end(None)
    assert client.status == 200


def test_a_client_that_leaves_frees_everything() -> None:
    pool = Pool()
    _, waiting = pool.submit()
    pool.mesh.answer(Outcome.QUEUED)
    waiting.cancel()
    assert pool.mesh.reports[-1].withdrawn
    client, running = pool.submit(stream=True)
    attempt = pool.mesh.assign(B)
    attempt.stream("x")
    running.cancel()
    running.cancel()
    assert attempt.cancelled
    assert client.ended == 0
    assert pool.quiet()
    assert [s.status for s in pool.observer.summaries] == [499, 499]


def test_a_client_that_leaves_before_the_start_is_never_asked_for() -> None:
    pool = Pool()
    client = FakeClient()
    pool.runner.submit(IncomingRequest(CHAT, b'{"model":"m"}'), client).cancel()
    pool.timers.settle()
    assert pool.mesh.asks == []
    assert client.heads == []
    assert pool.quiet()


def test_pausing_reaches_the_machine_also_across_a_retry() -> None:
    pool = Pool()
    _, active = pool.submit(stream=True)
    first = pool.mesh.assign(B)
    active.pause()
    assert first.paused
    first.sink.end(LOST)
    second = pool.mesh.assign(C)
    assert second.paused
    active.resume()
    assert not second.paused


def test_a_stream_that_breaks_ends_with_one_error_event() -> None:
    pool = Pool()
    client, active = pool.submit(stream=True)
    attempt = pool.mesh.assign(B)
    attempt.stream("1")
    attempt.sink.data(b"data: ha")
    attempt.sink.end(LOST)
    events = client.body.decode().split("\n\n")
    assert events[0] == "data: 1"
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "stream_broken"
    assert events[2:] == [""]
    assert client.failure is not None
    assert client.failure.code is FailureCode.LINK_LOST
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert record.error.startswith("link_lost: the link is gone; it was not continued elsewhere: ")
    assert pool.observer.summaries[-1].broken
    assert pool.quiet()


def test_an_unknown_model_is_told_what_there_is() -> None:
    pool = Pool()
    client, _ = pool.submit(model="nope")
    pool.mesh.answer(Outcome.NO_CANDIDATE)
    assert client.status == 404
    assert "`nope`" in error_of(client)["message"]
    assert "m." in error_of(client)["message"]
    assert pool.observer.started == [(CHAT, "")], "a client's invention must not become a label"
    assert pool.quiet()


def test_a_missing_model_means_the_only_one_there_is() -> None:
    pool = Pool()
    pool.submit(model=None)
    assert pool.mesh.asks[-1].model == "m"
    several = Pool(FakeMesh(member(A, "m", "n")))
    client, _ = several.submit(model=None)
    assert (client.status, error_of(client)["code"]) == (400, "model_missing")


def test_nothing_able_to_serve_is_503_with_retry_after() -> None:
    pool = Pool(FakeMesh(member(A, "m", state=EngineState.STARTING), leader=None))
    client, active = pool.submit()
    pool.timers.advance(RequestSettings().unserved_wait_s + 1)
    assert (client.status, error_of(client)["code"]) == (503, "nothing_able_to_serve")
    assert client.heads[0].retry_after_s > 0
    assert active.request_id in error_of(client)["message"]
    assert pool.quiet()


def test_a_prompt_far_too_long_is_refused_here() -> None:
    pool = Pool()
    client, _ = pool.submit(messages=[{"role": "user", "content": "a" * 64 * 2100}])
    assert (client.status, error_of(client)["code"]) == (400, "context_length_exceeded")
    assert pool.mesh.asks == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"{", 400, "malformed_json"), (b"[]", 400, "invalid_field"), (b'{"model":1}', 400, "invalid_field")],
)
def test_refusals_of_bodies(body: bytes, status: int, code: str) -> None:
    pool = Pool()
    client = FakeClient()
    pool.runner.submit(IncomingRequest(CHAT, body), client)
    pool.timers.settle()
    assert (client.status, error_of(client)["code"], client.ended) == (status, code, 1)
    assert pool.observer.events == [f"refused {code}"]
    assert pool.quiet()


def test_a_path_that_is_no_engines_is_refused() -> None:
    client, _ = Pool().submit(path="/v1/load_lora_adapter")
    assert client.status == 404


def test_a_full_gateway_refuses() -> None:
    pool = Pool(settings=RequestSettings(in_flight_max=1))
    pool.submit()
    client, _ = pool.submit()
    assert (client.status, error_of(client)["code"]) == (503, "gateway_full")


def test_a_deadline_is_passed_on_and_kept() -> None:
    pool = Pool()
    client, _ = pool.submit(deadline_s=2.0, stream=True)
    assert pool.mesh.asks[-1].deadline_s == pytest.approx(2.0)
    pool.timers.advance(0.3)
    attempt = pool.mesh.assign(B)
    assert attempt.request.deadline_ms == 1700
    pool.timers.advance(2.0)
    assert attempt.cancelled
    assert client.status == 504
    assert pool.quiet()


def test_the_token_ratio_is_learnt_from_answers() -> None:
    pool = Pool()
    pool.submit()
    before = pool.mesh.asks[-1].prompt_tokens
    pool.mesh.assign(B).answer(b'{"usage":{"prompt_tokens":40,"completion_tokens":1}}')
    for _ in range(60):
        pool.submit()
        pool.mesh.assign(B).answer(b'{"usage":{"prompt_tokens":40,"completion_tokens":1}}')
    pool.submit()
    assert before < 15
    assert 35 <= pool.mesh.asks[-1].prompt_tokens <= 41


def test_records_are_bounded() -> None:
    pool = Pool()
    for _ in range(DECISIONS_KEPT + 5):
        pool.submit()
        pool.mesh.assign(B).answer(b"{}")
    assert len(pool.runner.records) == DECISIONS_KEPT
    assert pool.runner.record(f"req-{SELF[:8]}-{0:012x}") is None


def test_our_own_bug_costs_one_request_a_500_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(FakeMesh(leader=None))
    good, _ = pool.submit()

    def broken(*_: object) -> tuple[NodeId | None, Decision]:
        raise ZeroDivisionError

    real, pool.runner._alone._choose = pool.runner._alone._choose, broken
    bad, _ = pool.submit()
    pool.runner._alone._choose = real
    assert (bad.status, error_of(bad)["code"], bad.ended) == (500, "internal", 1)
    assert "bug in the request runner" in caplog.text
    pool.mesh.attempts[0].answer(b"{}")
    assert good.status == 200
    assert pool.quiet()


def test_our_own_bug_in_mid_stream_ends_it_with_an_error_event(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    client, _ = pool.submit(stream=True)
    attempt = pool.mesh.assign(B)
    attempt.stream("1")

    monkeypatch.setattr("covey_gateway.core.request.TRANSITIONS", {})
    attempt.sink.end(None)
    first, second, rest = client.body.decode().split("\n\n")
    assert (first, rest) == ("data: 1", "")
    assert json.loads(second.removeprefix("data: "))["error"]["code"] == "internal"
    assert (client.ended, client.failure is not None) == (1, True)
    assert pool.quiet()


@pytest.mark.asyncio
async def test_draining_refuses_what_comes_and_waits_for_what_is_here() -> None:
    pool = Pool()
    client, _ = pool.submit()
    attempt = pool.mesh.assign(B)
    assert not await pool.runner.drain(0.0)
    refused, _ = pool.submit()
    assert (refused.status, error_of(refused)["code"]) == (503, "draining")
    draining = asyncio.ensure_future(pool.runner.drain(60.0))
    await asyncio.sleep(0)
    attempt.answer(b"{}")
    assert await draining
    assert client.status == 200


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_faults_ends_each_request_once_and_leaves_nothing(seed: int) -> None:
    """Against a dumb reading of the contract: each client gets exactly one end, streams are contiguous."""
    print(f"seed {seed}")
    dice = random.Random(seed)
    pool = Pool(settings=RequestSettings(queue_wait_s=20.0))
    clients: list[tuple[FakeClient, Any, list[bool]]] = []
    position: dict[int, int] = {}
    for _ in range(400):
        act = dice.random()
        open_now = [(i, a) for i, a in enumerate(pool.mesh.attempts) if position.get(i, 0) >= 0 and not a.cancelled]
        if act < 0.15 and len(clients) < 40:
            client, active = pool.submit(stream=True)
            clients.append((client, active, []))
        elif act < 0.35 and pool.mesh.asks:
            outcome = dice.choice([Outcome.ASSIGNED, Outcome.ASSIGNED, Outcome.QUEUED, Outcome.NO_CANDIDATE])
            node = dice.choice([A, B, C]) if outcome is Outcome.ASSIGNED else None
            pool.mesh.answer(outcome, node, ask=dice.choice(pool.mesh.asks[-8:]), retry_after_ms=dice.choice([0, 100]))
        elif act < 0.7 and open_now:
            index, attempt = dice.choice(open_now)
            sent = position.get(index, 0)
            if dice.random() < 0.2:
                position[index] = -1
                attempt.sink.end(dice.choice([None, LOST, Failure(FailureCode.RESOURCE_EXHAUSTED, "full", 50)]))
            else:
                if not sent:
                    attempt.sink.head(200, "text/event-stream")
                attempt.sink.data(f"data: {sent}\n\n".encode())
                position[index] = sent + 1
        elif act < 0.75:
            pool.mesh.lead(dice.choice([None, A, B]))
        elif act < 0.8:
            pool.mesh.lose(dice.choice([A, B, C]))
        elif act < 0.83 and clients:
            client, active, gone = dice.choice(clients)
            if not client.ended:
                gone.append(True)
                active.cancel()
        else:
            pool.timers.advance(dice.random())
    for index, attempt in enumerate(pool.mesh.attempts):
        if position.get(index, 0) >= 0 and not attempt.cancelled:
            attempt.sink.end(LOST)
    pool.mesh.lead(None)
    for _ in range(200):
        pool.timers.advance(1.0)
        for index, attempt in enumerate(pool.mesh.attempts):
            if position.get(index, 0) >= 0 and not attempt.cancelled:
                position[index] = -1
                attempt.sink.end(LOST)
    assert pool.quiet()
    assert len(pool.observer.summaries) == len(clients)
    for client, _, gone in clients:
        assert client.ended == (0 if gone else 1)
        assert_contiguous(client.body)


def assert_contiguous(body: bytes) -> None:
    events = [event for event in body.split(b"\n\n") if event]
    for number, event in enumerate(events):
        is_error = event.startswith((b"data: {", b"{"))
        assert event == b"data: %d" % number or (is_error and number == len(events) - 1), events
