"""Streams one chat from an agent, over HTTP or gRPC, and measures it as a client would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from covey.demo.agent_process import AgentProcess, DemoFailed
from covey.demo.pool import CHAT_MODEL
from covey.errors import UserError

ANSWER_TIMEOUT_S = 60.0
MAX_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Measured:
    """One streamed answer: seconds from sending the request."""

    text: str
    machine: str
    first_token_s: float
    total_s: float
    pieces: int

    def describe(self) -> str:
        return (
            f"by {self.machine}: first token after {self.first_token_s:.3f} s, {self.pieces} pieces "
            f"in {self.total_s:.3f} s"
        )


def over_http(agent: AgentProcess, question: str, show: Callable[[str], None]) -> Measured:
    """Raises DemoFailed."""
    body = {
        "model": CHAT_MODEL,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0.0,
        "stream": True,
    }
    started = time.monotonic()
    try:
        stream = agent.client.stream("/v1/chat/completions", body)
        pieces = (choice["delta"].get("content") or "" for event in stream for choice in event.get("choices", []))
        return _measure(pieces, lambda: stream.headers.get("x-covey-node", "?"), started, show)
    except UserError as error:
        raise DemoFailed(f"the request over HTTP to {agent.name} failed: {error}") from error


def over_grpc(agent: AgentProcess, question: str, show: Callable[[str], None]) -> Measured:
    """Raises DemoFailed."""
    import grpc

    from covey_mesh.wire.v1 import inference_pb2 as wire
    from covey_mesh.wire.v1 import inference_pb2_grpc

    request = wire.ChatRequest(
        model=CHAT_MODEL,
        messages=[wire.ChatMessage(role="user", content=question)],
        sampling=wire.Sampling(max_tokens=MAX_TOKENS, temperature=0.0),
    )
    machine = ["?"]
    started = time.monotonic()
    with grpc.insecure_channel(agent.addresses.grpc) as channel:
        try:
            chunks = inference_pb2_grpc.InferenceStub(channel).StreamChat(request, timeout=ANSWER_TIMEOUT_S)  # type: ignore[no-untyped-call]
            return _measure(_contents(chunks, machine), lambda: machine[0], started, show)
        except grpc.RpcError as error:
            raise DemoFailed(f"the request over gRPC to {agent.name} failed: {error}") from error


def _contents(chunks: Iterable[object], machine: list[str]) -> Iterable[str]:
    for chunk in chunks:
        if chunk.HasField("served"):  # type: ignore[attr-defined]
            machine[0] = chunk.served.node_name  # type: ignore[attr-defined]
        yield chunk.content  # type: ignore[attr-defined]


def _measure(
    pieces: Iterable[str], machine: Callable[[], str], started: float, show: Callable[[str], None]
) -> Measured:
    first_token_s = 0.0
    texts: list[str] = []
    for piece in pieces:
        if piece:
            first_token_s = first_token_s or time.monotonic() - started
            texts.append(piece)
            show(piece)
    show("\n")
    if not texts:
        raise DemoFailed("the answer was empty")
    return Measured("".join(texts), machine(), first_token_s, time.monotonic() - started, len(texts))
