"""What the contract suite asks, and a sink that writes down everything it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from covey_mesh.core.exchange import Failure, ForwardedRequest, PiecewiseSink, Usage

PATIENCE_S = 60.0
POLL_S = 0.02

_numbers = iter(range(1, 1_000_000))


class Answer(PiecewiseSink):
    """A ResponseSink that checks the exchange's rules as it listens."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.status = 0
        self.content_type = ""
        self.chunks: list[bytes] = []
        self.times_s: list[float] = []
        self.ended = asyncio.Event()
        self.failure: Failure | None = None
        self.forbidden = True

    def opened(self) -> None:
        """`open` returned: from now on, calls are allowed."""
        self.forbidden = False

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        assert not self.forbidden, "the sink was called from inside open, or after cancel"
        assert self.status == 0, "a second head"
        self.status, self.content_type = status, content_type

    def data(self, chunk: bytes) -> None:
        assert not self.forbidden
        assert self.status, "data before head"
        assert chunk, "an empty chunk"
        assert not self.ended.is_set(), "data after the end"
        self.chunks.append(chunk)
        self.times_s.append(self.loop.time())

    def end(self, failure: Failure | None) -> None:
        assert not self.forbidden
        assert not self.ended.is_set(), "a second end"
        self.failure = failure
        self.ended.set()

    def whole(self, status: int, content_type: str, retry_after_s: int, body: bytes, usage: Usage | None) -> None:
        assert self.status == 0, "a whole answer after its beginning"
        super().whole(status, content_type, retry_after_s, body, usage)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def bytes_received(self) -> int:
        return sum(map(len, self.chunks))

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The stream's events without the last, which must be [DONE]."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    def text(self) -> str:
        pieces = [choice for event in self.events() for choice in event["choices"]]
        return "".join(p["delta"].get("content") or "" if "delta" in p else p["text"] for p in pieces)

    async def complete(self) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            await self.ended.wait()
        return self


async def until(condition: Callable[[], bool]) -> None:
    """Bounded polling."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (engines change it)
            await asyncio.sleep(POLL_S)


def chat_body(model: str = "covey-demo-chat", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0} | fields


def request(path: str, body: dict[str, Any] | bytes, streaming: bool = False) -> ForwardedRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ForwardedRequest(f"request-{next(_numbers)}", 1, "covey-demo-chat", path, raw, streaming, 10, 64)
