"""Cut requests over a pool in memory: one answer as of one engine, each part exactly once, whatever dies and when."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.support.gateway import A, B, C, FakeClient, FakeMesh, member
from tests.support.sharded import EMBED, PlayedPool, body_of, whole_answer
from tests.support.streams import CHAT, TEXT

from covey_gateway.core.settings import RequestSettings
from covey_gateway.core.sharded_request import PART_TRIES_MAX
from covey_mesh.core.asking import Outcome
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.facts import Task
from covey_scheduler.core.sharding import ShardingSettings

SMALL = ShardingSettings(inputs_min=2)
INPUTS = [f"text number {i}" for i in range(40)]

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings": (EMBED, {"input": INPUTS}),
    "base64": (EMBED, {"input": INPUTS, "encoding_format": "base64"}),
    "prompts": (TEXT, {"prompt": ["one", "two", "three"], "max_tokens": 4}),
    "prompts with choices": (TEXT, {"prompt": ["one", "two"], "n": 3, "seed": 7, "max_tokens": 4}),
    "choices": (CHAT, {"n": 5, "seed": 1, "max_tokens": 4}),
}


def told(client: FakeClient) -> dict[str, Any]:
    assert client.status == 200, client.body
    assert (client.ended, client.failure) == (1, None)
    found: dict[str, Any] = json.loads(client.body)
    return found


def streamed(client: FakeClient) -> tuple[dict[int, str], dict[str, Any] | None, dict[str, Any] | None]:
    """Text by index, usage, error; checks that every choice finishes once, under one id."""
    texts: dict[int, str] = {}
    finishes: Counter[int] = Counter()
    ids, usage, error, done = set(), None, None, 0
    for raw in client.body.decode().split("\n\n")[:-1]:
        data = raw.removeprefix("data: ")
        assert not done, "an event after [DONE]"
        if data == "[DONE]":
            done += 1
            continue
        event = json.loads(data)
        if "error" in event:
            assert error is None
            error = event["error"]
            continue
        assert error is None, "an event after the error"
        ids.add(event["id"])
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            part = choice.get("delta", choice)
            index = choice["index"]
            assert not finishes[index], "a token after the finish"
            texts[index] = texts.get(index, "") + (part.get("content") or part.get("text") or "")
            finishes[index] += bool(choice.get("finish_reason"))
    assert len(ids) <= 1
    assert (error is None) == (done == 1) == (client.failure is None)
    assert error is not None or set(finishes.values()) == {1}
    return texts, usage, error


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return {**found, "id": ""} == {**expected, "id": ""}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answer_is_that_of_one_engine(name: str) -> None:
    path, fields = REQUESTS[name]
    played = PlayedPool(SMALL)
    body = body_of(path, **fields)
    client, active = played.submit(path, body)
    played.play()
    assert same(told(client), whole_answer(path, body))
    head = client.heads[0]
    assert head.request_id == active.request_id
    assert head.parts == len(played.opened) == head.attempts
    assert head.parts >= 3
    assert sorted(head.node_name.split(", ")) == ["host-a", "host-b", "host-c"]
    assert played.pool.quiet()


@pytest.mark.parametrize("name", ["prompts", "prompts with choices", "choices"])
def test_a_stream_has_every_choice_of_one_engine(name: str) -> None:
    path, fields = REQUESTS[name]
    played = PlayedPool(SMALL)
    expected = whole_answer(path, body_of(path, **fields))
    client, _ = played.submit(path, body_of(path, **fields, stream=True, stream_options={"include_usage": True}))
    played.play()
    texts, usage, error = streamed(client)
    assert error is None
    said = [choice.get("text") or choice["message"]["content"] for choice in expected["choices"]]
    assert [texts[index] for index in sorted(texts)] == said
    assert usage == expected["usage"]
    assert played.served_by == {A, B, C}
    assert played.pool.quiet()


def test_the_first_byte_of_a_cut_stream_is_counted_once() -> None:
    played = PlayedPool(SMALL)
    played.submit(CHAT, body_of(CHAT, n=3, stream=True, max_tokens=2))
    played.play()
    assert [each.split()[:2] for each in played.pool.observer.events] == [["first_byte", "m"]]


def test_a_stream_without_usage_asked_for_has_none() -> None:
    played = PlayedPool(SMALL)
    client, _ = played.submit(CHAT, body_of(CHAT, n=3, stream=True, max_tokens=2))
    played.play()
    assert streamed(client)[1:] == (None, None)
    assert b"usage" not in client.body


@pytest.mark.parametrize(
    ("name", "stream"),
    [(name, stream) for name in REQUESTS for stream in (False, True) if not stream or REQUESTS[name][0] != EMBED],
)
def test_a_machine_killed_at_every_point(name: str, stream: bool) -> None:
    path, fields = REQUESTS[name]
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    expected = whole_answer(path, body_of(path, **fields))
    at = 0
    while True:
        at += 1
        played = PlayedPool(SMALL)
        client, _ = played.submit(path, body_of(path, **fields, **more))
        played.play(lambda step, at=at: step == at)  # type: ignore[misc]
        if stream:
            texts, usage, error = streamed(client)
            said = [choice.get("text") or choice["message"]["content"] for choice in expected["choices"]]
            assert ([texts[index] for index in sorted(texts)], error) == (said, None), f"killed at step {at}"
            assert usage is not None
            assert usage["completion_tokens"] == expected["usage"]["completion_tokens"]
            assert usage == expected["usage"] or b'"usage_estimated":true' in client.body
        else:
            assert same(told(client), expected), f"killed at step {at}"
        assert played.pool.quiet()
        if at > played.steps:
            break
    assert at > 3


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_deaths_gives_one_answer_or_one_error(seed: int) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    path, fields = REQUESTS[dice.choice(list(REQUESTS))]
    stream = path != EMBED and dice.random() < 0.5
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    played = PlayedPool(replace(SMALL, parts_in_flight_max=dice.choice((1, 2, 100))))
    client, _ = played.submit(path, body_of(path, **fields, **more))
    played.play(lambda step: dice.random() < 0.25)
    expected = whole_answer(path, body_of(path, **fields))
    assert client.ended == 1
    if stream and client.status == 200:
        texts, _, error = streamed(client)
        said = [choice.get("text") or choice["message"]["content"] for choice in expected["choices"]]
        if error is None:
            assert [texts[index] for index in sorted(texts)] == said
        else:
            assert all(said[index].startswith(text) for index, text in texts.items())
    elif client.status == 200:
        assert same(json.loads(client.body), expected)
    else:
        assert " of " in json.loads(client.body)["error"]["message"]
    assert played.pool.quiet()
    assert played.pool.runner._sharded_budget.used == 0


def test_a_machine_that_falls_silent_over_a_part_loses_it_soon() -> None:
    """Judged by its measured speed: the part's work and what is queued there, four times over, and two seconds."""
    members = [member(node_id, "m") for node_id in (A, B, C)]
    fast = {"task": Task.EMBED, "prefill_tokens_per_s": 1000.0}
    for number, each in enumerate(members):
        (load,) = each.load.models
        members[number] = replace(each, load=replace(each.load, models=(replace(load, **fast),)))
    played = PlayedPool(replace(SMALL, worth_s=0.0, part_s_min=0.0), FakeMesh(*members))
    body = body_of(EMBED, input=INPUTS)
    client, _ = played.submit(EMBED, body)
    played.pool.timers.settle()
    played._place()
    silent = played._playing.pop()
    played.play()
    assert silent.cancelled
    assert played.pool.timers.now_s < 1000 + 4.0
    assert same(told(client), whole_answer(EMBED, body))
    assert played.pool.quiet()


def test_a_mistake_in_one_input_is_named_and_ends_the_whole() -> None:
    played = PlayedPool(SMALL)
    inputs = [*INPUTS[:20], "word " * 5000, *INPUTS[20:]]
    client, _ = played.submit(EMBED, body_of(EMBED, input=inputs))
    played.play()
    assert client.status == 400
    error = json.loads(client.body)["error"]
    assert error["message"].startswith("Inputs ")
    first, last = (int(word) for word in error["message"].split(":")[0].split() if word.isdigit() and word != "41")
    assert first <= 20 <= last
    assert "maximum context length" in error["message"]
    assert error["code"] == 400
    assert played.pool.quiet()
    assert all(attempt.cancelled or not attempt.sink for attempt in played._playing)


def test_a_mistake_in_one_choice_of_a_stream_is_named() -> None:
    played = PlayedPool(SMALL)
    prompts = ["one", "word " * 5000, "three"]
    client, _ = played.submit(TEXT, body_of(TEXT, prompt=prompts, stream=True, max_tokens=3))
    played.play()
    error = streamed(client)[2] if client.status == 200 else json.loads(client.body)["error"]
    assert error is not None
    assert error["message"].startswith("Prompt 1 of 3: ")
    assert played.pool.quiet()


def test_a_client_that_leaves_aborts_every_part() -> None:
    for name, (path, fields) in REQUESTS.items():
        played = PlayedPool(SMALL)
        client, active = played.submit(path, body_of(path, **fields))
        for _ in range(3):
            played.pool.timers.settle()
            played._place()
        active.cancel()
        played.pool.timers.settle()
        assert client.heads == [], name
        assert all(attempt.cancelled for attempt in played.opened), name
        assert played.pool.quiet(), name
        record = played.pool.runner.record(active.request_id)
        assert record is not None
        assert record.status == 499
        active.cancel()


def test_nothing_is_cut_for_one_machine_or_few_inputs_or_if_switched_off() -> None:
    body = body_of(EMBED, input=INPUTS)
    for settings, mesh in (
        (SMALL, FakeMesh(member(A, "m"))),
        (ShardingSettings(inputs_min=41), None),
        (ShardingSettings(enabled=False, inputs_min=2), None),
        (ShardingSettings(requests_max=1, inputs_min=2), None),
    ):
        played = PlayedPool(settings, mesh)
        if settings.requests_max == 1:
            played.submit(EMBED, body)
        client, _ = played.submit(EMBED, body)
        played.pool.timers.settle()
        mine = [ask for ask in played.pool.mesh.asks if "." not in ask.request_id]
        assert len(mine) == 1
        played.play()
        assert same(told(client), whole_answer(EMBED, body))
        assert client.heads[0].parts == 0


def test_a_whole_request_reaches_the_engine_byte_for_byte() -> None:
    body = b'{ "model": "m", "input" : [ "a" , "b" ] }'
    played = PlayedPool(ShardingSettings())
    played.submit(EMBED, body)
    played.play()
    assert [attempt.request.body for attempt in played.opened] == [body]


def test_asks_carry_the_work_and_what_must_fit_a_context() -> None:
    mesh = FakeMesh(*(member(node_id, "m", context=16) for node_id in (A, B)))
    played = PlayedPool(SMALL, mesh)
    played.submit(EMBED, body_of(EMBED, input=INPUTS))
    played.pool.timers.settle()
    ask = mesh.asks[0]
    assert ask.context_tokens == 16 < ask.prompt_tokens
    assert ask.user == "ada"
    assert not any(each.prefix_hashes for each in mesh.asks)
    played.play()
    assert sum(attempt.request.prompt_tokens for attempt in played.opened) > 40 * 3


def test_only_one_choice_goes_by_the_prefix_cache() -> None:
    played = PlayedPool(SMALL)
    played.submit(
        CHAT, json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 4000}], "n": 4}).encode()
    )
    played.pool.timers.settle()
    assert [bool(ask.prefix_hashes) for ask in played.pool.mesh.asks] == [True, False, False, False]


def test_parts_wait_here_rather_than_in_the_leaders_queue() -> None:
    played = PlayedPool(replace(SMALL, parts_a_machine=1, share=20.0))
    client, _ = played.submit(EMBED, body_of(EMBED, input=INPUTS))
    played.pool.timers.settle()
    assert len(played.pool.mesh.asks) == 3
    played.play()
    assert told(client)["usage"]["prompt_tokens"] == 5 * 40
    assert len(played.opened) > 6


def test_a_part_that_finds_no_machine_waits_on_while_others_get_on() -> None:
    settings = RequestSettings(queue_wait_s=10.0)
    played = PlayedPool(replace(SMALL, parts_in_flight_max=2))
    played.pool.runner._settings = settings
    client, _ = played.submit(EMBED, body_of(EMBED, input=INPUTS))
    played.pool.timers.settle()
    first, second = played.pool.mesh.asks[:2]
    played.pool.mesh.answer(Outcome.QUEUED, ask=second)
    played.pool.mesh.answer(Outcome.ASSIGNED, A, ask=first)
    played._asked = 2
    played._answer_whole(played.pool.mesh.newest())
    played.opened += played.pool.mesh.attempts
    for _ in range(30):
        played.pool.timers.advance(1.0)
    played.play()
    assert same(told(client), whole_answer(EMBED, body_of(EMBED, input=INPUTS)))
    assert any(ask.request_id.endswith("-2") for ask in played.pool.mesh.asks)


def test_an_answer_that_breaks_off_after_its_head_is_asked_for_again_and_not_for_ever() -> None:
    """Larger than what the runner holds back: it cannot retry by itself."""
    for broken in (1, PART_TRIES_MAX):
        played = PlayedPool(SMALL)
        played.pool.runner._settings = RequestSettings(buffered_answer_bytes_max=10)
        client, _ = played.submit(EMBED, body_of(EMBED, input=INPUTS))
        for _ in range(broken):
            played.pool.timers.settle()
            while played._place():
                played.pool.timers.settle()
            attempt = next(each for each in played._playing if ".0" in each.request.request_id)
            played._playing.remove(attempt)
            attempt.sink.head(200, "application/json")
            attempt.sink.data(b"x" * 100)
            attempt.sink.end(Failure(FailureCode.LINK_LOST, "gone"))
        played.play()
        if broken == 1:
            assert same(told(client), whole_answer(EMBED, body_of(EMBED, input=INPUTS)))
        else:
            assert client.status == 502
            assert "broke off" in json.loads(client.body)["error"]["message"]
        assert played.pool.quiet()
        assert played.pool.runner._sharded_budget.used == 0


@pytest.mark.parametrize(("held", "total"), [(1, 10**9), (500, 10**9), (10**9, 1), (10**9, 3000)])
def test_more_than_may_be_held_is_passed_on_in_order_as_the_client_reads(held: int, total: int) -> None:
    settings = replace(SMALL, held_bytes_max=held, held_total_bytes_max=total, parts_in_flight_max=3, share=20.0)
    played = PlayedPool(settings)
    body = body_of(EMBED, input=INPUTS)
    client, active = played.submit(EMBED, body)
    pauses = 0

    def pausing(chunk: bytes, data: Any = client.data) -> None:
        nonlocal pauses
        data(chunk)
        pauses += 1
        active.pause()
        played.pool.timers.call_later(1.0, active.resume)

    client.data = pausing  # type: ignore[method-assign]
    played.play()
    assert pauses > 3
    assert same(told(client), whole_answer(EMBED, body))
    assert played.pool.quiet()
    assert played.pool.runner._sharded_budget.used == 0


def test_a_slow_reader_of_a_stream_pauses_its_parts() -> None:
    played = PlayedPool(SMALL)
    client, active = played.submit(CHAT, body_of(CHAT, n=3, stream=True, max_tokens=3))
    played.pool.timers.settle()
    while played._place():
        played.pool.timers.settle()
    active.pause()
    assert all(attempt.paused for attempt in played.opened)
    active.resume()
    assert not any(attempt.paused for attempt in played.opened)
    played.play()
    assert streamed(client)[2] is None


@pytest.mark.parametrize("answer", [b"{}", b"not json", b'{"data": [{"index": 0}]}'])
def test_an_engine_that_answers_nonsense_is_told_as_its_fault(answer: bytes) -> None:
    played = PlayedPool(SMALL)
    client, _ = played.submit(EMBED, body_of(EMBED, input=INPUTS))
    played.pool.timers.settle()
    played._place()
    played._playing.pop().answer(answer)
    played.play()
    assert client.status == 502
    assert "not of the form" in json.loads(client.body)["error"]["message"]
    assert played.pool.quiet()


def test_the_deadline_is_the_whole_requests() -> None:
    played = PlayedPool(SMALL)
    client, _ = played.submit(EMBED, body_of(EMBED, input=INPUTS), deadline_s=5.0)
    played.pool.timers.settle()
    for ask in played.pool.mesh.asks:
        played.pool.mesh.answer(Outcome.QUEUED, ask=ask)
    played.pool.timers.advance(6.0)
    assert client.status == 504
    assert played.pool.quiet()


def test_records_and_counts() -> None:
    played = PlayedPool(SMALL)
    client, active = played.submit(EMBED, body_of(EMBED, input=INPUTS))
    played.play(lambda step: step == 2)
    runner, observer = played.pool.runner, played.pool.observer
    record = runner.record(active.request_id)
    assert record is not None
    assert (record.status, record.error) == (200, "")
    assert [unit for part in record.parts for unit in range(part.begin, part.end)] == list(range(40))
    for part in record.parts:
        own = runner.record(part.request_id)
        assert own is not None
        assert (own.part_of, own.status, own.node_id) == (active.request_id, 200, part.node_id)
        assert part.total_s is not None
    assert [each.request_id for each in runner.records] == [active.request_id]
    assert observer.started == [(EMBED, "m")]
    assert [summary.status for summary in observer.summaries] == [200]
    assert observer.summaries[0].attempts == 0
    assert told(client)


def test_draining_lets_a_cut_request_begin_its_remaining_parts() -> None:
    played = PlayedPool(replace(SMALL, parts_in_flight_max=1))
    body = body_of(EMBED, input=INPUTS)
    client, _ = played.submit(EMBED, body)
    played.pool.timers.settle()
    played.pool.runner._draining = True
    played.play()
    assert same(told(client), whole_answer(EMBED, body))
    assert B in played.served_by
    assert C in played.served_by
