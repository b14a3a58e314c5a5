"""Two real vLLM engines of unequal speed behind real agents: covey's policy against round robin and shortest queue.

    make bench-engines [BENCH_ARGUMENTS="--rounds 2 --requests 120 --share .35"]

Each policy is the setting `policy` of the same two agents, started anew for each turn; policies take turns, each with
the same requests. One engine is slowed by stopping its processes for a share of every 40 ms: no root needed, and what a
game beside it does. Each agent with its engine keeps to one core. Prints its table, and last lines `ratio NAME VALUE`:
covey's figure / the other's, median over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from covey.demo import ports
from covey.demo.agent_process import AgentProcess, call_covey
from covey.demo.pool import CHAT_MODEL, descendants
from covey.errors import UserError

OURS, OTHERS = "predicted", ("round-robin", "jsq")
READY_WITHIN_S = 600.0
PERIOD_S = 0.04
WARM_UP = 24
PROMPT_WORDS = (20, 600)
OUTPUT_TOKENS = (8, 48)


class Sent(NamedTuple):
    """One request: when, how long a prompt, how many tokens."""

    at_s: float
    words: int
    output_tokens: int


class Served(NamedTuple):
    first_token_s: float
    completion_s: float
    node: str


class Throttle:
    """Stops processes for a share of the time. Leaves them running when it ends."""

    def __init__(self, pids: Sequence[int], share: float) -> None:
        self._pids, self._share = pids, share
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Throttle:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._signal(signal.SIGSTOP)
                time.sleep(PERIOD_S * (1 - self._share))
                self._signal(signal.SIGCONT)
                time.sleep(PERIOD_S * self._share)
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@contextlib.contextmanager
def pool(policy: str) -> Iterator[tuple[AgentProcess, AgentProcess]]:
    """Two agents with one engine each, ready; gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="covey-bench-"))
    where = ports.choose(((0, 0, 0, 0), (0, 0, 0, 0)))
    flags = ("--engine", "vllm", "--model", "demo", "--kv-cache-bytes", "64M", "--policy", policy)
    fast = AgentProcess("fast", root / "a", where[0], flags)
    slow = AgentProcess("slow", root / "b", where[1], (*flags, "--peer", where[0].link))
    cores = sorted(os.sched_getaffinity(0))
    try:
        for number, agent in enumerate((fast, slow)):
            agent.state_dir.mkdir(mode=0o700)
            if agent is fast:
                call_covey(fast.state_dir, "init", "--name", "bench")
            else:
                call_covey(slow.state_dir, "join", str(call_covey(fast.state_dir, "invite")["token"]))
            agent.start()
            os.sched_setaffinity(agent.pid, {cores[number % len(cores)]})
            agent.wait_answering()
        deadline = time.monotonic() + READY_WITHIN_S
        while not (_ready(fast) and _ready(slow)):
            if time.monotonic() > deadline:
                raise TimeoutError("the engines did not become ready\n" + slow.last_lines())
            time.sleep(0.5)
        yield fast, slow
    finally:
        for agent in (fast, slow):
            agent.ask_to_stop()
        for agent in (fast, slow):
            agent.stop()
        shutil.rmtree(root)


def _ready(agent: AgentProcess) -> bool:
    agent.check_running()
    try:
        found = agent.client.get("/covey/v1/pool")
    except UserError:
        return False
    loads = [load for m in found["members"] if m["reachable"] and m["load"] for load in m["load"]["models"]]
    return bool(found["leader_node_id"]) and [load["state"] for load in loads] == ["ready", "ready"]


def engine_pids(agent: AgentProcess) -> list[int]:
    """Everything the agent started: its engine."""
    return sorted(descendants(agent.pid))


def workload(count: int, gap_s: float, seed: int) -> list[Sent]:
    """Poisson arrivals; many short prompts, some long."""
    draw, at_s, found = random.Random(seed), 0.0, []
    low, high = PROMPT_WORDS
    for _ in range(count):
        at_s += draw.expovariate(1 / gap_s)
        words = round(math.exp(draw.uniform(math.log(low), math.log(high))))
        found.append(Sent(at_s, words, draw.randint(*OUTPUT_TOKENS)))
    return found


async def serve(client: httpx.AsyncClient, request: Sent, number: int, began_s: float) -> Served:
    await asyncio.sleep(max(0.0, began_s + request.at_s - time.perf_counter()))
    draw = random.Random(number)
    words = " ".join(f"w{draw.randrange(1000)}" for _ in range(request.words // 2))
    body = {
        "model": CHAT_MODEL,
        "messages": [{"role": "user", "content": words}],
        "max_tokens": request.output_tokens,
        "ignore_eos": True,
        "stream": True,
    }
    sent_s, first_s = time.perf_counter(), 0.0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            choices = json.loads(line[6:])["choices"]
            if not first_s and any(choice["delta"].get("content") for choice in choices):
                first_s = time.perf_counter()
    ended_s = time.perf_counter()
    return Served((first_s or ended_s) - sent_s, ended_s - sent_s, answer.headers["x-covey-node"])


async def drive(address: str, requests: Sequence[Sent], seed: int) -> list[Served]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=300, limits=limits) as client:
        began_s = time.perf_counter()
        jobs = [serve(client, each, 1000 * seed + n, began_s) for n, each in enumerate(requests)]
        return list(await asyncio.gather(*jobs))


def measure(policy: str, count: int, gap_s: float, share: float, seed: int) -> list[Served]:
    """One turn of one policy."""
    with pool(policy) as (fast, slow), Throttle(engine_pids(slow), share):
        asyncio.run(drive(fast.addresses.http, workload(WARM_UP, gap_s, 999), 999))
        return asyncio.run(drive(fast.addresses.http, workload(count, gap_s, seed), seed))


def figures(served: Sequence[Served]) -> tuple[float, float, float]:
    """Mean and 99th percentile of the time to the first token, mean time to the last; seconds."""
    first = sorted(each.first_token_s for each in served)
    p99 = first[math.ceil(0.99 * len(first)) - 1]
    return statistics.fmean(first), p99, statistics.fmean(each.completion_s for each in served)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.engines", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=120, help="of each policy in each round")
    parser.add_argument("--gap", type=float, default=0.25, help="mean seconds between two requests")
    parser.add_argument("--share", type=float, default=0.35, help="of the time that the slowed engine runs")
    parser.add_argument("--policies", default=",".join((OURS, *OTHERS)))
    chosen = parser.parse_args(arguments)
    policies = chosen.policies.split(",")
    found: dict[str, list[tuple[float, float, float]]] = {policy: [] for policy in policies}
    print(f"vLLM with {CHAT_MODEL}, two engines, one running {chosen.share:.0%} of the time; {os.cpu_count()} CPUs")
    print(f"{'round':<6} {'policy':<14} {'mean TTFT s':>12} {'p99 TTFT s':>12} {'mean completion s':>18}  served by")
    for number in range(chosen.rounds):
        # Each round begins with another policy: none is always the first on a warm machine.
        for policy in policies[number % len(policies) :] + policies[: number % len(policies)]:
            served = measure(policy, chosen.requests, chosen.gap, chosen.share, seed=number)
            assert len(served) == chosen.requests, "every request counts"
            row = figures(served)
            found[policy].append(row)
            nodes = dict(sorted(Counter(each.node for each in served).items()))
            print(f"{number:<6} {policy:<14} {row[0]:>12.3f} {row[1]:>12.3f} {row[2]:>18.3f}  {nodes}", flush=True)
    print()
    for other in policies:
        for index, name in enumerate(("mean_ttft", "p99_ttft", "mean_completion")):
            if other != OURS and OURS in found:
                pairs = zip(found[OURS], found[other], strict=True)
                ratio = statistics.median(ours[index] / theirs[index] for ours, theirs in pairs)
                print(f"ratio engines_{name}_vs_{other.replace('-', '_')} {ratio:.3f}")


if __name__ == "__main__":
    main()
