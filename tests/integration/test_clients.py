"""Clients that people already have, given nothing but the base URL, against a pool of real vLLM engines.

The reference is the same engine asked directly, over its Unix socket.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import openai
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from langchain_openai import ChatOpenAI
from tests.support.engines import engine_sockets
from tests.support.polling import wait_until
from tests.support.undecided import engine_answer

from covey.demo.agent_process import AgentProcess
from covey.demo.pool import CHAT_MODEL, DemoPool

EMBED_MODEL = "covey-demo-embed"
STORY: list[Any] = [{"role": "user", "content": "Tell me a story about a fox."}]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture(params=["first", "second"])
def agent(request: pytest.FixtureRequest, vllm_pool: DemoPool) -> AgentProcess:
    """Each agent in turn: any machine answers for all."""
    found: AgentProcess = getattr(vllm_pool, request.param)
    return found


def _url(agent: AgentProcess) -> str:
    return f"http://{agent.addresses.http}/v1"


@pytest.fixture
def client(agent: AgentProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=_url(agent), api_key="none", max_retries=0) as made:
        yield made


def _direct(pool: DemoPool, path: str, body: dict[str, Any], model: str = CHAT_MODEL) -> Any:
    """What vLLM itself answers."""
    socket = engine_sockets(pool.first)[model]
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=120) as direct:
        return direct.post(f"http://engine{path}", json=body).raise_for_status().json()


def _engine_tells(pool: DemoPool, path: str, body: dict[str, Any], text: str) -> int | None:
    """Asserts that the engine itself tells this text at temperature 0. Returns its number of tokens; None where the
    model was undecided and went another way."""
    undisturbed = engine_answer(
        engine_sockets(pool.first)[CHAT_MODEL], path, {"model": CHAT_MODEL, "temperature": 0, **body}
    )
    return len(undisturbed.leads) if undisturbed.told_by(text) else None


def test_openai_stream_is_unbuffered_and_the_same_text(vllm_pool: DemoPool, client: openai.OpenAI) -> None:
    arrivals: list[float] = []
    text = ""
    with client.chat.completions.create(model=CHAT_MODEL, messages=STORY, temperature=0, stream=True) as stream:
        for chunk in stream:
            arrivals.append(time.monotonic())
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    _engine_tells(vllm_pool, "/v1/chat/completions", {"messages": STORY}, text)
    assert len(arrivals) > 20
    # A buffering relay delivers everything at one moment; a loaded machine may coalesce, but not all of it.
    gaps = [after - before for before, after in itertools.pairwise(arrivals)]
    assert sum(gap > 0.0005 for gap in gaps) >= 5


def test_openai_completion_and_usage(vllm_pool: DemoPool, client: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": CHAT_MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
    answer = client.completions.create(**body)
    reference = _direct(vllm_pool, "/v1/completions", body)
    _engine_tells(vllm_pool, "/v1/completions", body, answer.choices[0].text)
    assert answer.usage is not None
    assert answer.usage.model_dump()["total_tokens"] == reference["usage"]["total_tokens"]


def test_openai_embeddings(vllm_pool: DemoPool, client: openai.OpenAI) -> None:
    texts = ["a fox in the wood", "a bird in the sky", "leases and ballots"]
    answer = client.embeddings.create(model=EMBED_MODEL, input=texts, encoding_format="float")
    reference = _direct(vllm_pool, "/v1/embeddings", {"model": EMBED_MODEL, "input": texts}, EMBED_MODEL)
    for mine, theirs in zip(answer.data, reference["data"], strict=True):
        assert mine.embedding == pytest.approx(theirs["embedding"], abs=1e-3)


def test_openai_tool_call(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in London?"}]
    answer = client.chat.completions.create(model=CHAT_MODEL, messages=messages, tools=WEATHER, temperature=0)
    call = (answer.choices[0].message.tool_calls or [])[0]
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "London"})


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert {m.id for m in client.models.list()} == {CHAT_MODEL, EMBED_MODEL}


def test_openai_errors_are_typed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=CHAT_MODEL):
        client.chat.completions.create(model="nobody", messages=STORY)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model=CHAT_MODEL, prompt="word " * 20_000)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=CHAT_MODEL, messages=STORY, temperature=-5)


def test_extra_parameters_reach_the_engine(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=CHAT_MODEL,
        prompt="One",
        max_tokens=5,
        temperature=0,
        extra_body={"min_tokens": 5, "ignore_eos": True, "return_token_ids": True},
    )
    assert len(answer.choices[0].model_dump()["token_ids"]) == 5


def test_langchain_streams(agent: AgentProcess) -> None:
    chat = ChatOpenAI(base_url=_url(agent), api_key="none", model=CHAT_MODEL, temperature=0)  # type: ignore[arg-type]
    pieces = [chunk.content for chunk in chat.stream("Hello!") if chunk.content]
    assert len(pieces) > 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="apt-get install curl")
def test_curl_streams(agent: AgentProcess) -> None:
    body = json.dumps({"model": CHAT_MODEL, "messages": STORY, "stream": True, "max_tokens": 30})
    done = subprocess.run(
        ["curl", "-sSN", "-i", f"{_url(agent)}/chat/completions", "-H", "content-type: application/json", "-d", body],
        capture_output=True,
        check=True,
        timeout=60,
    )
    head, _, events = done.stdout.decode().partition("\r\n\r\n")
    assert "200 OK" in head
    assert "x-request-id: req-" in head
    assert f"x-covey-model: {CHAT_MODEL}" in head
    assert events.rstrip().endswith("data: [DONE]")
    assert events.count("data: {") > 20


def test_grpc_by_reflection_streams_the_same_text(vllm_pool: DemoPool, agent: AgentProcess) -> None:
    """As grpcurl does it: no generated code, everything learned from the server."""
    with grpc.insecure_channel(agent.addresses.grpc) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("covey.v1.Inference").FindMethodByName("StreamChat")
        call = channel.unary_stream(
            "/covey.v1.Inference/StreamChat",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        request = {"model": CHAT_MODEL, "messages": STORY, "sampling": {"temperature": 0.0}}
        chunks = list(call(ParseDict(request, GetMessageClass(method.input_type)()), timeout=120))
    tokens = _engine_tells(vllm_pool, "/v1/chat/completions", {"messages": STORY}, "".join(c.content for c in chunks))
    assert len(chunks) > 20
    assert chunks[0].served.node_name
    assert chunks[-1].usage.completion_tokens == tokens or tokens is None


def test_a_client_that_leaves_frees_the_engine(vllm_pool: DemoPool, agent: AgentProcess) -> None:
    """The engine's own count of running requests falls, long before the answer would have ended."""
    body = {"model": CHAT_MODEL, "prompt": "x", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    with httpx.Client(timeout=60) as client, client.stream("POST", f"{_url(agent)}/completions", json=body) as answer:
        lines = answer.iter_lines()  # kept: dropping it would close the answer
        next(lines)
        node_id = answer.headers["x-covey-node-id"]
        server = next(a for a in vllm_pool.agents if a.node_id == node_id)
        wait_until(lambda: _running(server) > 0, "the engine runs the request")
    wait_until(lambda: _running(server) == 0, "the engine dropped the request", 5)


def _running(agent: AgentProcess) -> float:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(engine_sockets(agent)[CHAT_MODEL]))) as direct:
        lines = direct.get("http://engine/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))
