"""Streams through real agents whose machine dies, freezes, drains or stops: the client reads one undisturbed answer."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL, AgentPool

from covey.cli.agent_client import AgentClient
from covey.demo.agent_process import AgentProcess, call_covey

STREAMS = 16
TOKENS = 150
SPEED = ("--simulated-decode-tokens-per-s", "50")
NAMES = ("anna", "ben", "carl", "dora")

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def pool() -> Iterator[AgentPool]:
    made = AgentPool(NAMES, SPEED)
    try:
        made.start()
        yield made
    finally:
        for agent in made.agents.values():
            if agent.running:
                os.kill(agent.pid, signal.SIGCONT)
        made.close()


@dataclass
class Heard:
    """One client's stream and when its pieces came."""

    machine: str = ""
    text: str = ""
    at_s: list[float] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    flag: dict[str, Any] = field(default_factory=dict)

    @property
    def longest_pause_s(self) -> float:
        return max((b - a for a, b in zip(self.at_s, self.at_s[1:], strict=False)), default=0.0)


class Clients:
    """STREAMS clients of one agent, each with a prompt of its own, reading at once."""

    def __init__(self, client: AgentClient, path: str, count: int = STREAMS) -> None:
        self.heard = [Heard() for _ in range(count)]
        self._threads = concurrent.futures.ThreadPoolExecutor(count)
        self._client, self._path = client, path
        self._running = [self._threads.submit(self._read, number) for number in range(count)]

    def _read(self, number: int) -> None:
        heard = self.heard[number]
        body = request(self._path, f"question {number}")
        stream = self._client.stream(self._path, body)
        heard.machine = stream.headers["x-covey-node"]
        for event in stream:
            for choice in event["choices"]:
                heard.text += (choice.get("delta") or {}).get("content") or choice.get("text") or ""
                heard.finishes += [choice["finish_reason"]] if choice.get("finish_reason") else []
            heard.at_s.append(time.monotonic())
            heard.usage = event.get("usage") or heard.usage
            heard.flag = event.get("covey") or heard.flag

    def all_begun(self, events: int = 10) -> None:
        wait_until(lambda: all(len(h.at_s) >= events for h in self.heard), "every stream has begun")

    def result(self) -> list[Heard]:
        for each in self._running:
            each.result(timeout=90)
        self._threads.shutdown()
        return self.heard

    def machines(self) -> set[str]:
        return {h.machine for h in self.heard}


def request(path: str, question: str) -> dict[str, Any]:
    asked = {"prompt": question} if path == TEXT else {"messages": [{"role": "user", "content": question}]}
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": TOKENS}
    return {"model": SHARED_MODEL, **asked, **options}


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def undisturbed(client: AgentClient, path: str) -> list[Heard]:
    return Clients(client, path).result()


def check(found: list[Heard], expected: list[Heard], pause_s: float) -> None:
    """Equal texts, each with one end, the whole usage and a bounded pause."""
    assert [h.text for h in found] == [h.text for h in expected]
    assert all(h.finishes == ["length"] for h in found)
    assert [h.usage for h in found] == [h.usage for h in expected]
    pauses = sorted(h.longest_pause_s for h in found if h.flag)
    median_s, worst_s = pauses[len(pauses) // 2], pauses[-1]
    print(f"continued {len(pauses)} of {len(found)}; pauses: median {median_s:.3f} s, worst {worst_s:.3f} s")
    assert worst_s < pause_s


def entry_and_victim(pool: AgentPool, clients: Clients, leading: bool) -> AgentProcess:
    """A machine that serves some of the streams: the leader, or one that is not."""
    leader = pool.leader()
    serving = [pool.agents[name] for name in sorted(clients.machines()) if name != "anna"]
    return next(agent for agent in serving if (agent is leader) is leading)


def other_leader(pool: AgentPool) -> None:
    """Make sure that the entry machine does not lead: it is the one that no test may kill."""
    if pool.leader() is pool.agents["anna"]:
        pool.agents["anna"].stop()
        pool.wait_whole(NAMES[1:])
        pool.agents["anna"].start()
        pool.agents["anna"].wait_answering()
        pool.wait_whole()


def kill(agent: AgentProcess) -> None:
    agent.kill()


def freeze(agent: AgentProcess) -> None:
    os.kill(agent.pid, signal.SIGSTOP)


@pytest.mark.parametrize(("end", "pause_s"), [(kill, 2.0), (freeze, 5.0)], ids=["killed", "frozen"])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_the_serving_machine_is_lost(
    pool: AgentPool, path: str, end: Callable[[AgentProcess], None], pause_s: float
) -> None:
    other_leader(pool)
    expected = undisturbed(pool.agents["anna"].client, path)
    clients = Clients(pool.agents["anna"].client, path)
    clients.all_begun()
    victim = entry_and_victim(pool, clients, leading=False)
    end(victim)
    found = clients.result()
    check(found, expected, pause_s)
    flagged = [h for h in found if h.machine == victim.name]
    assert flagged
    assert all(h.flag["continued"] == 1 and h.flag["machines"][0] == victim.name for h in flagged)


def test_the_serving_machine_and_the_leader_die_at_the_same_moment_and_then_a_second_one(pool: AgentPool) -> None:
    other_leader(pool)
    expected = undisturbed(pool.agents["anna"].client, CHAT)
    clients = Clients(pool.agents["anna"].client, CHAT)
    clients.all_begun()
    leader = pool.leader()
    victim = entry_and_victim(pool, clients, leading=False)
    killers = [threading.Thread(target=agent.kill) for agent in (leader, victim)]
    for each in killers:
        each.start()
    for each in killers:
        each.join()
    lengths = [len(h.at_s) for h in clients.heard]
    wait_until(lambda: all(len(h.at_s) > n + 10 for h, n in zip(clients.heard, lengths, strict=True)), "all go on")
    third = next(pool.agents[n] for n in NAMES[1:] if pool.agents[n] not in (leader, victim))
    third.kill()
    found = clients.result()
    check(found, expected, 3.0)
    assert max(h.flag.get("continued", 0) for h in found) >= 1


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_what_outlasts_the_grace_is_moved(pool: AgentPool, how: str) -> None:
    other_leader(pool)
    expected = undisturbed(pool.agents["anna"].client, CHAT)
    clients = Clients(pool.agents["anna"].client, CHAT)
    clients.all_begun()
    victim = entry_and_victim(pool, clients, leading=False)
    if how == "drain":
        call_covey(victim.state_dir, "drain", "--grace", "0.3")
    else:
        call_covey(victim.state_dir, "down", "--grace", "0.3")
    check(clients.result(), expected, 2.0)
    if how == "stop":
        assert victim.stop() == 0
