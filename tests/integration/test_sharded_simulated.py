"""Cut requests over real agents with simulated engines: HTTP, gRPC, explain, and a machine killed in the middle."""

from __future__ import annotations

import concurrent.futures
import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL, AgentPool

from covey.demo.agent_process import AgentProcess, call_covey
from covey_mesh.wire.v1 import inference_pb2 as wire
from covey_mesh.wire.v1 import inference_pb2_grpc
from covey_node.core import simulated_openai as openai

EMBED_MODEL = "covey-demo-embed"
NAMES = ("anna", "ben", "carl")
INPUTS = [f"input {i} has seven words in it" for i in range(600)]
BODY = {"model": EMBED_MODEL, "input": INPUTS}


@pytest.fixture(scope="module")
def pool() -> Iterator[AgentPool]:
    made = AgentPool(NAMES, ("--model", "demo-embed", "--simulated-prefill-tokens-per-s", "4000"))
    try:
        made.start()
        yield made
    finally:
        made.close()


def ask(agent: AgentProcess, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"http://{agent.addresses.http}{path}", json=body, timeout=60).raise_for_status()


def expected(inputs: list[str]) -> list[list[float]]:
    call = openai.parse("/v1/embeddings", json.dumps({"input": inputs}).encode(), EMBED_MODEL, True, 4096)
    return [row["embedding"] for row in json.loads(openai.whole(call, "", 0, 0))["data"]]


def test_embeddings_over_http(pool: AgentPool) -> None:
    response = ask(pool.agents["ben"], "/v1/embeddings", BODY)
    assert [row["embedding"] for row in response.json()["data"]] == expected(INPUTS)
    assert set(response.headers["x-covey-node"].split(", ")) == set(NAMES)
    parts = int(response.headers["x-covey-parts"])
    explained = call_covey(pool.agents["carl"].state_dir, "explain", response.headers["x-request-id"])
    assert [unit for part in explained["parts"] for unit in range(part["begin"], part["end"])] == list(range(600))
    assert len(explained["parts"]) == parts
    one = call_covey(pool.agents["carl"].state_dir, "explain", explained["parts"][0]["request_id"])
    assert one["part_of"] == response.headers["x-request-id"]
    assert one["decisions"][-1]["chosen_node_id"] == explained["parts"][0]["node_id"]


def test_embeddings_over_grpc(pool: AgentPool) -> None:
    with grpc.insecure_channel(pool.agents["anna"].addresses.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        answer = stub.Embed(wire.EmbedRequest(model=EMBED_MODEL, inputs=INPUTS), timeout=60)
    found = [pytest.approx(list(row.values), abs=1e-6) for row in answer.embeddings]
    assert found == expected(INPUTS)
    assert answer.served.parts > 3
    assert set(answer.served.machines) == set(NAMES)


def test_choices_over_grpc(pool: AgentPool) -> None:
    def request(n: int) -> wire.ChatRequest:
        message = wire.ChatMessage(role="user", content="Hello")
        return wire.ChatRequest(
            model=SHARED_MODEL, messages=[message], sampling=wire.Sampling(n=n, max_tokens=5, seed=3)
        )

    with grpc.insecure_channel(pool.agents["anna"].addresses.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        whole = stub.Chat(request(4), timeout=60)
        chunks = list(stub.StreamChat(request(4), timeout=60))
    texts = ["".join(chunk.content for chunk in chunks if chunk.index == index) for index in range(4)]
    assert texts == [choice.content for choice in whole.choices]
    assert len(set(texts)) == 4
    assert (whole.served.parts, chunks[-1].served.parts) == (4, 4)
    assert sorted(chunks[-1].served.machines) == sorted(set(chunks[-1].served.machines))
    assert chunks[-1].usage.completion_tokens == 20


def test_a_machine_killed_in_the_middle_costs_no_input(pool: AgentPool) -> None:
    inputs = [f"text {i} of a longer request" for i in range(6000)]
    anna = pool.agents["anna"]
    victim = next(agent for agent in pool.agents.values() if agent is not anna)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, anna, "/v1/embeddings", {"model": EMBED_MODEL, "input": inputs})
        wait_until(lambda: busy(anna, victim), "the machine works on a part")
        time.sleep(0.2)
        victim.kill()
        response = asked.result()
    assert [row["embedding"] for row in response.json()["data"]] == expected(inputs)
    assert response.json()["usage"]["prompt_tokens"] == 8 * 6000
    assert int(response.headers["x-covey-attempts"]) > int(response.headers["x-covey-parts"])
    victim.start()
    victim.wait_answering()
    pool.wait_whole()


def busy(viewer: AgentProcess, agent: AgentProcess) -> bool:
    members = viewer.client.get("/covey/v1/pool")["members"]
    loads = [m["load"]["models"] for m in members if m["facts"]["node_id"] == agent.node_id]
    return any(load["model"] == EMBED_MODEL and load["running_requests"] for load in loads[0])
