"""How much faster a pool of unequal machines embeds many texts than its fastest machine alone, in one request each.

Real agents as processes on loopback, joined as machines would be, with simulated engines whose speeds are set: the
cutting, the leader, the links, the merging and every byte are real, only the model's work is a timer (on two cores real
engines cannot show it). Both answers are compared vector by vector. The most that could be is the sum of the speeds
over the fastest.

    make bench-sharding BENCH_ARGUMENTS="--inputs 10000 --speeds 1,1,.5,.5 --runs 3"
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from covey.demo.agent_process import POLL_INTERVAL_S, AgentProcess, call_covey
from covey.demo.ports import choose
from covey.errors import UserError

MODEL = "covey-demo-embed"
WORDS_AN_INPUT = 20
TOKENS_AN_INPUT = WORDS_AN_INPUT + 2
"""As the simulated engine counts."""

READY_WITHIN_S = 60.0
ANSWER_WITHIN_S = 600.0
NAMES = ("anna", "ben", "carl", "dora", "emil", "fay", "gus", "hal")


class Pool:
    """Agents with simulated engines of the given relative speeds; leave it by `close`."""

    def __init__(self, speeds: Sequence[float], fastest_tokens_per_s: float) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="covey-bench-"))
        self.agents: list[AgentProcess] = []
        addresses = choose(tuple((0, 0, 0, 0) for _ in speeds))
        for name, where, speed in zip(NAMES, addresses, speeds, strict=False):
            peers = [word for other in addresses if other is not where for word in ("--peer", other.link)]
            speed_flags = ("--simulated-prefill-tokens-per-s", str(fastest_tokens_per_s * speed))
            flags = ("--engine", "simulated", "--model", "demo-embed", *speed_flags, *peers)
            state_dir = self.root / name
            state_dir.mkdir(mode=0o700)
            self.agents.append(AgentProcess(name, state_dir, where, flags))

    @property
    def entry(self) -> AgentProcess:
        """The first and fastest."""
        return self.agents[0]

    def start_first(self) -> None:
        call_covey(self.entry.state_dir, "init", "--name", "bench")
        self.entry.start()
        self.entry.wait_answering()
        self.wait_ready(1)

    def start_others(self) -> None:
        for agent in self.agents[1:]:
            call_covey(agent.state_dir, "join", str(call_covey(self.entry.state_dir, "invite")["token"]))
            agent.start()
            agent.wait_answering()
        self.wait_ready(len(self.agents))

    def wait_ready(self, machines: int) -> None:
        """Until the entry sees so many machines ready, and a leader."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            for agent in self.agents[:machines]:
                agent.check_running()
            try:
                pool = self.entry.client.get("/covey/v1/pool")
            except UserError:
                pool = {"members": [], "leader_node_id": ""}
            loads = [load for m in pool["members"] if m["reachable"] and m["load"] for load in m["load"]["models"]]
            if pool["leader_node_id"] and sum(load["state"] == "ready" for load in loads) == machines:
                return
            time.sleep(POLL_INTERVAL_S)
        raise SystemExit("the pool did not become ready\n" + "\n".join(agent.last_lines() for agent in self.agents))

    def close(self) -> None:
        for agent in self.agents:
            agent.ask_to_stop()
        for agent in self.agents:
            agent.stop()
        shutil.rmtree(self.root)


def embed(agent: AgentProcess, body: bytes) -> tuple[float, dict[str, Any], str]:
    """(seconds to the last byte, the answer, its request id)."""
    host, port = agent.addresses.http.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_WITHIN_S)
    began_s = time.monotonic()
    connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
    response = connection.getresponse()
    raw = response.read()
    took_s = time.monotonic() - began_s
    connection.close()
    if response.status != 200:
        raise SystemExit(f"status {response.status}: {raw[:500]!r}")
    return took_s, json.loads(raw), response.headers["x-request-id"]


def inputs_of(count: int, salt: str) -> bytes:
    texts = [" ".join(f"w{salt}{i}x{word}" for word in range(WORDS_AN_INPUT)) for i in range(count)]
    return json.dumps({"model": MODEL, "input": texts}).encode()


def show_parts(pool: Pool, request_id: str) -> None:
    """Which machine took what."""
    found = pool.entry.client.get(f"/covey/v1/explain/{request_id}")
    names = {agent.node_id: agent.name for agent in pool.agents}
    for node_id, name in names.items():
        parts = [part for part in found["parts"] if part["node_id"] == node_id]
        inputs = sum(part["end"] - part["begin"] for part in parts)
        print(f"  {name:6}{len(parts):4} parts{inputs:7} inputs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--speeds", default="1,1,.5,.5", help="of the machines, fastest first")
    parser.add_argument("--alone-s", type=float, default=30.0, help="seconds that the fastest needs alone")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    speeds = [float(word) for word in args.speeds.split(",")]
    if not 2 <= len(speeds) <= len(NAMES) or max(speeds) != speeds[0] or min(speeds) <= 0:
        parser.error(f"--speeds takes 2 to {len(NAMES)} positive numbers, the largest first")
    print(f"{args.inputs} inputs of {TOKENS_AN_INPUT} tokens, speeds {args.speeds}, {args.runs} runs; "
          f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")  # fmt: skip
    pool = Pool(speeds, args.inputs * TOKENS_AN_INPUT / args.alone_s / speeds[0])
    try:
        alone_s, pooled_s = measure(pool, args.inputs, args.runs)
    finally:
        pool.close()
    speedup = statistics.median(alone_s) / statistics.median(pooled_s)
    most = sum(speeds) / speeds[0]
    print(f"at most {most:.2f}; worst pooled run {statistics.median(alone_s) / max(pooled_s):.2f}")
    print(f"ratio embeddings_speedup {speedup:.3f}")


def measure(pool: Pool, inputs: int, runs: int) -> tuple[list[float], list[float]]:
    """Seconds of each run alone and over the pool."""
    pool.start_first()
    bodies = [inputs_of(inputs, chr(ord("a") + run)) for run in range(runs)]
    alone = [embed(pool.entry, body) for body in bodies]
    print(f"fastest alone: {', '.join(f'{took_s:.2f}' for took_s, *_ in alone)} s", flush=True)
    pool.start_others()
    for agent in pool.agents:
        embed(agent, inputs_of(200, "warm"))
    pooled_s = []
    for body, (_, expected, _) in zip(bodies, alone, strict=True):
        took_s, answer, request_id = embed(pool.entry, body)
        if answer["data"] != expected["data"] or answer["usage"] != expected["usage"]:
            raise SystemExit("the pool's answer differs from the one machine's")
        pooled_s.append(took_s)
        print(f"pool: {took_s:.2f} s, the same {len(answer['data'])} vectors in the same order", flush=True)
        show_parts(pool, request_id)
    return [took_s for took_s, *_ in alone], pooled_s


if __name__ == "__main__":
    main()
