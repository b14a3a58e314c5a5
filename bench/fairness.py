"""A light user beside a flooding one: real agents on loopback with simulated engines of unequal speed, real HTTP.

Every agent is a `covey up` of its own. The light user sends one chat at a time and is measured alone; then another key
sends a thousand requests at once, in one round through a single gateway, in the next through all, while the light
user goes on. Its time to the first token is the figure: the engines' own delays are in it (a step of the batch, the
rest of one prompt of the flood), so it depends on the lengths of the prompts, which can be set.

    make bench-fairness    or    python -m bench.fairness --flood 1000 --flood-prompt 250 --light-prompt 1000
    Prints both users' times and, beside them, the worst that sharing one machine with a flood comes to at best: its
    prompts one at a time, each in steps of their own. Last `ratio fairness_p99_ttft VALUE`: the light user's p99 beside
    the flood / alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.polling import wait_until
from tests.support.real_agents import whole

from bench.support.where_time_went import spans
from covey.cli.agent_client import AgentClient
from covey.demo.agent_process import AgentProcess, call_covey
from covey.demo.ports import choose
from covey.errors import UserError
from covey_node.core.simulated import SimulatedSettings

MODEL = "shared"
SPEEDS = (1.0, 0.5, 0.25)
PREFILL_TOKENS_PER_S, DECODE_TOKENS_PER_S = 4000.0, 60.0
HEAVY, LIGHT = "heavy", "light"
TOKEN = "word"
"""One token of the simulated engine, and about four bytes with its space, as gateways expect of English."""

TARGET = 1.5
"""The light user's p99 beside a flood, against alone, at most."""

ANSWER_WITHIN_S = 600.0
READY_WITHIN_S = 60.0
WARM_UP = 24
DECODING = 20, 100
"""Simulated engines do not measure themselves when they start: requests with little to compute before the answer."""


@dataclass
class Seen:
    """What one user's requests came to. Seconds; a failure counts as no sample, and is printed."""

    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    begun_s: list[float] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        if not self.first_s:
            return f"{name:34}{'-':>6}   {len(self.failures)} failed"
        cells = "".join(f"{1000 * percentile(self.first_s, share):10.0f}" for share in (0.5, 0.9, 0.99, 1.0))
        return f"{name:34}{len(self.first_s):6}{cells}{len(self.failures):8}"


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


class Pool:
    """As many agents as speeds, each with a gateway that knows both keys."""

    def __init__(self, speeds: Sequence[float]) -> None:
        self.keys = {HEAVY: secrets.token_urlsafe(24), LIGHT: secrets.token_urlsafe(24)}
        self._root = Path(tempfile.mkdtemp(prefix="covey-f-"))
        secret = {"COVEY_KEYS": ",".join(f"{owner}={key}" for owner, key in self.keys.items())}
        addresses = choose(tuple((0, 0, 0, 0) for _ in speeds))
        self.agents = []
        for number, (speed, where) in enumerate(zip(speeds, addresses, strict=True)):
            peers = [word for other in addresses if other is not where for word in ("--peer", other.link)]
            engine = ["--engine", "simulated", "--model", MODEL]
            engine += ["--simulated-prefill-tokens-per-s", str(speed * PREFILL_TOKENS_PER_S)]
            engine += ["--simulated-decode-tokens-per-s", str(speed * DECODE_TOKENS_PER_S)]
            state_dir = self._root / f"m{number}"
            state_dir.mkdir(mode=0o700)
            self.agents.append(AgentProcess(f"m{number}", state_dir, where, (*engine, *peers), secret))

    def start(self) -> None:
        first, *others = self.agents
        call_covey(first.state_dir, "init", "--name", "bench")
        first.start()
        first.wait_answering()
        for agent in others:
            call_covey(agent.state_dir, "join", str(call_covey(first.state_dir, "invite")["token"]))
            agent.start()
        for agent in others:
            agent.wait_answering()
        wait_until(self._agreed, "a whole pool", READY_WITHIN_S)

    def _agreed(self) -> bool:
        node_ids = [agent.node_id for agent in self.agents]
        try:
            pools = [AgentClient.local(agent.state_dir).get("/covey/v1/pool") for agent in self.agents]
        except UserError:
            return False
        return all(whole(pool, node_ids) for pool in pools) and len({pool["leader_node_id"] for pool in pools}) == 1

    def ports(self) -> list[int]:
        return [int(agent.addresses.http.rpartition(":")[2]) for agent in self.agents]

    def close(self) -> None:
        for agent in self.agents:
            agent.ask_to_stop()
        for agent in self.agents:
            agent.kill()
        shutil.rmtree(self._root, ignore_errors=True)


def prompt(tokens: int) -> str:
    """Of so many words, no two prompts alike from the first one on: nothing of it is in any prefix cache."""
    return " ".join([f"{random.getrandbits(64):016x}", *[TOKEN] * (tokens - 1)])


async def ask(port: int, key: str, prompt_tokens: int, answer_tokens: int, stream: bool, seen: Seen) -> None:
    """One chat over a connection of its own."""
    asked = {"model": MODEL, "stream": stream, "max_tokens": answer_tokens}
    body = json.dumps({**asked, "messages": [{"role": "user", "content": prompt(prompt_tokens)}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
    begun_s = time.perf_counter()
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            status = int((await reader.readline()).split()[1])
            request_id = ""
            while b'"content":' not in (line := await reader.readline()) and line:
                if line.startswith(b"x-request-id: "):
                    request_id = line.split()[1].decode()
            first_s = time.perf_counter() - begun_s
            await reader.read()
            writer.close()
    except (OSError, TimeoutError, IndexError, ValueError) as error:
        seen.failures.append(type(error).__name__)
        return
    if status != 200 or not line:
        seen.failures.append(str(status))
        return
    seen.first_s.append(first_s)
    seen.ids.append(request_id)
    seen.begun_s.append(begun_s)
    seen.whole_s.append(time.perf_counter() - begun_s)


@dataclass(frozen=True, slots=True)
class Plan:
    """What both users send. Lengths in tokens."""

    flood: int
    flood_prompt: int
    flood_answer: int
    flood_streams: bool
    light_prompt: int
    light_answer: int
    light_pause_s: float
    alone: int
    explained: int


async def light(plan: Plan, pool: Pool, seen: Seen, until: asyncio.Event | None, count: int) -> None:
    """One after the other at the last machine's gateway; `until` it is set, at most `count`."""
    port, key = pool.ports()[-1], pool.keys[LIGHT]
    for _ in range(count):
        if until is not None and until.is_set():
            return
        await ask(port, key, plan.light_prompt, plan.light_answer, True, seen)
        await asyncio.sleep(plan.light_pause_s * random.uniform(0.5, 1.5))


def flood(plan: Plan, key: str, ports: Sequence[int]) -> Seen:
    """All at once, through these gateways in turn. In a process of its own: the light user's client is not to wait for
    the flood's."""

    async def all_of_it() -> None:
        asks = (
            ask(ports[i % len(ports)], key, plan.flood_prompt, plan.flood_answer, plan.flood_streams, seen)
            for i in range(plan.flood)
        )
        await asyncio.gather(*asks)

    seen = Seen()
    asyncio.run(all_of_it())
    return seen


async def beside(plan: Plan, pool: Pool, ports: Sequence[int], name: str) -> Seen:
    """One flood with the light user beside it; prints both."""
    found, over = Seen(), asyncio.Event()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(apart, time.perf_counter)  # until the process is there
        begun_s = time.perf_counter()
        heavily = loop.run_in_executor(apart, flood, plan, pool.keys[HEAVY], tuple(ports))
        heavily.add_done_callback(lambda _: over.set())
        await light(plan, pool, found, over, 100_000)
        heavy = await heavily
    seconds = time.perf_counter() - begun_s
    print(found.line(f"light beside {name}"))
    print(heavy.line(f"  the flood ({seconds:.0f} s, to its end)"), flush=True)
    explain_slowest(pool, found, begun_s, plan.explained)
    return found


def explain_slowest(pool: Pool, seen: Seen, since_s: float, count: int) -> None:
    """Where the time of the light user's slowest requests went, by its gateway's records."""
    gateway = AgentClient.local(pool.agents[-1].state_dir)
    for i in sorted(range(len(seen.ids)), key=seen.first_s.__getitem__, reverse=True)[:count]:
        try:
            where = spans(gateway.get(f"/covey/v1/explain/{seen.ids[i]}"), seen.first_s[i])
        except UserError as error:
            where = str(error)
        print(f"    {1000 * seen.first_s[i]:.0f} ms, {seen.begun_s[i] - since_s:.1f} s after its start: {where}")


def sharing_s(plan: Plan, places: int = 56) -> float:
    """The light user's longest time to the first token on the fastest machine if that computes the flood's prompts one
    after the other and runs so many of its streams: the step of one such prompt that has just begun (of a long one, the
    steps), then its own, each with a token of every stream."""
    engine = SimulatedSettings(PREFILL_TOKENS_PER_S, DECODE_TOKENS_PER_S)
    flood_steps = -(-plan.flood_prompt // engine.step_tokens)
    flood_s = engine.step_s(plan.flood_prompt, 0) + flood_steps * engine.step_s(0, places)
    return flood_s + engine.step_s(plan.light_prompt, places)


async def measure(plan: Plan, pool: Pool) -> tuple[Seen, Seen]:
    """(alone, beside)."""
    warming, ports, key = Seen(), pool.ports(), pool.keys[LIGHT]
    for prompt_tokens, answer_tokens in ((plan.light_prompt, plan.light_answer), DECODING):
        asks = [ask(ports[i % len(ports)], key, prompt_tokens, answer_tokens, True, warming) for i in range(WARM_UP)]
        await asyncio.gather(*asks)
    alone = Seen()
    print(f"{'time to the first token, ms':34}{'n':>6}{'p50':>10}{'p90':>10}{'p99':>10}{'worst':>10}{'failed':>8}")
    await light(plan, pool, alone, None, plan.alone // 2)
    together = await beside(plan, pool, pool.ports()[:1], "1 gateway's flood")
    await light(plan, pool, alone, None, plan.alone // 2)
    again = await beside(plan, pool, pool.ports(), f"{len(pool.agents)} gateways' flood")
    print(alone.line("light alone"))
    for each in ("first_s", "whole_s", "failures"):
        getattr(together, each).extend(getattr(again, each))
    return alone, together


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flood", type=int, default=1000, help="requests sent at once in each round")
    parser.add_argument("--flood-prompt", type=int, default=250)
    parser.add_argument("--flood-answer", type=int, default=100)
    parser.add_argument("--flood-streams", action="store_true", help="the flood's answers are streams, too")
    parser.add_argument("--light-prompt", type=int, default=1000)
    parser.add_argument("--light-answer", type=int, default=16)
    parser.add_argument("--light-pause-s", type=float, default=0.1, help="mean pause between the light user's requests")
    parser.add_argument("--alone", type=int, default=120, help="requests of the light user alone")
    parser.add_argument("--explained", type=int, default=3, help="slow requests of each round that are broken down")
    parser.add_argument("--speeds", default=",".join(map(str, SPEEDS)), help="one machine each")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    random.seed(args.seed)
    plan = Plan(
        args.flood, args.flood_prompt, args.flood_answer, args.flood_streams,
        args.light_prompt, args.light_answer, args.light_pause_s, args.alone, args.explained,
    )  # fmt: skip
    speeds = [float(word) for word in args.speeds.split(",")]
    where = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, seed {args.seed}"
    print(f"{len(speeds)} agents of speed {speeds} x {PREFILL_TOKENS_PER_S:.0f} prompt and {DECODE_TOKENS_PER_S:.0f}")
    print(f"answer tokens/s, 64 places each, on {where}")
    print(
        f"flood: {plan.flood} x {plan.flood_prompt} + {plan.flood_answer} tokens; light: {plan.light_prompt} + ", end=""
    )
    print(f"{plan.light_answer} tokens, one at a time", flush=True)
    pool = Pool(speeds)
    try:
        pool.start()
        alone, together = asyncio.run(measure(plan, pool))
    finally:
        pool.close()
    if alone.failures or together.failures:
        print(f"failures alone {alone.failures} beside {together.failures}")
        sys.exit(1)
    limit_s = TARGET * percentile(alone.first_s, 0.99)
    slower = sum(first_s > limit_s for first_s in together.first_s)
    print(f"{slower} of the light user's {len(together.first_s)} took longer than {TARGET} times its p99 alone")
    alone_s = percentile(alone.first_s, 0.99)
    print(f"on one machine shared with the flood at best {sharing_s(plan) / alone_s:.2f} times")
    print(f"ratio fairness_p50_ttft {statistics.median(together.first_s) / statistics.median(alone.first_s):.2f}")
    print(f"ratio fairness_p99_ttft {percentile(together.first_s, 0.99) / percentile(alone.first_s, 0.99):.2f}")


if __name__ == "__main__":
    main()
