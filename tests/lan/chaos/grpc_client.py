"""One gRPC request over a fresh channel, observed to its end: typed, and as mistrustful as client.py.

A status with the gateway's request id in its trailing metadata is the gateway's own word: a refusal, or after the first
chunk what an error event is over HTTP. Any other status is a connection that ended.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import grpc
import grpc.aio
from tests.lan.agents import KEY
from tests.lan.chaos.client import CONNECT_S_MAX, SILENCE_S_MAX
from tests.lan.chaos.kinds import CHAT, KINDS, Kind
from tests.lan.chaos.observation import Ended, MalformedError, Observation
from tests.lan.chaos.tunnel import tunnel

from covey_mesh.wire.v1 import inference_pb2 as wire
from covey_mesh.wire.v1 import inference_pb2_grpc

METADATA = (("authorization", f"Bearer {KEY}"),)
CHANNEL = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
"""A channel of its own, and no second try behind the observer's back."""


class GrpcAsking:
    """Fills one Observation."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self._kind: Kind = KINDS[observation.kind]
        self._chunks = 0
        self._whole = False

    async def run(self, made: socket.socket, address: tuple[str, int], name: str) -> Observation:
        """Never raises for what the other side does. `name`: a free one of an abstract socket, for the tunnel."""
        seen = self.observation
        try:
            made.setblocking(False)
            async with asyncio.timeout(CONNECT_S_MAX):
                await asyncio.get_running_loop().sock_connect(made, address)
        except OSError as error:
            made.close()
            seen.detail, seen.ended_s = repr(error), time.time()
            return seen
        seen.ended = Ended.CUT
        try:
            async with (
                tunnel(made, name),
                grpc.aio.insecure_channel(f"unix-abstract:{name}", options=CHANNEL) as channel,
            ):
                await self._ask(inference_pb2_grpc.InferenceStub(channel))  # type: ignore[no-untyped-call]
        except TimeoutError:
            seen.ended = Ended.SILENT
        except MalformedError as error:
            seen.ended, seen.detail = Ended.MALFORMED, str(error)
        except grpc.aio.AioRpcError as error:
            self._failed(error)
        except OSError as error:
            seen.detail = repr(error)
        seen.ended_s = seen.ended_s or time.time()
        return seen

    async def _ask(self, stub: inference_pb2_grpc.InferenceStub) -> None:
        kind, seen = self._kind, self.observation
        request = typed(kind, seen.model, seen.prompt_number)
        if kind.stream:
            method = stub.StreamChat if kind.path == CHAT else stub.StreamComplete
            await self._stream(method(request, metadata=METADATA))
        else:
            method = stub.Chat if kind.path == CHAT else stub.Complete
            async with asyncio.timeout(SILENCE_S_MAX):
                answer = await method(request, metadata=METADATA)
            seen.ended_s = time.time()
            self._served(answer.served)
            seen.text = answer.message.content if kind.path == CHAT else answer.text
            seen.finishes, seen.output_tokens = int(bool(answer.finish_reason)), answer.usage.completion_tokens
        seen.status, seen.ended = 200, Ended.FINISHED

    async def _stream(self, call: Any) -> None:
        while True:
            async with asyncio.timeout(SILENCE_S_MAX):
                chunk = await call.read()
            if chunk is grpc.aio.EOF:
                break
            self._chunk(chunk)
        self.observation.ended_s = time.time()
        if not self._whole:
            raise MalformedError("ended with OK, but without its last chunk")

    def _chunk(self, chunk: Any) -> None:
        seen = self.observation
        self._chunks += 1
        if self._whole:
            raise MalformedError(f"after the last chunk came {chunk!r}")
        if self._chunks == 1 or chunk.HasField("usage"):
            self._served(chunk.served)
        piece = chunk.content if self._kind.path == CHAT else chunk.text
        if piece:
            seen.note_piece(piece)
        seen.finishes += bool(chunk.finish_reason)
        if chunk.HasField("usage"):
            self._whole, seen.output_tokens = True, chunk.usage.completion_tokens

    def _served(self, served: wire.Served) -> None:
        seen = self.observation
        if not served.request_id or not served.node_name:
            raise MalformedError(f"does not say who served: {served!r}")
        if seen.request_id not in ("", served.request_id):
            raise MalformedError(f"the request id changed from {seen.request_id} to {served.request_id}")
        if bool(served.continued) != bool(served.machines):
            raise MalformedError(f"continued {served.continued} times by {list(served.machines)}")
        seen.request_id, seen.machine = served.request_id, served.node_name
        seen.attempts, seen.why, seen.continued = served.attempts, served.why, served.continued

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        seen = self.observation
        trailing = {name: str(value) for name, value in error.trailing_metadata() or ()}
        seen.detail = error.details() or ""
        if "x-request-id" not in trailing:
            seen.detail = f"{error.code().name} {seen.detail}"
            return
        seen.code, seen.request_id = error.code().name, trailing["x-request-id"]
        seen.status = 503 if error.code() is grpc.StatusCode.UNAVAILABLE else 500
        seen.retry_after = trailing.get("retry-after", "")
        seen.ended = Ended.ERROR_EVENT if self._chunks else Ended.REFUSED


def typed(kind: Kind, model: str, prompt_number: int) -> wire.ChatRequest | wire.CompleteRequest:
    """The request as gRPC's clients make it."""
    prompt = kind.prompt(prompt_number)
    sampling = wire.Sampling(max_tokens=kind.max_tokens)
    more = dict(kind.more)
    if "temperature" in more:
        sampling.temperature = more.pop("temperature")
    extra_json = json.dumps(more) if more else ""
    if kind.path != CHAT:
        return wire.CompleteRequest(model=model, prompt=prompt, sampling=sampling, extra_json=extra_json)
    message = wire.ChatMessage(role="user", content=prompt)
    return wire.ChatRequest(model=model, messages=[message], sampling=sampling, extra_json=extra_json)
