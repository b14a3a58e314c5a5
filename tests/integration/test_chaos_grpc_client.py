"""The chaos lab's gRPC observer against a gRPC server that answers well, badly, or not to the end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.lan.chaos.grpc_client import GrpcAsking
from tests.lan.chaos.observation import Ended, Observation

from covey_mesh.wire.v1 import inference_pb2 as wire
from covey_mesh.wire.v1 import inference_pb2_grpc

SERVED = wire.Served(request_id="req-1", node_name="h2", attempts=1, why="best of 2")
CONTINUED = wire.Served(request_id="req-1", node_name="h2", attempts=1, continued=1, machines=["h2", "h3"])
FIRST = wire.ChatChunk(role="assistant", served=SERVED)
ONE, TWO = wire.ChatChunk(content="one "), wire.ChatChunk(content="two")
FINISH = wire.ChatChunk(finish_reason="stop")
LAST = wire.ChatChunk(usage=wire.Usage(completion_tokens=2), served=SERVED)
Context = grpc.aio.ServicerContext[Any, Any]


class Scripted(inference_pb2_grpc.InferenceServicer):
    """Sends the chunks, then does what is `then`."""

    def __init__(self, chunks: list[wire.ChatChunk], then: Callable[[Context], Any] | None) -> None:
        self.chunks = chunks
        self.then = then

    async def StreamChat(self, request: wire.ChatRequest, context: Context) -> AsyncIterator[wire.ChatChunk]:
        for chunk in self.chunks:
            yield chunk
        if self.then is not None:
            await self.then(context)

    async def Complete(self, request: wire.CompleteRequest, context: Context) -> wire.CompleteResponse:
        if self.then is not None:
            await self.then(context)
        return wire.CompleteResponse(
            text="one two", finish_reason="stop", usage=wire.Usage(completion_tokens=2), served=SERVED
        )


def word(*metadata: tuple[str, str]) -> Callable[[Context], Any]:
    return lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "it broke", metadata)


async def seen(kind: str, chunks: list[wire.ChatChunk], then: Callable[[Context], Any] | None = None) -> Observation:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(Scripted(chunks, then), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        observation = Observation(kind, "h1", "m", 0, time.time())
        return await GrpcAsking(observation).run(made, ("127.0.0.1", port), f"covey-test-{port}")
    finally:
        await server.stop(None)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("chunks", "then", "ended", "text"),
    [
        ([FIRST, ONE, TWO, FINISH, LAST], None, Ended.FINISHED, "one two"),
        ([FIRST, ONE], word(("x-request-id", "req-1")), Ended.ERROR_EVENT, "one "),
        ([], word(("x-request-id", "req-1"), ("retry-after", "2")), Ended.REFUSED, ""),
        ([FIRST, ONE], word(), Ended.CUT, "one "),
        ([FIRST, ONE, TWO, FINISH], None, Ended.MALFORMED, "one two"),
        ([FIRST, ONE, FINISH, TWO, LAST], None, Ended.MALFORMED, "one "),
        ([FIRST, ONE, FINISH, LAST, LAST], None, Ended.MALFORMED, "one "),
        ([ONE, FINISH, LAST], None, Ended.MALFORMED, ""),
    ],
)
async def test_streams(
    chunks: list[wire.ChatChunk], then: Callable[[Context], Any] | None, ended: Ended, text: str
) -> None:
    found = await seen("grpc-chat-stream", chunks, then)
    assert (found.ended, found.text) == (ended, text), found
    assert ended is Ended.FINISHED or found.detail


@pytest.mark.asyncio
async def test_what_a_whole_stream_tells() -> None:
    last = wire.ChatChunk(usage=wire.Usage(completion_tokens=2), served=CONTINUED)
    found = await seen("grpc-chat-stream", [FIRST, ONE, TWO, FINISH, last])
    assert (found.machine, found.request_id, found.attempts, found.continued) == ("h2", "req-1", 1, 1)
    assert (found.finishes, found.output_tokens, found.status) == (1, 2, 200)
    assert found.first_token_s is not None
    assert found.started_s < found.last_piece_s <= found.ended_s


@pytest.mark.asyncio
async def test_an_answer_that_is_not_streamed() -> None:
    found = await seen("grpc-text", [])
    assert (found.ended, found.text, found.finishes, found.output_tokens) == (Ended.FINISHED, "one two", 1, 2)
    refused = await seen("grpc-text", [], word(("x-request-id", "req-1"), ("retry-after", "2")))
    assert (refused.ended, refused.status, refused.retry_after, refused.code) == (
        Ended.REFUSED,
        503,
        "2",
        "UNAVAILABLE",
    )


@pytest.mark.asyncio
async def test_a_gateway_that_is_not_there_and_one_that_goes() -> None:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken = socket.create_server(("127.0.0.1", 0))
    address = taken.getsockname()
    taken.close()
    absent = await GrpcAsking(Observation("grpc-text", "h1", "m", 0, 1.0)).run(made, address, "covey-test-absent")
    assert absent.ended is Ended.UNREACHABLE

    async def goes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.transport.abort()

    async with await asyncio.start_server(goes, "127.0.0.1", 0) as server:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        address = server.sockets[0].getsockname()
        gone = await GrpcAsking(Observation("grpc-text", "h1", "m", 0, 1.0)).run(made, address, "covey-test-gone")
    assert gone.ended is Ended.CUT
