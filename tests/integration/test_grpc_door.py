"""The gRPC front door over real gRPC on loopback, with a runner whose answers the test writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from covey_gateway.core.front import AnswerHead, ClientSink, IncomingRequest
from covey_gateway.core.records import RequestRecord
from covey_gateway.io import grpc_call
from covey_gateway.io.grpc_door import GrpcDoor
from covey_gateway.io.status import PoolStatus
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId
from covey_mesh.wire.v1 import inference_pb2, inference_pb2_grpc, pool_pb2, pool_pb2_grpc

A = NodeId("a" * 32)
Script = Callable[["FakeActive"], None]


@dataclass
class FakeActive:
    """One request as the runner would hold it; the test's script drives the sink."""

    request: IncomingRequest
    sink: ClientSink
    request_id: str = "req-aaaaaaaa-1"
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[str] = field(default_factory=list)

    def cancel(self) -> None:
        self.calls.append("cancel")
        self.cancelled.set()

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def answer(self, status: int, body: bytes, content_type: str = "application/json", retry_after_s: int = 0) -> None:
        self.sink.head(AnswerHead(status, content_type, self.request_id, "m", A, "desk", 1, "why", retry_after_s))
        if body:
            self.sink.data(body)


class FakeDoor:
    """A FrontDoor that plays a script for each request."""

    def __init__(self) -> None:
        self.script: Script = lambda active: None
        self.requests: list[FakeActive] = []

    def submit(self, request: IncomingRequest, sink: ClientSink) -> FakeActive:
        active = FakeActive(request, sink)
        self.requests.append(active)
        asyncio.get_running_loop().call_soon(self.script, active)
        return active


class FakeMesh:
    """The part of Mesh that PoolStatus uses."""

    self_id = A

    def view(self) -> PoolView:
        load = ModelLoad("m", EngineState.READY, "simulated", Task.GENERATE, 2048)
        member = Member(NodeFacts(A, "desk", "1", 1, 1), NodeLoad(A, 1, 1, (), (load,)), reachable=True)
        return PoolView(A, 3, A, Ballot(5, A), {A: member})

    def answer_queries(self, kind: str, handler: object) -> None:
        pass

    async def query(self, node_id: NodeId, kind: str, payload: bytes, timeout_s: float) -> bytes | None:
        return None


class FakeRecords:
    def record(self, request_id: str) -> RequestRecord | None:
        if request_id != "known":
            return None
        record = RequestRecord("known", "/v1/completions", "m", False, 3, 16, 1.0)
        record.opened(1, A, 10.0)
        record.ended(1, "completed", 12.5)
        return record


@dataclass
class Client:
    door: FakeDoor
    inference: inference_pb2_grpc.InferenceStub
    pool: pool_pb2_grpc.PoolStub
    channel: grpc.aio.Channel
    port: int


async def _client(owner_of: Callable[[str], str | None] | None) -> AsyncIterator[Client]:
    door = FakeDoor()
    status = PoolStatus(FakeMesh(), "p" * 32, "office", FakeRecords(), lambda: {"m": 4})  # type: ignore[arg-type]
    server = GrpcDoor("127.0.0.1:0", door, status, owner_of)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Client(
            door,
            inference_pb2_grpc.InferenceStub(channel),  # type: ignore[no-untyped-call]
            pool_pb2_grpc.PoolStub(channel),  # type: ignore[no-untyped-call]
            channel,
            server.port,
        )
    await server.stop(0)


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    async for made in _client(None):
        yield made


@pytest_asyncio.fixture
async def keyed() -> AsyncIterator[Client]:
    async for made in _client({"secret": "ada"}.get):
        yield made


CHAT = inference_pb2.ChatRequest(model="m", messages=[inference_pb2.ChatMessage(role="user", content="hi")])


def _event(content: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": content}}]}).encode() + b"\n\n"


@pytest.mark.asyncio
async def test_chat(client: Client) -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}

    def script(active: FakeActive) -> None:
        active.answer(200, json.dumps(body).encode())
        active.sink.end(None)

    client.door.script = script
    response = await client.inference.Chat(CHAT, timeout=5)
    assert response.message.content == "Hello"
    assert response.served.node_name == "desk"
    sent = client.door.requests[0].request
    assert sent.path == "/v1/chat/completions"
    assert sent.deadline_s is not None
    # gRPC rounds up what it puts on the wire.
    assert sent.deadline_s <= 5.1


@pytest.mark.asyncio
async def test_a_streams_first_chunk_does_not_wait_for_the_second(client: Client) -> None:
    client.door.script = lambda active: active.answer(200, _event("one"), "text/event-stream")
    call = client.inference.StreamChat(CHAT)
    first = await call.read()
    assert first.content == "one"
    assert first.served.node_id == A
    active = client.door.requests[0]
    active.sink.data(b'data: {"choices":[],"usage":{"completion_tokens":2}}\n\ndata: [DONE]\n\n')
    active.sink.end(None)
    last = await call.read()
    assert last.usage.completion_tokens == 2
    assert last.served.request_id == active.request_id
    assert await call.read() is grpc.aio.EOF
    assert "cancel" not in active.calls


@pytest.mark.asyncio
async def test_a_continued_stream_says_so_in_its_last_chunk(client: Client) -> None:
    client.door.script = lambda active: active.answer(200, _event("one"), "text/event-stream")
    call = client.inference.StreamChat(CHAT)
    await call.read()
    active = client.door.requests[0]
    flag = b'"covey":{"continued":1,"machines":["desk","lab"]}'
    active.sink.data(b'data: {"choices":[],"usage":{"completion_tokens":2},' + flag + b"}\n\n")
    active.sink.end(None)
    last = await call.read()
    assert (last.served.continued, list(last.served.machines)) == (1, ["desk", "lab"])
    assert last.served.request_id == active.request_id


@pytest.mark.asyncio
async def test_a_client_that_leaves_aborts_the_engine(client: Client) -> None:
    client.door.script = lambda active: active.answer(200, _event("one"), "text/event-stream")
    call = client.inference.StreamChat(CHAT)
    await call.read()
    call.cancel()
    await asyncio.wait_for(client.door.requests[0].cancelled.wait(), 5)


@pytest.mark.asyncio
async def test_a_slow_reader_pauses_the_engine(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_call, "QUEUED_BYTES_MAX", 100)

    def script(active: FakeActive) -> None:
        active.answer(200, b"", "text/event-stream")
        for _ in range(10):
            active.sink.data(_event("x" * 50))
        active.sink.end(None)

    client.door.script = script
    call = client.inference.StreamChat(CHAT)
    texts = [chunk.content async for chunk in call]
    assert len(texts) == 10
    assert client.door.requests[0].calls == ["pause", "resume"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT),
        (404, grpc.StatusCode.NOT_FOUND),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (503, grpc.StatusCode.UNAVAILABLE),
        (504, grpc.StatusCode.DEADLINE_EXCEEDED),
        (500, grpc.StatusCode.INTERNAL),
        (418, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
@pytest.mark.asyncio
async def test_refusals(client: Client, status: int, code: grpc.StatusCode) -> None:
    def script(active: FakeActive) -> None:
        active.answer(status, b'{"error": {"message": "do this next"}}', retry_after_s=2)
        active.sink.end(None)

    client.door.script = script
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.inference.Chat(CHAT)
    assert caught.value.code() is code
    assert caught.value.details() == "do this next"
    assert dict(caught.value.trailing_metadata() or ())["retry-after"] == "2"


MALFORMED = [
    b"secret words",
    b"[" * 100_000,
    b'"secret"',
    b'{"choices": "secret"}',
    b'{"choices": [{"message": {"content": ["secret"]}, "delta": {"content": ["secret"]}}]}',
    b'{"choices": [7], "usage": "secret"}',
]


@pytest.mark.parametrize("answer", MALFORMED, ids=lambda answer: answer[:40].decode())
@pytest.mark.asyncio
async def test_an_answer_that_is_none_is_an_error_that_quotes_nothing(
    client: Client, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine at fault: the client is told so, and what it sent is in no log."""

    def script(active: FakeActive) -> None:
        streaming = b'"stream": true' in active.request.body
        active.answer(200, b"data: " + answer + b"\n\n" if streaming else answer, "text/event-stream")
        active.sink.end(None)

    client.door.script = script
    for call in (client.inference.Chat(CHAT), client.inference.StreamChat(CHAT).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in (caught.value.details() or "")
    assert "secret" not in caplog.text
    assert not caplog.records


@pytest.mark.asyncio
async def test_an_endless_answer_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covey_gateway.io.grpc_call.ANSWER_BYTES_MAX", 100)

    def script(active: FakeActive) -> None:
        active.answer(200, b"x" * 101)

    client.door.script = script
    with pytest.raises(grpc.aio.AioRpcError, match="longer than 100 bytes"):
        await client.inference.Chat(CHAT)
    assert client.door.requests[0].cancelled


@pytest.mark.asyncio
async def test_an_error_event_ends_the_stream_with_an_error(client: Client) -> None:
    def script(active: FakeActive) -> None:
        active.answer(200, _event("one") + b'data: {"error": {"message": "machine lost"}}\n\n', "text/event-stream")

    client.door.script = script
    call = client.inference.StreamChat(CHAT)
    assert (await call.read()).content == "one"
    with pytest.raises(grpc.aio.AioRpcError, match="machine lost"):
        await call.read()


@pytest.mark.asyncio
async def test_a_request_that_cannot_be_translated(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.inference.Chat(inference_pb2.ChatRequest(model="m"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not client.door.requests


@pytest.mark.asyncio
async def test_a_context_that_no_machine_has(client: Client) -> None:
    request = inference_pb2.ChatRequest(model="m", requirements=inference_pb2.Requirements(min_context_tokens=9999))
    request.messages.add(role="user", content="x")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.inference.Chat(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.asyncio
async def test_keys(keyed: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await keyed.inference.ListModels(inference_pb2.ListModelsRequest())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    models = await keyed.inference.ListModels(
        inference_pb2.ListModelsRequest(), metadata=(("authorization", "Bearer secret"),)
    )
    assert [m.model for m in models.models] == ["m"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path", ["/covey.v1.Inference/Chat", "/covey.v1.Inference/StreamChat", "/covey.v1.Pool/GetPool"]
)
async def test_without_a_key_no_request_is_even_read(keyed: Client, path: str) -> None:
    """Else strangers could fill the memory with messages, and the slots for calls with ones that never come."""
    call: Any = keyed.channel.stream_stream(path)(metadata=(("authorization", "Bearer wrong"),))
    async with asyncio.timeout(5):
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "key" in (await call.details() or "")
    assert keyed.door.requests == []


@pytest.mark.asyncio
async def test_pool_and_explain(client: Client) -> None:
    pool = await client.pool.GetPool(pool_pb2.GetPoolRequest())
    assert (pool.pool_name, pool.leader_node_id, pool.queued_requests) == ("office", A, 4)
    assert pool.members[0].facts.name == "desk"
    watch = client.pool.WatchPool(pool_pb2.GetPoolRequest())
    assert (await watch.read()).view_version == 3
    watch.cancel()
    found = await client.pool.ExplainRequest(pool_pb2.ExplainRequestRequest(request_id="known"))
    assert (found.request_id, found.gateway_node_id, found.attempts[0].total_s) == ("known", A, 2.5)
    assert not found.HasField("total_s")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.pool.ExplainRequest(pool_pb2.ExplainRequestRequest(request_id="other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.asyncio
async def test_health(client: Client) -> None:
    stub = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", "covey.v1.Inference", "covey.v1.Pool"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.asyncio
async def test_reflection_describes_every_service(client: Client) -> None:
    def reflect() -> tuple[set[str], set[str]]:
        with grpc.insecure_channel(f"127.0.0.1:{client.port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            service = DescriptorPool(database).FindServiceByName("covey.v1.Inference")
            return set(database.get_services()), {m.name for m in service.methods}

    services, methods = await asyncio.to_thread(reflect)
    assert {"covey.v1.Inference", "covey.v1.Pool", "grpc.health.v1.Health"} <= services
    assert "StreamChat" in methods
