"""Requests cut over two machines with real vLLM: the answer that one engine gives when it is asked for everything.

Vectors are compared with a tolerance: an engine rounds otherwise in another batch (bfloat16 keeps 8 bits).
"""

from __future__ import annotations

import base64
import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.engines import engine_sockets
from tests.support.polling import wait_until

from covey.demo import ports
from covey.demo.agent_process import AgentProcess, call_covey
from covey.demo.pool import CHAT_MODEL, DemoPool
from covey.errors import UserError

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

EMBED_MODEL = "covey-demo-embed"
INPUTS = [f"A sentence about {noun} number {i}." for i in range(400) for noun in ("a fox", "the sea", "bread")]
READY_WITHIN_S = 300.0


@pytest.fixture(scope="module")
def embedders() -> Iterator[tuple[AgentProcess, AgentProcess]]:
    """Two agents with the embedding model each."""
    root = Path(tempfile.mkdtemp(prefix="covey-t-"))
    where = ports.choose(((0, 0, 0, 0), (0, 0, 0, 0)))
    flags = ("--engine", "vllm", "--model", "demo-embed", "--shard-inputs-min", "8")
    first = AgentProcess("anna", root / "a", where[0], flags)
    second = AgentProcess("ben", root / "b", where[1], (*flags, "--peer", where[0].link))
    try:
        for agent in (first, second):
            agent.state_dir.mkdir(mode=0o700)
        call_covey(first.state_dir, "init", "--name", "test")
        first.start()
        first.wait_answering()
        call_covey(second.state_dir, "join", str(call_covey(first.state_dir, "invite")["token"]))
        second.start()
        second.wait_answering()
        wait_until(lambda: both_ready(first) and both_ready(second), "two embedders are ready", READY_WITHIN_S)
        yield first, second
    finally:
        for agent in (first, second):
            agent.stop()
        shutil.rmtree(root)


def both_ready(agent: AgentProcess) -> bool:
    agent.check_running()
    try:
        pool = agent.client.get("/covey/v1/pool")
    except UserError:
        return False
    members = [m for m in pool["members"] if m["reachable"] and m["load"]]
    loads = [load for m in members for load in m["load"]["models"]]
    return bool(pool["leader_node_id"]) and [load["state"] for load in loads] == ["ready", "ready"]


def ask(agent: AgentProcess, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"http://{agent.addresses.http}{path}", json=body, timeout=300).raise_for_status()


def ask_engine(socket: Path, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=300) as client:
        found: dict[str, Any] = client.post(f"http://engine{path}", json=body).raise_for_status().json()
        return found


def vectors(answer: dict[str, Any]) -> list[tuple[float, ...]]:
    assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
    given = [row["embedding"] for row in answer["data"]]
    return [
        struct.unpack(f"<{len(raw) // 4}f", raw)
        if isinstance(each, str) and (raw := base64.b64decode(each))
        else tuple(each)
        for each in given
    ]


def cosine(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Of normed vectors."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_vectors_are_those_of_one_engine_in_the_same_order(embedders: tuple[AgentProcess, AgentProcess]) -> None:
    """Both machines take part at first; two engines on a few cores slow each other down, and may be believed slow."""
    served_by: set[str] = set()
    for encoding in ("float", "base64"):
        body = {"model": EMBED_MODEL, "input": INPUTS, "encoding_format": encoding}
        response = ask(embedders[1], "/v1/embeddings", body)
        expected = ask_engine(engine_sockets(embedders[0])[EMBED_MODEL], "/v1/embeddings", body)
        answer = response.json()
        assert int(response.headers["x-covey-parts"]) >= 2
        served_by.update(response.headers["x-covey-node"].split(", "))
        assert answer["usage"] == expected["usage"]
        assert answer.keys() == expected.keys()
        same_vectors(vectors(answer), vectors(expected))
    assert served_by == {"anna", "ben"}


def same_vectors(found: list[tuple[float, ...]], wanted: list[tuple[float, ...]]) -> None:
    assert len(found) == len(INPUTS)
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert cosine(one, other) > 0.999, f"input {number}"
        assert max(range(len(wanted)), key=lambda i, one=one: cosine(one, wanted[i])) == number  # type: ignore[misc]


def test_an_input_too_long_is_named(embedders: tuple[AgentProcess, AgentProcess]) -> None:
    inputs = [*INPUTS[:50], "word " * 3000, *INPUTS[50:]]
    response = httpx.post(
        f"http://{embedders[0].addresses.http}/v1/embeddings",
        json={"model": EMBED_MODEL, "input": inputs},
        timeout=300,
    )
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("Inputs ")


@pytest.mark.parametrize("stream", [False, True])
def test_choices_of_several_prompts_are_those_of_one_engine(vllm_pool: DemoPool, stream: bool) -> None:
    path = "/v1/completions"
    prompts = ["Once upon a time", "The fox", "def add(a, b):"]
    body = {"model": CHAT_MODEL, "prompt": prompts, "n": 2, "seed": 5, "temperature": 0.3, "max_tokens": 12}
    expected = ask_engine(engine_sockets(vllm_pool.first)[CHAT_MODEL], path, body)
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    response = ask(vllm_pool.second, path, body | more)
    texts, usage = read_stream(response.text) if stream else read_whole(response.json())
    assert response.headers["x-covey-parts"] == "6"
    wanted = [choice["text"] for choice in expected["choices"]]
    assert sorted(texts) == list(range(6))
    assert usage["prompt_tokens"] == expected["usage"]["prompt_tokens"]
    same = sum(texts[index] == text for index, text in enumerate(wanted))
    print(f"{same} of 6 texts are the same to the last character")
    # A token that was as good as equally likely may fall otherwise, in another batch and on another machine.
    assert same >= 4


def read_whole(answer: dict[str, Any]) -> tuple[dict[int, str], dict[str, int]]:
    return {choice["index"]: choice["text"] for choice in answer["choices"]}, answer["usage"]


def read_stream(text: str) -> tuple[dict[int, str], dict[str, int]]:
    texts: dict[int, str] = {}
    usage: dict[str, int] = {}
    events = [event.removeprefix("data: ") for event in text.split("\n\n")[:-1]]
    assert events[-1] == "[DONE]"
    for event in map(json.loads, events[:-1]):
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts, usage
