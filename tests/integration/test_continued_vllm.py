"""Continued answers on real vLLM at temperature 0, cut at every point, after a kill -9 and after a freeze.

The rest equals what the undisturbed answer had, or parts from it at a token where the model itself was undecided: an
engine rounds the same numbers otherwise when it reads a beginning than when it writes it (bfloat16 keeps 8 bits).
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.lan.chaos.kinds import KINDS
from tests.lan.chaos.near_ties import unlikely
from tests.support.engines import engine_processes, engine_sockets
from tests.support.undecided import engine_answer

from covey.demo.agent_process import AgentProcess
from covey.demo.pool import CHAT_MODEL, DemoPool
from covey_gateway.core import token_count
from covey_gateway.core.continuation import ContinuedRequest, NothingLeft, continuation_of
from covey_gateway.core.emitted import read_emitted
from covey_gateway.core.splicing import Splicer, ending

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
STORY = "Tell me a story about a fox."
TOKENS_MAX = 120


def asked(path: str) -> dict[str, Any]:
    prompt = {"prompt": "Once upon a time"} if path == TEXT else {"messages": [{"role": "user", "content": STORY}]}
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": TOKENS_MAX, "temperature": 0}
    return {"model": CHAT_MODEL, **prompt, **options}


def ask_engine(socket: Path, path: str, body: bytes) -> bytes:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=120) as client:
        return (
            client.post(f"http://engine{path}", content=body, headers={"content-type": "application/json"})
            .raise_for_status()
            .content
        )


def told(stream: bytes) -> tuple[str, list[str], dict[str, int]]:
    """(text, finish reasons, tokens of prompt and answer)."""
    read = read_emitted(stream)
    assert not read.unfit, read.unfit
    usage = json.loads(stream.split(b"\n\n")[-3].removeprefix(b"data: "))["usage"]
    return read.text, [read.finish_reason], {k: usage[k] for k in ("prompt_tokens", "completion_tokens")}


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_every_cut_on_the_engine_itself(vllm_pool: DemoPool, path: str) -> None:
    sockets = [engine_sockets(agent)[CHAT_MODEL] for agent in vllm_pool.agents]
    body = json.dumps(asked(path)).encode()
    whole = ask_engine(sockets[0], path, body)
    expected = told(whole)
    undisturbed = engine_answer(sockets[0], path, asked(path))
    same = 0
    events = [event + b"\n\n" for event in whole.split(b"\n\n")[:-1]]
    assert len(events) > 30
    for cut in range(1, len(events)):
        first = b"".join(events[:cut])
        plan = continuation_of(path, body, read_emitted(first))
        if isinstance(plan, ContinuedRequest) and plan.to_count:
            counted = ask_engine(sockets[1], token_count.PATH, token_count.question(CHAT_MODEL, plan.to_count))
            plan = continuation_of(path, body, read_emitted(first), token_count.answer(200, counted))
        if isinstance(plan, NothingLeft):
            assert told(first + ending(plan, expected[2]["prompt_tokens"], {}))[:2] == expected[:2]
            same += 1
            continue
        assert isinstance(plan, ContinuedRequest)
        rest = Splicer(plan, {}).feed(ask_engine(sockets[1], path, plan.body))
        text, *others = told(first + rest)
        if undisturbed.told_by(text):
            same += 1
            assert others == list(expected[1:]), f"cut after {cut} events"
    print(f"{same} of {len(events) - 1} cuts gave the same text to the last character")
    assert same > 0.7 * len(events)


@pytest.mark.parametrize("kind", ["vllm-chat", "vllm-text"])
def test_the_chaos_labs_reader_finds_words_that_came_twice_or_are_missing(vllm_pool: DemoPool, kind: str) -> None:
    socket = engine_sockets(vllm_pool.first)[CHAT_MODEL]
    asks = KINDS[kind]
    whole = ask_engine(socket, asks.path, json.dumps(asks.body(CHAT_MODEL, 0)).encode())
    words = told(whole)[0].split(" ")
    at = len(words) // 2
    assert at > 10
    reads = lambda found: unlikely(socket, asks, 0, " ".join(found), 0)  # noqa: E731
    assert reads(words) == ""
    assert reads([*words[:at], *words[at - 3 :]]), "three words came twice"
    assert reads([*words[:at], *words[at + 3 :]]), "three words are missing"


class Reading:
    """A stream read event by event, so that the test can act in its middle."""

    def __init__(self, agent: AgentProcess, path: str) -> None:
        self.stream = agent.client.stream(path, asked(path))
        self.machine = self.stream.headers["x-covey-node"]
        self.text, self.flag, self.longest_pause_s = "", {}, 0.0
        self.usage: dict[str, int] = {}
        self._events = iter(self.stream)

    def read(self, count: int = 10**9) -> None:
        before_s = time.monotonic()
        for _, event in zip(range(count), self._events, strict=False):
            now_s = time.monotonic()
            self.longest_pause_s, before_s = max(self.longest_pause_s, now_s - before_s), now_s
            self.text += "".join(
                (choice.get("delta") or {}).get("content") or choice.get("text") or "" for choice in event["choices"]
            )
            self.flag = event.get("covey") or self.flag
            self.usage = event.get("usage") or self.usage


def engine_of(pool: DemoPool, machine: str) -> int:
    agent = next(each for each in pool.agents if each.name == machine)
    return next(pid for pid, words in engine_processes(agent).items() if CHAT_MODEL in words)


@pytest.mark.parametrize(("path", "number"), [(CHAT, signal.SIGKILL), (TEXT, signal.SIGSTOP)], ids=["killed", "wedged"])
def test_an_engine_that_ends_or_wedges_in_mid_answer(vllm_pool: DemoPool, path: str, number: signal.Signals) -> None:
    undisturbed = Reading(vllm_pool.first, path)
    undisturbed.read()
    disturbed = Reading(vllm_pool.second, path)
    disturbed.read(8)
    pid = engine_of(vllm_pool, disturbed.machine)
    os.kill(pid, number)
    try:
        disturbed.read()
    finally:
        if number is signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
        vllm_pool.wait_ready(lambda *_: None)
    print(f"{number.name} of the engine: longest pause {disturbed.longest_pause_s:.3f} s")
    of_the_engine = engine_answer(engine_sockets(vllm_pool.first)[CHAT_MODEL], path, asked(path))
    if of_the_engine.told_by(disturbed.text) and of_the_engine.told_by(undisturbed.text):
        assert disturbed.usage == undisturbed.usage
    others = {agent.name for agent in vllm_pool.agents} - {disturbed.machine}
    assert disturbed.flag == {"continued": 1, "machines": [disturbed.machine, *others]}
