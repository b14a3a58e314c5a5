"""A whole answer on its way through the node: one call in, one call out, and the same books as one in pieces."""

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.support.virtual import virtually

from covey_mesh.core.exchange import (
    Failure,
    FailureCode,
    ForwardedRequest,
    PiecewiseSink,
    ResponseSink,
    Upstream,
    Usage,
)
from covey_mesh.core.facts import Task
from covey_node.core.engine import EngineInfo
from covey_node.core.settings import ModelSpec
from covey_node.io.served_model import ServedModel

CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 190, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 64}}
ANSWER = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": USAGE}).encode()


def on_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*values: Any, **named: Any) -> None:
        virtually(lambda: test(*values, **named))

    return run


class Engine:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.sinks: list[ResponseSink] = []
        self.cancelled = 0

    async def start(self, progress: Callable[[str], None]) -> EngineInfo:
        return EngineInfo("vllm", "m", Task.GENERATE, 4096, 65_536, 1)

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        self.sinks.append(sink)
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    async def stop(self, grace_s: float) -> None: ...

    async def wait_died(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def cached_tokens_free(self) -> int | None:
        return None


class Sink:
    def __init__(self) -> None:
        self.told: list[object] = []

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.told.append((status, content_type, retry_after_s))

    def data(self, chunk: bytes) -> None:
        self.told.append(chunk)

    def end(self, failure: Failure | None) -> None:
        self.told.append(failure and failure.code)

    def whole(self, status: int, content_type: str, retry_after_s: int, body: bytes, usage: Usage | None) -> None:
        self.told.append((status, content_type, retry_after_s, body, usage))


class Rig:
    """One model with a place for one request, and a clock that is set."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.now_s = 100.0
        self.served = ServedModel(
            ModelSpec("m", "/m"), lambda: self.engine, lambda: self.now_s, lambda: None, lambda: self.now_s
        )
        self._count = 0

    async def started(self) -> "Rig":
        self.served.supervisor.start(lambda _: None)
        await self.served.supervisor.settled()
        return self

    def open(self, path: str = CHAT, streaming: bool = False, deadline_ms: int = 0) -> tuple[Sink, Upstream]:
        self._count += 1
        sink = Sink()
        request = ForwardedRequest(f"r{self._count}", 1, "m", path, b"{}", streaming, 10, 9, deadline_ms)
        return sink, self.served.open(request, sink)


@on_virtual_time
async def test_it_is_one_call_with_its_usage() -> None:
    rig = await Rig().started()
    sink, upstream = rig.open()
    rig.engine.sinks[0].whole(200, "application/json", 0, ANSWER, None)
    assert sink.told == [(200, "application/json", 0, ANSWER, Usage(190, 5, 64))]
    upstream.cancel()
    rig.engine.sinks[0].end(None)
    assert (len(sink.told), rig.engine.cancelled, rig.served.load().running_requests) == (1, 0, 0)
    await rig.served.stop(0.0)


@on_virtual_time
async def test_the_books_are_those_of_an_answer_in_pieces() -> None:
    loads = []
    for in_pieces in (False, True):
        rig = await Rig().started()
        for number in range(40):
            rig.open(path="/v1/embeddings" if number % 4 == 3 else CHAT)
            rig.now_s += 0.05 + 0.01 * (number % 3)
            usage = USAGE | {"completion_tokens": 0 if number % 4 == 3 else 5 + number}
            body = json.dumps({"usage": usage}).encode()
            if in_pieces:
                sink = rig.engine.sinks[-1]
                sink.head(200, "application/json")
                sink.data(body[:20])
                sink.data(body[20:])
                sink.end(None)
            else:
                rig.engine.sinks[-1].whole(200, "application/json", 0, body, None)
        loads.append(rig.served.load())
        await rig.served.stop(0.0)
    assert loads[0] == loads[1]
    assert loads[0].decode_tokens_per_s > 0
    assert loads[0].prefill_tokens_per_s > 0


@on_virtual_time
async def test_its_place_is_free_before_it_is_told() -> None:
    rig = await Rig().started()
    first, _ = rig.open()
    second, _ = rig.open()
    assert len(rig.engine.sinks) == 1, "there is one place"
    rig.engine.sinks[0].whole(200, "application/json", 0, ANSWER, None)
    assert (len(first.told), len(rig.engine.sinks), second.told) == (1, 2, [])
    await rig.served.stop(0.0)


@on_virtual_time
async def test_nothing_comes_after_cancel() -> None:
    rig = await Rig().started()
    sink, upstream = rig.open(deadline_ms=1)
    upstream.cancel()
    rig.engine.sinks[0].whole(200, "application/json", 0, ANSWER, None)
    await asyncio.sleep(0.01)
    assert (sink.told, rig.engine.cancelled) == ([], 1)
    await rig.served.stop(0.0)


@on_virtual_time
async def test_a_deadline_after_it_is_nothing() -> None:
    rig = await Rig().started()
    sink, _ = rig.open(deadline_ms=1)
    rig.engine.sinks[0].whole(200, "application/json", 0, ANSWER, None)
    await asyncio.sleep(0.01)
    assert len(sink.told) == 1
    late, _ = rig.open(deadline_ms=1)
    await asyncio.sleep(0.01)
    assert late.told == [FailureCode.DEADLINE_EXCEEDED]
    await rig.served.stop(0.0)


@on_virtual_time
async def test_a_refusal_is_an_answer_without_usage() -> None:
    rig = await Rig().started()
    sink, _ = rig.open()
    rig.engine.sinks[0].whole(400, "application/json", 0, ANSWER, None)
    assert sink.told == [(400, "application/json", 0, ANSWER, None)]
    streamed, _ = rig.open(streaming=True)
    rig.engine.sinks[1].whole(429, "application/json", 3, b"busy", None)
    assert streamed.told == [(429, "application/json", 3), b"busy", None]
    assert not rig.served.progress.moved
    await rig.served.stop(0.0)


@pytest.mark.parametrize(("path", "moved"), [("/tokenize", False), (CHAT, True)])
@on_virtual_time
async def test_what_the_engines_http_server_answers_alone_is_no_sign_of_life(path: str, moved: bool) -> None:
    rig = await Rig().started()
    rig.open(path=path)
    rig.engine.sinks[0].whole(200, "application/json", 0, b'{"count":3}', None)
    assert rig.served.progress.moved is moved
    await rig.served.stop(0.0)


def test_other_sinks_take_it_in_pieces() -> None:
    class Pieces(PiecewiseSink):
        def __init__(self) -> None:
            self.told: list[object] = []

        def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
            self.told.append((status, content_type, retry_after_s))

        def data(self, chunk: bytes) -> None:
            self.told.append(chunk)

        def end(self, failure: Failure | None) -> None:
            self.told.append(failure)

    sink = Pieces()
    sink.whole(200, "text/plain", 0, b"x", None)
    sink.whole(204, "", 2, b"", None)
    assert sink.told == [(200, "text/plain", 0), b"x", None, (204, "", 2), None]
