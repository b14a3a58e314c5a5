"""Batches without a pool: a front door that answers at once, a clock that stands, and a process that can be killed
before any statement to its database.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covey_gateway.core.batches.ids import FILE, read_id
from covey_gateway.core.batches.lines import InputLine
from covey_gateway.core.batches.settings import BatchSettings
from covey_gateway.core.batches.state import Batch
from covey_gateway.core.batches.wishes import BatchWish
from covey_gateway.core.front import AnswerHead, ClientSink, IncomingRequest
from covey_gateway.io.batches.database import Database
from covey_gateway.io.batches.library import BatchLibrary
from covey_gateway.io.batches.runner import BatchRunner
from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId

NODE = NodeId("0123456789abcdef" * 2)
CHAT = "/v1/chat/completions"
NOW_S = 1_800_000_000.0
ENDS_WITHIN_S = 20.0


def line(custom_id: str, model: str = "m", url: str = CHAT, **body: Any) -> bytes:
    content = {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": model, "messages": [], **body}}
    return json.dumps(content).encode() + b"\n"


def view(running_limit: int = 4, model: str = "m", ready: bool = True) -> PoolView:
    """One machine with one model."""
    state = EngineState.READY if ready else EngineState.STOPPED
    load = ModelLoad(model, state, "simulated", Task.GENERATE, 2048, running_limit=running_limit)
    member = Member(NodeFacts(NODE, "anna", "0", 1, 1), NodeLoad(NODE, 1, 1, (), (load,)), reachable=True)
    return PoolView(NODE, members={NODE: member})


@dataclass
class FakeActive:
    request_id: str = "req-1"
    cancelled: bool = False
    sink: ClientSink | None = None

    def cancel(self) -> None:
        self.cancelled = True

    def pause(self) -> None: ...

    def resume(self) -> None: ...


Script = Callable[[IncomingRequest, int], tuple[int, bytes] | None]
"""(request, how often this body was asked before) -> status and body; None: no answer."""


def answer_200(request: IncomingRequest, asked_before: int) -> tuple[int, bytes]:
    return 200, json.dumps({"echo": json.loads(request.body), "usage": {"prompt_tokens": 3}}).encode()


@dataclass
class FakeDoor:
    """Answers on the next turn of the loop."""

    script: Script = answer_200
    asked: Counter[bytes] = field(default_factory=Counter)
    requests: list[IncomingRequest] = field(default_factory=list)
    open_now: int = 0
    open_most: int = 0
    actives: list[FakeActive] = field(default_factory=list)

    def submit(self, request: IncomingRequest, sink: ClientSink) -> FakeActive:
        active = FakeActive(sink=sink)
        self.actives.append(active)
        self.requests.append(request)
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        given = self.script(request, self.asked[request.body])
        self.asked[request.body] += 1
        if given is not None:
            asyncio.get_running_loop().call_soon(self._answer, active, sink, *given)
        return active

    def _answer(self, active: FakeActive, sink: ClientSink, status: int, body: bytes) -> None:
        self.open_now -= 1
        if not active.cancelled:
            sink.head(AnswerHead(status, "application/json", "req-1"))
            sink.data(body)
            sink.end(None)


class Killed(BaseException):
    """The process is gone."""


class MortalDatabase(Database):
    """Dies before the statement of that number, and with every later one."""

    statements_left = 10**9

    def run(self, statement: str, *values: Any) -> Any:
        if self.statements_left <= 0:
            raise Killed
        self.statements_left -= 1
        return super().run(statement, *values)


class Machine:
    """One life of an agent's files and batches on `folder`."""

    def __init__(self, folder: Path, door: FakeDoor, settings: BatchSettings | None = None, **pool: Any) -> None:
        self.now_s = NOW_S
        self.door = door
        self.pool = view(**pool)
        self.library = BatchLibrary(folder, NODE, settings or BatchSettings(), lambda: self.now_s)
        self.runner = BatchRunner(self.library, door, lambda: self.pool)

    async def __aenter__(self) -> Machine:
        assert await self.library.open()
        await self.runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.stop(0.0)
        await self.library.close()

    def finish(self, active: FakeActive) -> None:
        """Answer one of the requests that the door left open."""
        assert active.sink is not None
        active.sink.head(AnswerHead(200, "application/json", "req-1"))
        active.sink.data(b"{}")
        active.sink.end(None)

    async def upload(self, content: bytes, user: str = "", purpose: str = "batch") -> str:
        async with await self.library.begin_upload(user) as upload:
            await upload.write(content)
            return (await upload.finish("lines.jsonl", purpose, 0)).id

    async def create(self, file_id: str, user: str = "", endpoint: str = CHAT, window_s: int = 86400) -> Batch:
        known = read_id(file_id, FILE)
        assert known is not None
        batch = await self.library.create(user, BatchWish(known, endpoint, f"{window_s // 60}m", window_s, {}))
        self.runner.add(batch)
        return batch

    async def ended(self, batch_id: str, user: str = "") -> Batch:
        """The batch, once it has ended."""
        return await self.reached(batch_id, lambda batch: batch.ended, user)

    async def reached(self, batch_id: str, condition: Callable[[Batch], bool], user: str = "") -> Batch:
        async with asyncio.timeout(ENDS_WITHIN_S):
            while True:
                batch = await self.library.batch(user, batch_id)
                if condition(batch):
                    return batch
                await asyncio.sleep(0.002)

    async def content(self, file_id: str, user: str = "") -> bytes:
        file = await self.library.file(user, file_id)
        whole = b"".join([piece async for piece in self.library.content(file)])
        assert len(whole) == file.size_bytes
        return whole

    async def results(self, batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(lines of the output file, lines of the error file)"""
        output, errors = [
            read_lines(await self.content(file_id, batch.user)) if file_id else []
            for file_id in (batch.output_file_id, batch.error_file_id)
        ]
        return output, errors


def read_lines(content: bytes) -> list[dict[str, Any]]:
    assert not content or content.endswith(b"\n")
    return [json.loads(each) for each in content.splitlines()]


def places(found: list[InputLine], content: bytes) -> Iterator[bytes]:
    """What each line's place holds."""
    return (content[each.offset : each.offset + each.length] for each in found)
