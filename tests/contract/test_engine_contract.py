"""What every engine must do, whatever runs it. Each test runs on the simulated engine and on a real vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from tests.contract.answers import Answer, chat_body, request, until
from tests.contract.conftest import QUEUE_LIMIT, Subject

from covey_mesh.core.exchange import FailureCode, Upstream
from covey_mesh.core.facts import EngineState, Task
from covey_mesh.core.limits import STREAM_WINDOW_BYTES
from covey_mesh.core.silence import TOKENS_AN_EVENT
from covey_node.core.engine import Engine
from covey_node.core.engine_progress import COLD_S, OpenAttempt
from covey_node.core.simulated import Fault, FaultKind
from covey_node.io.engine_watch import EngineWatch
from covey_node.io.vllm import VllmEngine

CHAT = "/v1/chat/completions"
pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = {"stream": True, "ignore_eos": True, "max_tokens": 1500}
"""A stream that lasts until somebody ends it, for all that these tests can tell."""

LENGTHY = b"a b " * 3000
Body = dict[str, Any] | bytes


def opened(
    engine: Subject, path: str, body: dict[str, Any] | bytes, streaming: bool = False
) -> tuple[Answer, Upstream]:
    answer = Answer()
    upstream = engine.engine.open(request(path, body, streaming), answer)
    answer.opened()
    return answer, upstream


async def asked(engine: Subject, path: str, body: Body, streaming: bool = False) -> Answer:
    answer, _ = opened(engine, path, body, streaming)
    return await answer.complete()


async def running(engine: Subject) -> int:
    """Requests that the engine itself says it works on."""
    if engine.info.kind == "simulated":
        return engine.simulated.running
    answer = Answer()
    metrics = engine.engine
    upstream = metrics._client.open("GET", "/metrics", b"", answer)  # type: ignore[attr-defined]
    answer.opened()
    await answer.complete()
    assert upstream is not None
    lines = answer.body.decode().splitlines()
    counts = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(counts)))


async def until_running(engine: Subject, expected: int) -> None:
    async with asyncio.timeout(60):
        while await running(engine) != expected:  # noqa: ASYNC110 (another process changes it)
            await asyncio.sleep(0.05)


async def test_it_says_what_it_is(chat: Subject, embed: Subject) -> None:
    assert chat.info.task is Task.GENERATE
    assert chat.info.max_context_tokens == 2048
    assert chat.info.kv_cache_tokens > 2048
    assert chat.info.running_limit > 0
    assert embed.info.task is Task.EMBED


async def test_a_stream_arrives_token_by_token(chat: Subject) -> None:
    answer = await asked(chat, CHAT, chat_body(stream=True, max_tokens=40, ignore_eos=True), streaming=True)
    assert (answer.status, answer.failure) == (200, None)
    assert answer.content_type.startswith("text/event-stream")
    assert len(answer.chunks) >= 10
    assert answer.times_s[-1] > answer.times_s[1]
    assert answer.text()
    assert answer.events()[-1]["choices"][0]["finish_reason"] in ("length", "stop")


async def test_the_same_text_streamed_and_whole(chat: Subject) -> None:
    whole = await asked(chat, CHAT, chat_body(max_tokens=20))
    streamed = await asked(chat, CHAT, chat_body(max_tokens=20, stream=True), streaming=True)
    assert whole.status == 200
    assert whole.content_type.startswith("application/json")
    assert whole.json()["choices"][0]["message"]["content"] == streamed.text()


async def test_completions(chat: Subject) -> None:
    body = {"model": "covey-demo-chat", "prompt": "Once", "max_tokens": 8, "ignore_eos": True, "temperature": 0}
    whole = await asked(chat, "/v1/completions", body)
    streamed = await asked(chat, "/v1/completions", body | {"stream": True}, streaming=True)
    assert whole.json()["choices"][0]["text"] == streamed.text() != ""


async def test_a_prompt_of_one_token(chat: Subject) -> None:
    body = {"model": "covey-demo-chat", "prompt": "a", "max_tokens": 1}
    assert (await asked(chat, "/v1/completions", body)).status == 200


def known(usage: dict[str, Any]) -> dict[str, Any]:
    """Without what is null: engines leave such fields out in streams."""
    given = {name: known(value) if isinstance(value, dict) else value for name, value in usage.items()}
    return {name: value for name, value in given.items() if value is not None}


async def test_usage(chat: Subject) -> None:
    whole = (await asked(chat, CHAT, chat_body(max_tokens=8, ignore_eos=True))).json()["usage"]
    assert whole["completion_tokens"] == 8
    assert whole["total_tokens"] == whole["prompt_tokens"] + 8
    fields = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 8, "ignore_eos": True}
    last = (await asked(chat, CHAT, chat_body(**fields), streaming=True)).events()[-1]
    assert last["choices"] == []
    streamed, whole = known(last["usage"]), known(whole)
    both = streamed.keys() & whole.keys()
    assert {name: streamed[name] for name in both} == {name: whole[name] for name in both}


async def test_choices_are_numbered_and_seeded_so_that_a_request_can_be_cut(chat: Subject) -> None:
    """What covey_gateway.core.cutting relies on: `index` is prompt x n + choice, choice i has the seed + i, a prompt
    counts once."""
    body = {"model": "covey-demo-chat", "max_tokens": 6, "ignore_eos": True, "temperature": 0.3}
    prompts, seed = ["Once upon a time", "The fox"], 11
    several = body | {"prompt": prompts, "n": 2, "seed": seed}
    whole = (await asked(chat, "/v1/completions", several)).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    alone = [
        (await asked(chat, "/v1/completions", body | {"prompt": prompt, "seed": seed + choice})).json()
        for prompt in prompts
        for choice in range(2)
    ]
    assert whole["usage"]["prompt_tokens"] == sum(each["usage"]["prompt_tokens"] for each in alone[::2])
    assert whole["usage"]["completion_tokens"] == 24
    pairs = zip(whole["choices"], alone, strict=True)
    # In another batch a token as good as equally likely may fall otherwise.
    assert sum(choice["text"] == each["choices"][0]["text"] for choice, each in pairs) >= 3


async def test_embeddings(embed: Subject) -> None:
    body = {"model": "covey-demo-embed", "input": ["a bird", "a field", "a bird"]}
    answer = await asked(embed, "/v1/embeddings", body)
    data = answer.json()["data"]
    assert [item["index"] for item in data] == [0, 1, 2]
    assert data[0]["embedding"] == pytest.approx(data[2]["embedding"], abs=1e-3)
    assert data[0]["embedding"] != pytest.approx(data[1]["embedding"], abs=1e-3)
    assert answer.json()["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"model": ', 400),
        (b"[]", 400),
        (b'{"model": "covey-demo-chat"}', 400),
        (b'{"model": "nobody", "messages": [{"role": "user", "content": "hi"}]}', 404),
        (
            b'{"model": "covey-demo-chat", "max_tokens": 1, "messages": [{"role": "user", "content": "%s"}]}'
            % (b"a b " * 3000),
            400,
        ),
        (b'{"model": "covey-demo-chat", "max_tokens": 9999, "messages": [{"role": "user", "content": "a"}]}', 400),
    ],
    ids=["truncated", "not an object", "no messages", "unknown model", "prompt too long", "output too long"],
)
@pytest.mark.parametrize("streaming", [False, True])
async def test_the_clients_mistakes_are_answers(chat: Subject, body: bytes, status: int, streaming: bool) -> None:
    if streaming:
        body = body.replace(b'{"model"', b'{"stream": true, "model"')
    answer = await asked(chat, CHAT, body, streaming)
    assert (answer.status, answer.failure) == (status, None)
    assert answer.content_type.startswith("application/json")
    assert answer.json()["error"]["message"]


async def test_a_path_that_is_not_served(embed: Subject) -> None:
    answer = await asked(embed, CHAT, chat_body("covey-demo-embed"))
    assert (answer.status, answer.failure) == (404, None)


async def test_cancel_frees_the_engine_and_silences_the_sink(chat: Subject) -> None:
    await until_running(chat, 0)
    answer, upstream = opened(chat, CHAT, chat_body(**LONG), streaming=True)
    await until(lambda: len(answer.chunks) >= 3)
    assert await running(chat) == 1
    upstream.cancel()
    answer.forbidden = True
    await until_running(chat, 0)
    upstream.cancel()
    assert not answer.ended.is_set()


async def test_cancel_before_the_first_byte(chat: Subject) -> None:
    answer, upstream = opened(chat, CHAT, chat_body(**LONG), streaming=True)
    upstream.cancel()
    answer.forbidden = True
    await until_running(chat, 0)
    assert not answer.chunks


async def test_cancel_of_a_whole_answer(chat: Subject) -> None:
    answer, upstream = opened(chat, CHAT, chat_body(max_tokens=1500, ignore_eos=True))
    await until_running(chat, 1)
    upstream.cancel()
    answer.forbidden = True
    await until_running(chat, 0)


async def test_cancel_of_one_leaves_the_others(chat: Subject) -> None:
    body = chat_body(stream=True, max_tokens=60, ignore_eos=True)
    kept = [opened(chat, CHAT, body, streaming=True)[0] for _ in range(3)]
    _, cancelled = opened(chat, CHAT, chat_body(**LONG), streaming=True)
    await until(lambda: all(answer.chunks for answer in kept))
    cancelled.cancel()
    texts = {(await answer.complete()).text() for answer in kept}
    assert all(answer.failure is None for answer in kept)
    assert len(texts) >= 1


async def test_a_full_engine_is_a_failure_streamed_or_not(chat: Subject) -> None:
    await until_running(chat, 0)
    held = [opened(chat, CHAT, chat_body(**LONG), streaming=True) for _ in range(QUEUE_LIMIT)]
    try:
        await until(lambda: all(answer.chunks for answer, _ in held))
        for streaming in (False, True):
            refused = await asked(chat, CHAT, chat_body(stream=streaming, max_tokens=4), streaming)
            assert refused.failure is not None
            assert refused.failure.code is FailureCode.RESOURCE_EXHAUSTED
            assert refused.failure.retry_after_ms > 0
            assert (refused.status, refused.chunks) == (0, [])
    finally:
        for _, upstream in held:
            upstream.cancel()
    await until_running(chat, 0)


async def test_a_paused_reader_is_bounded_and_loses_nothing(chat: Subject) -> None:
    body = chat_body(stream=True, max_tokens=1500, ignore_eos=True)
    answer, upstream = opened(chat, CHAT, body, streaming=True)
    await until(lambda: len(answer.chunks) >= 2)
    upstream.pause()
    at_pause = answer.bytes_received
    other = await asked(chat, CHAT, chat_body(stream=True, max_tokens=60, ignore_eos=True), streaming=True)
    assert other.failure is None
    assert answer.bytes_received - at_pause <= STREAM_WINDOW_BYTES
    assert not answer.ended.is_set()
    upstream.resume()
    await answer.complete()
    undisturbed = await asked(chat, CHAT, body, streaming=True)
    assert answer.failure is None
    assert len(answer.events()) >= 1
    tokens = [len(a.events()) for a in (answer, undisturbed)]
    if chat.info.kind == "simulated":
        assert answer.text() == undisturbed.text()
    assert answer.events()[-1]["choices"][0]["finish_reason"] == "length", tokens


async def test_free_cache_falls_and_recovers(chat: Subject) -> None:
    await until_running(chat, 0)
    free = await chat.engine.cached_tokens_free()
    assert free is not None
    assert 0 < free <= chat.info.kv_cache_tokens


class Supervised:
    """As much of a Supervisor as a watch needs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.state = EngineState.READY

    def silent(self, detail: str) -> None:
        self.state = EngineState.WEDGED

    def answered(self) -> None:
        self.state = EngineState.READY


def freeze(engine: Subject, frozen: bool) -> None:
    if isinstance(engine.engine, VllmEngine):
        for pid in engine.engine.process_ids():
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
    elif frozen:
        engine.simulated.inject(Fault(FaultKind.HANG))
    else:
        engine.simulated.heal()


@pytest.mark.parametrize("task", [Task.GENERATE, Task.EMBED])
async def test_a_frozen_engine_is_found_wedged_and_well_again(chat: Subject, embed: Subject, task: Task) -> None:
    """The node's clock is the test's; the engine's silence, and its answer once it is thawed, are real."""
    subject = chat if task is Task.GENERATE else embed
    now_s, handed_back = 0.0, list[str]()
    supervised: Any = Supervised(subject.engine)
    watch = EngineWatch(subject.info.model, task, lambda: now_s, handed_back.append)
    freeze(subject, True)
    try:
        while not handed_back and now_s < 2 * COLD_S:
            now_s += 0.5
            watch.look(supervised, [OpenAttempt(0, TOKENS_AN_EVENT)], 1000.0, 100.0)
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        assert len(handed_back) == 1
        assert supervised.state is EngineState.WEDGED
    finally:
        freeze(subject, False)
    await until(lambda: supervised.state is EngineState.READY)
    watch.forget()
    await until_running(subject, 0)


async def test_death_mid_answer_is_a_failure_and_is_told(chat: Subject) -> None:
    """The last test of the last file that uses these engines: none comes back from it."""
    streamed, _ = opened(chat, CHAT, chat_body(**LONG), streaming=True)
    whole, _ = opened(chat, CHAT, chat_body(max_tokens=1500, ignore_eos=True))
    await until(lambda: len(streamed.chunks) >= 3)
    if isinstance(chat.engine, VllmEngine):
        assert chat.engine.pid is not None
        os.kill(chat.engine.pid, signal.SIGKILL)
    else:
        chat.simulated.inject(Fault(FaultKind.DIE))
    for answer in (streamed, whole):
        await answer.complete()
        assert answer.failure is not None
        assert answer.failure.code is FailureCode.ENGINE_FAILED
    assert await asyncio.wait_for(chat.engine.wait_died(), 60)
    after = await asked(chat, CHAT, chat_body(max_tokens=1))
    assert after.failure is not None
    assert after.failure.code is FailureCode.ENGINE_FAILED
