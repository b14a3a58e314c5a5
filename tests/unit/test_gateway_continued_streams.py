"""Streams whose machine dies at every point, over a pool in memory: the client gets the undisturbed run's text."""

from __future__ import annotations

import asyncio
import collections
import json
import random
from typing import Any

import pytest
from tests.support.gateway import SELF, A, B, C, FakeClient, FakeMesh, member
from tests.support.gateway_pool import Pool
from tests.support.simulated_attempt import SimulatedAttempt
from tests.support.streams import CHAT, TEXT, TOKENS, fields, read, undisturbed

from covey_gateway.core import token_count
from covey_gateway.core.front import IncomingRequest
from covey_gateway.core.settings import RequestSettings
from covey_gateway.io.grpc_call import Call
from covey_gateway.io.grpc_translate import chat_chunks, complete_chunks
from covey_mesh.core.asking import Outcome
from covey_mesh.core.exchange import Failure, FailureCode

LOST = Failure(FailureCode.LINK_LOST, "the link is gone")
DRAINING = Failure(FailureCode.DRAINING, "this machine is stopping")
ENGINE = Failure(FailureCode.ENGINE_FAILED, "the engine died")


def outcomes(pool: Pool) -> list[str]:
    return [each.split()[1] for each in pool.observer.events if each.startswith("stream_broke")]


@pytest.mark.parametrize("failure", [LOST, ENGINE, DRAINING], ids=lambda f: f.code.value)
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("after", range(TOKENS + 1))
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_killed_at_every_point(path: str, after: int, torn: bool, failure: Failure) -> None:
    pool = Pool()
    client, active = pool.submit(path=path, **fields(path))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(after, torn)
    first.die(failure)
    if after < TOKENS:
        assert B in pool.mesh.asks[-1].excluded
        second = SimulatedAttempt(pool.mesh.assign(C))
        second.finish()
    told, whole = read(client), undisturbed(path)
    assert told.text == whole.text
    assert told.finishes == whole.finishes == ["length"]
    assert (told.roles, told.done, told.error) == (whole.roles, True, None)
    assert len(told.identities) == 1
    assert told.usage is not None
    assert told.usage["completion_tokens"] == TOKENS
    assert client.ended == 1
    assert client.failure is None
    assert pool.quiet()
    assert pool.runner._around.kept_budget.used == 0
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert (record.status, record.error) == (200, "")
    summary = pool.observer.summaries[-1]
    assert summary.broken is False
    committed_at = 0 if path == CHAT else 1
    if after == TOKENS:
        assert outcomes(pool) == ["finished_here"]
        assert summary.output_tokens == TOKENS
        assert told.flag is not None
        assert told.flag["usage_estimated"] is True
    elif after >= committed_at:
        assert told.usage == whole.usage
        assert told.flag == {"continued": 1, "machines": ["host-b", "host-c"]}
        assert (outcomes(pool), summary.continued) == (["resumed"], 1)
        assert record.attempts[0].outcome == f"{failure.code.value} after {after} tokens; continued elsewhere"
        assert [a.node_id for a in record.attempts] == [B, C]
    else:
        assert told.flag is None
        assert outcomes(pool) == []


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("cuts", [(a, b) for a in range(1, TOKENS - 1) for b in range(TOKENS - a)])
def test_the_second_machine_dies_too(path: str, cuts: tuple[int, int]) -> None:
    pool = Pool()
    client, _ = pool.submit(path=path, **fields(path))
    for node, count in zip((B, C), cuts, strict=True):
        attempt = SimulatedAttempt(pool.mesh.assign(node))
        attempt.role()
        attempt.tokens(count)
        attempt.die(LOST)
    SimulatedAttempt(pool.mesh.assign(A)).finish()
    told, whole = read(client), undisturbed(path)
    assert (told.text, told.usage, told.roles) == (whole.text, whole.usage, whole.roles)
    machines = ["host-b", *(["host-c"] if cuts[1] else []), "host-a"]
    assert told.flag == {"continued": len(machines) - 1, "machines": machines}
    assert pool.quiet()


def test_the_leader_dies_at_the_same_moment() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(A))
    first.role()
    first.tokens(4)
    pool.mesh.unreachable.add(A)
    first.die(LOST)
    pool.mesh.lead(None)
    assert pool.mesh.attempts[-1].node_id != A
    SimulatedAttempt(pool.mesh.newest()).finish()
    assert read(client).text == undisturbed(CHAT).text
    assert "decided_alone" in pool.observer.events


def test_a_silent_leader_costs_a_stream_its_acknowledgement_time_and_no_more() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(4)
    first.die(LOST)
    pool.timers.advance(RequestSettings().ask_acknowledged_within_s)
    SimulatedAttempt(pool.mesh.newest()).finish()
    assert read(client).text == undisturbed(CHAT).text
    assert pool.observer.events[-1] == "stream_broke resumed 0.400"


def test_a_continued_stream_waits_in_the_queue_and_is_moved_by_a_new_leader() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(4)
    first.die(LOST)
    ask = pool.mesh.asks[-1]
    assert (ask.prompt_tokens > 4, ask.max_output_tokens) == (True, TOKENS - 4)
    pool.mesh.answer(Outcome.QUEUED)
    pool.timers.advance(3.0)
    pool.mesh.lead(C)
    SimulatedAttempt(pool.mesh.assign(A)).finish()
    assert read(client).text == undisturbed(CHAT).text


@pytest.mark.parametrize(
    "unsound", [{"response_format": {"type": "json_object"}}, {"logprobs": True}, {"presence_penalty": 1.0}]
)
def test_an_unsound_stream_ends_in_one_clean_error(unsound: dict[str, Any]) -> None:
    pool = Pool()
    client, active = pool.submit(**fields(CHAT, **unsound))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(3, torn=True)
    first.die(LOST)
    told = read(client)
    assert told.error is not None
    assert told.error["code"] == "stream_broken"
    assert "not continued elsewhere: " in told.error["message"]
    assert (told.done, client.ended) == (False, 1)
    assert client.failure is not None
    assert outcomes(pool) == ["unsound"]
    record = pool.runner.record(active.request_id)
    assert record is not None
    assert "not continued elsewhere: " in record.error
    assert pool.quiet()


def test_an_unsound_stream_of_which_nothing_was_said_starts_again() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT, logprobs=True))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.die(LOST)
    SimulatedAttempt(pool.mesh.assign(C)).finish()
    told = read(client)
    assert (told.text, told.roles) == (undisturbed(CHAT).text, 1)


def test_a_stream_longer_than_what_is_kept_ends_in_an_error() -> None:
    pool = Pool(settings=RequestSettings(kept_answer_bytes_max=500))
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(5)
    first.die(LOST)
    assert read(client).error is not None
    assert outcomes(pool) == ["too_long"]
    assert pool.runner._around.kept_budget.used == 0


def test_nobody_left_ends_in_one_clean_error_within_the_bound() -> None:
    pool = Pool(FakeMesh(member(B, "m"), leader=None))
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.attempts[-1])
    first.role()
    first.tokens(2)
    del pool.mesh.members[B]
    first.die(LOST)
    pool.timers.advance(RequestSettings().unserved_wait_s + 1)
    told = read(client)
    assert told.error is not None
    assert "no other machine went on with it" in told.error["message"]
    assert outcomes(pool) == ["gave_up"]
    assert pool.quiet()


def test_a_request_that_kills_its_machines_is_not_carried_through_the_whole_pool() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT))
    opened = 0
    while not client.ended:
        attempt = SimulatedAttempt(pool.mesh.assign((A, B, C)[opened % 3]))
        attempt.role()
        attempt.tokens(1)
        attempt.die(ENGINE)
        opened += 1
    assert opened == RequestSettings().engine_failures_max
    assert outcomes(pool)[-1] == "gave_up"


def test_an_engine_that_takes_the_continuation_for_a_mistake_ends_it() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(2)
    first.die(LOST)
    second = pool.mesh.assign(C)
    second.sink.head(400, "application/json")
    assert second.cancelled
    assert read(client).error is not None
    assert outcomes(pool) == ["refused"]
    assert pool.quiet()


def test_a_failing_or_full_second_machine_is_passed_over() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(2)
    first.die(LOST)
    pool.mesh.assign(C).answer(b'{"error": {}}', 500)
    pool.mesh.assign(C).sink.end(Failure(FailureCode.RESOURCE_EXHAUSTED, "full", 100))
    SimulatedAttempt(pool.mesh.assign(A)).finish()
    assert read(client).text == undisturbed(CHAT).text


def test_an_engine_that_tells_its_death_in_the_stream_is_replaced() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT))
    attempt = pool.mesh.assign(B)
    first = SimulatedAttempt(attempt)
    first.role()
    first.tokens(3)
    attempt.sink.data(b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\ndata: [DONE]\n\n')
    assert attempt.cancelled
    SimulatedAttempt(pool.mesh.assign(C)).finish()
    told = read(client)
    assert (told.text, told.error) == (undisturbed(CHAT).text, None)


@pytest.mark.parametrize("before", [0, 3])
def test_tokens_that_come_together_with_an_engines_death_are_not_written_twice(before: int) -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT))
    attempt = pool.mesh.assign(B)
    first = SimulatedAttempt(attempt)
    first.role()
    first.tokens(before)
    last = first._event(before)
    attempt.sink.data(last + b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\n')
    assert attempt.cancelled
    SimulatedAttempt(pool.mesh.assign(C)).finish()
    told = read(client)
    assert (told.text, told.error) == (undisturbed(CHAT).text, None)


def test_a_client_that_leaves_meanwhile_frees_everything() -> None:
    pool = Pool()
    client, active = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(2)
    first.die(LOST)
    active.cancel()
    assert client.ended == 0
    assert pool.quiet()
    assert pool.runner._around.kept_budget.used == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("after", range(TOKENS + 1))
@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_over_grpc_at_every_point(path: str, after: int) -> None:
    """The same runner below; here its stream is read as the gRPC door reads it."""
    pool = Pool()
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]} | fields(path)
    typed = chat_chunks if path == CHAT else complete_chunks
    async with Call(pool.runner, IncomingRequest(path, json.dumps(body).encode())) as call:
        pool.timers.settle()
        reading = asyncio.ensure_future(_chunks(call, typed))
        first = SimulatedAttempt(pool.mesh.assign(B))
        first.role()
        first.tokens(after)
        await asyncio.sleep(0)
        first.die(LOST)
        if after < TOKENS:
            SimulatedAttempt(pool.mesh.assign(C)).finish()
        chunks = await reading
    text = "".join(getattr(chunk, "content" if path == CHAT else "text") for chunk in chunks)
    assert text == undisturbed(path).text
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == TOKENS
    if 0 < after < TOKENS:
        assert (chunks[-1].served.continued, list(chunks[-1].served.machines)) == (1, ["host-b", "host-c"])


async def _chunks(call: Call, typed: Any) -> list[Any]:
    return [chunk async for event in call.events() for chunk in typed(event)]


def test_tokens_that_the_engine_joined_are_counted_by_the_one_that_goes_on() -> None:
    pool = Pool()
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.joined(4)
    first.die(LOST)
    pool.mesh.answer(Outcome.ASSIGNED, C)
    question = pool.mesh.attempts[-1]
    assert (question.node_id, question.request.path) == (C, "/tokenize")
    assert pool.runner.in_flight() == {C: 1}
    question.answer(b'{"count": 4, "tokens": []}')
    assert pool.runner.in_flight() == {C: 1}
    SimulatedAttempt(pool.mesh.attempts[-1]).finish()
    told, whole = read(client), undisturbed(CHAT)
    assert (told.text, told.usage) == (whole.text, whole.usage)
    assert pool.quiet()


@pytest.mark.parametrize("event", ["lost", "silent", "gone", "huge"])
def test_a_question_that_is_not_answered_does_no_harm(event: str) -> None:
    pool = Pool()
    client, active = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(4)
    first.die(LOST)
    pool.mesh.answer(Outcome.ASSIGNED, C)
    question = pool.mesh.attempts[-1]
    if event == "gone":
        active.cancel()
        assert question.cancelled
    elif event == "silent":
        for _ in range(1000):
            pool.timers.advance(0.1)
            if question.cancelled:
                break
        assert "stalled" in pool.mesh.asks[-1].excluded[C]
        SimulatedAttempt(pool.mesh.assign(A)).finish()
    else:
        question.sink.head(200, "application/json")
        question.sink.data(b"x" * (token_count.ANSWER_BYTES_MAX + 1) if event == "huge" else b"x")
        question.sink.end(LOST if event == "lost" else None)
        SimulatedAttempt(pool.mesh.attempts[-1]).finish()
    assert event == "gone" or read(client).text == undisturbed(CHAT).text
    assert pool.quiet()


def test_the_entry_machine_itself_may_go_on() -> None:
    pool = Pool(FakeMesh(leader=SELF))
    client, _ = pool.submit(**fields(CHAT))
    first = SimulatedAttempt(pool.mesh.assign(B))
    first.role()
    first.tokens(2)
    first.die(LOST)
    SimulatedAttempt(pool.mesh.assign(SELF)).finish()
    assert read(client).text == undisturbed(CHAT).text


@pytest.mark.parametrize("seed", range(30))
def test_any_order_of_faults_gives_each_client_one_contiguous_answer(seed: int) -> None:
    """Against the undisturbed text: complete streams equal it, broken ones are a beginning of it with one error."""
    print(f"seed {seed}")
    dice = random.Random(seed)
    pool = Pool(settings=RequestSettings(queue_wait_s=20.0))
    whole = {path: undisturbed(path).text for path in (CHAT, TEXT)}
    clients: list[tuple[str, FakeClient]] = []
    playing: dict[int, SimulatedAttempt] = {}
    for _ in range(300):
        act = dice.random()
        if act < 0.1 and len(clients) < 20:
            path = dice.choice((CHAT, TEXT))
            clients.append((path, pool.submit(path=path, **fields(path))[0]))
        elif act < 0.35 and pool.mesh.asks:
            pool.mesh.answer(Outcome.ASSIGNED, dice.choice((A, B, C)), ask=dice.choice(pool.mesh.asks[-6:]))
        elif act < 0.4:
            pool.mesh.lead(dice.choice((None, A, B)))
        elif act < 0.45:
            pool.timers.advance(dice.random())
        _play(pool, playing, dice, fault=0.12)
    pool.mesh.lead(None)
    for _ in range(400):
        pool.timers.advance(0.2)
        _play(pool, playing, dice, fault=0.0)
    assert pool.quiet()
    assert pool.runner._around.kept_budget.used == 0
    print(f"{len(clients)} streams, broken and then: {collections.Counter(outcomes(pool))}")
    assert "resumed" in outcomes(pool), "a run without a continued stream tests nothing"
    for path, client in clients:
        told = read(client) if client.status == 200 else None
        assert client.ended == 1
        assert told is None or (told.text == whole[path] if told.error is None else whole[path].startswith(told.text))
        assert told is None or told.done is (told.error is None)


def _play(pool: Pool, playing: dict[int, SimulatedAttempt], dice: random.Random, fault: float) -> None:
    """One step of one open attempt."""
    for index, attempt in enumerate(pool.mesh.attempts):
        if index not in playing:
            playing[index] = SimulatedAttempt(attempt)
            if attempt.request.path == "/tokenize" and not attempt.cancelled:
                attempt.answer(b"{}", 404)
    alive = [played for played in playing.values() if not played.over and not played.attempt.cancelled]
    if not alive:
        return
    played = dice.choice(alive)
    if dice.random() < fault:
        played.die(dice.choice((LOST, DRAINING, ENGINE)))
    elif not played.begun:
        played.role()
    elif played.left:
        played.tokens(1, torn=False)
    else:
        played.end()
