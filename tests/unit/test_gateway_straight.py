"""Plain requests under a grant: what they spare, and that everything unusual becomes an ordinary request."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.support.gateway import SELF, A, B, FakeAttempt, FakeClient, FakeMesh, member
from tests.support.gateway_pool import CHAT, Pool

from covey_gateway.core.front import IncomingRequest
from covey_gateway.core.settings import RequestSettings
from covey_gateway.io.straight import OWN_S
from covey_mesh.core.asking import (
    GRANTED_WORK_WITHIN_S,
    Answer,
    AttemptReport,
    CandidateVerdict,
    Decision,
    Grant,
    GrantedWork,
    Outcome,
)
from covey_mesh.core.exchange import Failure, FailureCode, Usage

BODY = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()
JSON = "application/json"
LOST = Failure(FailureCode.LINK_LOST, "the link is gone")


def decision(request_id: str) -> Decision:
    verdicts = (CandidateVerdict(A),)
    return Decision(
        request_id, 1, "m", 1.6e9, "leader", A, Outcome.ASSIGNED, "predicted", chosen=A, candidates=verdicts
    )


def grant(pool: Pool, requests: int = 8, tokens: int = 1000, valid_s: float = 10.0) -> FakeClient:
    """One request that asks; the answer to it grants more. It is answered at once."""
    client, _ = pool.submit()
    ask = pool.mesh.asks[-1]
    told = Grant(requests, tokens, valid_s)
    answer = Answer(ask.request_id, ask.attempt, Outcome.ASSIGNED, A, decision(ask.request_id), grant=told)
    for listener in pool.mesh.listeners:
        listener.answer_received(A, answer)
    pool.mesh.attempts[-1].answer(BODY)
    assert client.status == 200
    pool.observer.__init__()  # type: ignore[misc]
    return client


def work(pool: Pool) -> list[GrantedWork]:
    return [message for _, message in pool.mesh.sent if isinstance(message, GrantedWork)]


def whole(attempt: FakeAttempt, status: int = 200, body: bytes = BODY) -> None:
    attempt.sink.whole(status, JSON, 0, body, Usage(7, 3, 0))


@pytest.fixture
def pool() -> Pool:
    return Pool()


def opened_straight(pool: Pool, **fields: Any) -> tuple[FakeClient, Any, FakeAttempt]:
    asks, attempts = len(pool.mesh.asks), len(pool.mesh.attempts)
    client, active = pool.submit(**fields)
    assert len(pool.mesh.asks) == asks, "nobody is asked"
    assert len(pool.mesh.attempts) == attempts + 1
    return client, active, pool.mesh.attempts[-1]


def test_answered_without_an_ask_and_told_in_sums(pool: Pool) -> None:
    grant(pool)
    client, active, attempt = opened_straight(pool, max_tokens=16)
    assert (attempt.node_id, attempt.request.attempt, attempt.request.max_output_tokens) == (A, 1, 16)
    assert pool.runner.in_flight() == {A: 1}
    assert pool.runner.active == 1
    pool.timers.advance(0.05)
    whole(attempt)
    assert (client.body, client.ended, client.failure) == (BODY, 1, None)
    head = client.heads[0]
    assert (head.status, head.content_type, head.request_id, head.node_name) == (200, JSON, active.request_id, "host-a")
    assert head.why == "predicted: best of 1, 0 rejected, by grant"
    assert not work(pool)
    pool.timers.advance(GRANTED_WORK_WITHIN_S)
    assert work(pool) == [GrantedWork("m", A, "ada", 1, 1, 7, 3, 0)]
    assert len(pool.mesh.reports) == 1, "that of the request that had asked"
    assert pool.quiet()


def test_the_record_and_the_metrics_are_those_of_any_request(pool: Pool) -> None:
    grant(pool)
    _, active, attempt = opened_straight(pool)
    pool.timers.advance(0.05)
    whole(attempt)
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert (record.status, record.node_id, record.prompt_tokens, record.total_s) == (200, A, 9, pytest.approx(0.05))
    assert record.arrived_at_unix_s == pytest.approx(1.7e9 - 0.05)
    assert [(each.decided_by, each.chosen) for each in record.decisions] == [("grant", A)]
    assert [(each.attempt, each.node_id, each.outcome) for each in record.attempts] == [(1, A, "completed")]
    assert pool.observer.started == [(CHAT, "m")]


def test_an_answer_in_three_calls_is_the_same(pool: Pool) -> None:
    grant(pool)
    client, _, attempt = opened_straight(pool)
    attempt.answer(BODY)
    assert (client.body, client.ended) == (BODY, 1)
    pool.timers.advance(GRANTED_WORK_WITHIN_S)
    assert work(pool) == [GrantedWork("m", A, "ada", 1, 1, 7, 3, 0)]
    assert pool.quiet()


def test_an_answer_without_usage_counts_the_estimate(pool: Pool) -> None:
    grant(pool)
    _, _, attempt = opened_straight(pool)
    attempt.sink.whole(200, JSON, 0, b"{}", None)
    pool.timers.advance(GRANTED_WORK_WITHIN_S)
    assert work(pool) == [GrantedWork("m", A, "ada", 1, 1, attempt.request.prompt_tokens, 0, 0)]


def test_an_answer_in_pieces_is_relayed_by_a_flight(pool: Pool) -> None:
    grant(pool)
    client, active, attempt = opened_straight(pool)
    attempt.sink.head(200, JSON)
    attempt.sink.data(BODY[:10])
    attempt.sink.data(BODY[10:])
    attempt.sink.end(None)
    assert (client.body, client.ended) == (BODY, 1)
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert record.status == 200
    pool.timers.advance(GRANTED_WORK_WITHIN_S)
    assert work(pool) == [GrantedWork("m", A, "ada", 1, 1, 7, 3, 0)]
    assert pool.quiet()


def test_a_clients_mistake_is_answered_as_the_engine_says(pool: Pool) -> None:
    grant(pool)
    client, _, attempt = opened_straight(pool)
    whole(attempt, status=400, body=b'{"error": {}}')
    assert (client.status, client.body) == (400, b'{"error": {}}')
    assert pool.runner.in_flight() == {}


@pytest.mark.parametrize("how", ["lost", "no answer", "engine error", "after its head", "in the middle"])
def test_a_failure_is_mended_elsewhere_and_voids_the_grant(pool: Pool, how: str) -> None:
    grant(pool)
    client, active, attempt = opened_straight(pool)
    if how == "engine error":
        whole(attempt, status=500)
    else:
        if how in ("after its head", "in the middle"):
            attempt.sink.head(200, JSON)
        if how == "in the middle":
            attempt.sink.data(BODY[:5])
        attempt.sink.end(None if how == "no answer" else LOST)
    assert client.heads == []
    ask = pool.mesh.asks[-1]
    assert (ask.request_id, ask.attempt) == (active.request_id, 2)
    assert A in ask.excluded
    pool.mesh.assign(B).answer(BODY)
    assert (client.status, client.body, client.heads[0].attempts) == (200, BODY, 2)
    pool.timers.advance(GRANTED_WORK_WITHIN_S)
    told = work(pool)
    assert [(each.requests, each.failed) for each in told] == [(1, 1)]
    assert pool.mesh.reports[-1] == AttemptReport(active.request_id, 2, B, output_tokens=3, prompt_tokens=7)
    pool.submit()
    assert pool.mesh.asks[-1].attempt == 1, "the grant is void"


def test_the_client_leaves(pool: Pool) -> None:
    grant(pool)
    client, active, attempt = opened_straight(pool)
    active.cancel()
    assert attempt.cancelled
    assert client.heads == []
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert record.status == 499
    pool.timers.advance(GRANTED_WORK_WITHIN_S)
    assert [(each.requests, each.failed) for each in work(pool)] == [(1, 0)]
    assert pool.quiet()


def test_the_client_reads_slowly(pool: Pool) -> None:
    grant(pool)
    client, active, attempt = opened_straight(pool)
    active.resume()
    active.pause()
    assert attempt.paused
    active.resume()
    assert not attempt.paused
    attempt.answer(BODY)
    assert client.body == BODY


def test_one_that_goes_on_is_told_to_the_leader_alone(pool: Pool) -> None:
    grant(pool)
    client, active, attempt = opened_straight(pool)
    pool.timers.advance(OWN_S + GRANTED_WORK_WITHIN_S)
    ask = pool.mesh.asks[-1]
    assert (ask.request_id, ask.attempt, ask.running_on) == (active.request_id, 1, A)
    whole(attempt)
    assert client.body == BODY
    assert pool.mesh.reports[-1] == AttemptReport(active.request_id, 1, A, output_tokens=3, prompt_tokens=7)
    pool.timers.advance(1.0)
    assert work(pool) == []
    assert pool.quiet()


def test_silence_is_found_from_the_attempts_begin() -> None:
    """As if it had been a flight from its arrival."""
    pool = measured_pool()
    pool.submit()
    pool.mesh.assign(A)
    silent_s = seconds_until_cancelled(pool)
    pool = measured_pool()
    grant(pool)
    opened_straight(pool)
    assert seconds_until_cancelled(pool) == silent_s


def measured_pool() -> Pool:
    (load,) = member(A, "m").load.models
    fast = replace(load, prefill_tokens_per_s=5000.0, decode_tokens_per_s=100.0)
    members = FakeMesh().members.values()
    return Pool(FakeMesh(*(replace(each, load=replace(each.load, models=(fast,))) for each in members)))


def seconds_until_cancelled(pool: Pool) -> float:
    for tenths in range(1, 10_000):
        pool.timers.advance(0.1)
        if pool.mesh.attempts[-1].cancelled:
            return tenths / 10
    raise AssertionError("its silence was never noticed")


def test_a_stream_under_a_grant(pool: Pool) -> None:
    grant(pool)
    client, _, attempt = opened_straight(pool, stream=True)
    attempt.stream("1", '{"usage":{"prompt_tokens":12,"completion_tokens":34}}', "[DONE]")
    attempt.sink.end(None)
    assert client.ended == 1
    assert client.body.startswith(b"data: 1\n\n")
    pool.timers.advance(GRANTED_WORK_WITHIN_S)
    assert work(pool) == [GrantedWork("m", A, "ada", 1, 1, 12, 34, 0)]
    assert pool.quiet()


def test_a_stream_that_breaks_goes_on_elsewhere(pool: Pool) -> None:
    grant(pool)
    _, active, attempt = opened_straight(pool, stream=True, max_tokens=50)
    attempt.sink.head(200, "text/event-stream")
    attempt.sink.data(b'data: {"choices":[{"index":0,"delta":{"content":"one "}}]}\n\n')
    attempt.sink.end(LOST)
    assert (pool.mesh.asks[-1].request_id, pool.mesh.asks[-1].attempt) == (active.request_id, 2)
    pool.timers.advance(GRANTED_WORK_WITHIN_S)
    assert [(each.requests, each.failed) for each in work(pool)] == [(1, 1)]


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("a deadline", {"deadline_s": 5.0}),
        ("several answers", {"n": 2}),
        ("work that yields", {"service_tier": "flex"}),
        ("more than the grant's tokens", {"messages": [{"role": "user", "content": "x" * 9000}]}),
    ],
)
def test_what_has_to_ask(pool: Pool, why: str, fields: dict[str, Any]) -> None:
    grant(pool, tokens=1000)
    asks = len(pool.mesh.asks)
    pool.runner.submit(
        IncomingRequest(
            CHAT,
            json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]} | fields_of(fields)).encode(),
            "ada",
            None,
            fields.get("deadline_s"),
        ),
        FakeClient(),
    )
    pool.timers.settle()
    assert len(pool.mesh.asks) > asks, why


def fields_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "deadline_s"}


def test_a_prompt_beyond_the_context_asks() -> None:
    pool = Pool(FakeMesh(member(A, "m", context=20), member(B, "m", context=20)))
    grant(pool)
    asks = len(pool.mesh.asks)
    pool.submit(messages=[{"role": "user", "content": "word " * 15}])
    assert len(pool.mesh.asks) == asks + 1


def test_a_grant_ends_by_number_and_by_time(pool: Pool) -> None:
    grant(pool, requests=2, valid_s=1.0)
    opened_straight(pool)
    opened_straight(pool)
    asks = len(pool.mesh.asks)
    pool.submit()
    assert len(pool.mesh.asks) == asks + 1
    late = Pool()
    grant(late, valid_s=1.0)
    late.timers.advance(1.1)
    asks = len(late.mesh.asks)
    late.submit()
    assert len(late.mesh.asks) == asks + 1


@pytest.mark.parametrize("what", ["another leader", "no leader", "the leader's link", "the machine's link", "a stall"])
def test_what_voids_a_grant(pool: Pool, what: str) -> None:
    grant(pool)
    if what == "another leader":
        pool.mesh.lead(B)
    elif what == "no leader":
        pool.mesh.lead(None)
    elif what in ("the leader's link", "the machine's link"):
        pool.mesh.lose(A)
    else:
        pool.runner.stalled(A, "m", "m", 3.0)
    before = len(pool.mesh.asks) + pool.observer.events.count("decided_alone")
    pool.submit()
    assert len(pool.mesh.asks) + pool.observer.events.count("decided_alone") == before + 1


def test_a_doubted_machine_is_not_granted(pool: Pool) -> None:
    pool.runner.stalled(A, "m", "m", 3.0)
    pool.runner.stalled(A, "m", "m", 3.0)
    pool.timers.advance(6.0)
    grant(pool)
    asks = len(pool.mesh.asks)
    pool.submit()
    assert len(pool.mesh.asks) == asks + 1


def test_what_is_over_is_told_before_the_next_ask(pool: Pool) -> None:
    grant(pool, requests=1)
    _, _, attempt = opened_straight(pool)
    whole(attempt)
    pool.submit()
    kinds = [type(message).__name__ for _, message in pool.mesh.sent]
    assert kinds[-2:] == ["GrantedWork", "Ask"]


def test_a_new_leader_hears_of_what_goes_on(pool: Pool) -> None:
    grant(pool)
    _, active, _ = opened_straight(pool)
    pool.mesh.lead(B)
    pool.timers.advance(OWN_S + GRANTED_WORK_WITHIN_S)
    to, ask = next((to, each) for to, each in reversed(pool.mesh.sent) if getattr(each, "running_on", None))
    assert (to, ask.request_id) == (B, active.request_id)  # type: ignore[union-attr]


def test_a_gateway_that_drains_waits_for_them(pool: Pool) -> None:
    grant(pool)
    _, _, attempt = opened_straight(pool)
    assert pool.runner.active == 1
    whole(attempt)
    assert pool.runner.active == 0


def test_requests_in_flight_are_bounded_together() -> None:
    pool = Pool(settings=RequestSettings(in_flight_max=2))
    grant(pool)
    opened_straight(pool)
    opened_straight(pool)
    client, _ = pool.submit()
    assert client.status == 503


def test_its_record_is_there_while_it_runs(pool: Pool) -> None:
    grant(pool)
    client, active, attempt = opened_straight(pool)
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert record.status == 0
    whole(attempt)
    assert client.body == BODY


def test_a_bug_while_it_is_answered_ends_it_alone(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    grant(pool)
    client, _, attempt = opened_straight(pool)
    other, _, other_attempt = opened_straight(pool)
    pool.runner.now_s = lambda: 1 / 0
    whole(attempt)
    assert client.status == 500
    assert "bug in the request runner" in caplog.text
    pool.runner.now_s = pool.timers.clock
    whole(other_attempt)
    assert other.status == 200


def test_a_bug_in_the_books_does_not_answer_twice(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    grant(pool)
    client, _, attempt = opened_straight(pool)
    pool.runner.unix_s = lambda: 1 / 0
    whole(attempt)
    assert (client.status, client.ended) == (200, 1)
    assert "bug in the request runner" in caplog.text


def test_ids_name_this_gateway(pool: Pool) -> None:
    grant(pool)
    _, active, _ = opened_straight(pool)
    assert active.request_id.startswith(f"req-{SELF[:8]}-")
