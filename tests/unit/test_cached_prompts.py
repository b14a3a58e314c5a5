"""What an engine says of its prefix cache at the end of a stream reaches the meter, in one read or two."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.virtual import virtually

from covey_mesh.core.exchange import Failure, ForwardedRequest, PiecewiseSink, ResponseSink, Upstream
from covey_mesh.core.facts import Task
from covey_node.core.engine import EngineInfo
from covey_node.core.settings import ModelSpec
from covey_node.io.served_model import ServedModel

PROMPT_TOKENS = 1000
TOKENS_PER_S = 1000.0


class CachingEngine:
    """Computes 1,000 prompt tokens a second, has all but 100 cached from the second prompt on; tells as vLLM does."""

    def __init__(self, split: bool = False) -> None:
        self.cached = 0
        self._split = split

    async def start(self, progress: Callable[[str], None]) -> EngineInfo:
        return EngineInfo("vllm", "m", Task.GENERATE, 4096, 65_536, 8)

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        loop = asyncio.get_running_loop()
        body = json.loads(request.body)
        details = {"cached_tokens": self.cached}
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 2, "prompt_tokens_details": details}
        first_s = (PROMPT_TOKENS - self.cached) / TOKENS_PER_S
        self.cached = PROMPT_TOKENS - 100

        def finish() -> None:
            for piece in self._pieces(body, usage):
                sink.data(piece)
            sink.end(None)

        loop.call_later(first_s, sink.head, 200, "application/json")
        loop.call_later(first_s, sink.data, b'data: {"choices":[{"text":"a"}]}\n\n')
        loop.call_later(first_s + 0.02, finish)
        return Nothing()

    def _pieces(self, body: dict[str, Any], usage: dict[str, Any]) -> list[bytes]:
        last = b'data: {"choices":[{"text":"b"}]}\n\n'
        if body.get("stream_options"):
            last += b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        return [last, b"data: [DONE]\n\n"] if self._split else [last + b"data: [DONE]\n\n"]

    async def stop(self, grace_s: float) -> None:
        pass

    async def wait_died(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def cached_tokens_free(self) -> int | None:
        return None


class Nothing:
    def cancel(self) -> None:
        pass

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Sink(PiecewiseSink):
    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        pass

    def data(self, chunk: bytes) -> None:
        pass

    def end(self, failure: Failure | None) -> None:
        assert failure is None
        self.ended.set()


def measured(engine: CachingEngine, usage: list[bool]) -> float:
    """Prompt tokens a second after these answers, one after the other."""
    found: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        served = ServedModel(ModelSpec("m", "/m"), lambda: engine, loop.time, lambda: None, loop.time)
        served.supervisor.start(lambda _: None)
        await served.supervisor.settled()
        for number, asks in enumerate(usage):
            body: dict[str, Any] = {"model": "m", "prompt": "x", "stream": True}
            if asks:
                body["stream_options"] = {"include_usage": True}
            raw, sink = json.dumps(body).encode(), Sink()
            served.open(ForwardedRequest(f"r{number}", 1, "m", "/v1/completions", raw, True, 900, 2), sink)
            await sink.ended.wait()
        found.append(served.load().prefill_tokens_per_s)
        await served.stop(0.0)

    virtually(main)
    return found[0]


@pytest.mark.parametrize("split", [False, True])
def test_streams_that_tell(split: bool) -> None:
    assert measured(CachingEngine(split), [True] * 8) == pytest.approx(TOKENS_PER_S, rel=0.05)


def test_a_few_that_tell_are_enough() -> None:
    assert measured(CachingEngine(), [False, True, True, True, *[False] * 12]) == pytest.approx(TOKENS_PER_S, rel=0.05)


def test_streams_that_do_not_tell_are_guesses() -> None:
    assert measured(CachingEngine(), [False] * 8) > 2 * TOKENS_PER_S
