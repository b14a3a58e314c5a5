"""The engine model against a real `vllm serve` on this machine's CPU, with the demo model.

First single prompts and batches, to fit the model's times to that engine; then a short trace, the same requests by
both. The trace's lengths are cut to what a model of 2,048 tokens holds. One engine, asked over its Unix socket.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx

from bench.calibration.comparing import Times, compare, ratio_lines, show
from bench.calibration.fitting import DecodeTime, PromptTime, fit
from bench.routing.engine import Engine, EngineProfile, Sequence_
from bench.routing.trace import BLOCK_TOKENS, Request, read_trace, sample
from covey.models import DEMO_FOLDER
from covey_mesh.core.facts import Task
from covey_node.core.settings import ModelSpec
from covey_node.core.vllm_command import Host, arguments, environment

MODEL = "covey-demo-chat"
VOCABULARY = 2048
CONTEXT_TOKENS = 2048
READY_WITHIN_S = 300.0
REPEATS = 5
PROMPTS = (16, 128, 256, 512, 1024, 1500, 1900)
BATCHES = ((1, 64), (4, 64), (8, 64), (16, 64), (1, 1800), (8, 1500))
"""(streams at once, prompt tokens of each)."""
OUTPUT = 64

PROMPT_SHARE, OUTPUT_SHARE = 1 / 16, 1 / 8
"""Of the trace's lengths."""
BASE = EngineProfile(chunk_tokens=2048, streams_max=256, kv_tokens=60_000, context_tokens=CONTEXT_TOKENS)


class Server:
    """`vllm serve` with covey's own command line. Use as a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="covey-bench-")
        self.socket = Path(self._folder.name) / "engine"
        host = Host("cpu", 1, 4 * 1024**3)
        spec = ModelSpec(name=MODEL, path=str(DEMO_FOLDER / MODEL), task=Task.GENERATE)
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", *arguments(spec, (), str(self.socket), host)]
        self._log = (Path(self._folder.name) / "log").open("w")
        self._process = subprocess.Popen(
            command, env=environment(os.environ, host, os.getpid(), "bench"), stdout=self._log, stderr=self._log
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), limits=httpx.Limits(max_connections=None))
        return httpx.AsyncClient(base_url="http://engine", timeout=300, transport=transport)

    def last_words(self) -> str:
        return Path(self._log.name).read_text()[-2000:]

    async def ready(self, client: httpx.AsyncClient) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if (await client.get("/health")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.5)
        raise RuntimeError(f"vllm serve did not become ready\n{self.last_words()}")


async def ask(client: httpx.AsyncClient, tokens: Sequence[int], output: int, wait_s: float = 0.0) -> Times:
    await asyncio.sleep(wait_s)
    body = {"model": MODEL, "prompt": list(tokens), "max_tokens": output, "ignore_eos": True, "stream": True}
    began_s, first_s = time.perf_counter(), 0.0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and not first_s:
                first_s = time.perf_counter()
    assert first_s, "an answer has tokens"
    return Times(first_s - began_s, time.perf_counter() - began_s)


def fresh(draw: random.Random, count: int) -> list[int]:
    """A prompt that no cache holds."""
    return [draw.randrange(10, VOCABULARY) for _ in range(count)]


async def fitted(client: httpx.AsyncClient, draw: random.Random) -> EngineProfile:
    for tokens in (16, 1900, 256):
        await ask(client, fresh(draw, tokens), 8)
    prompts = []
    for tokens in PROMPTS:
        times = [(await ask(client, fresh(draw, tokens), 1)).first_token_s for _ in range(REPEATS)]
        prompts.append(PromptTime(tokens, statistics.median(times)))
    decodes = []
    for streams, tokens in BATCHES:
        seconds = []
        for _ in range(3):
            wave = await asyncio.gather(*(ask(client, fresh(draw, tokens), OUTPUT) for _ in range(streams)))
            last = max(wave, key=lambda each: each.first_token_s)
            seconds.append((last.completion_s - last.first_token_s) / (OUTPUT - 1))
        decodes.append(DecodeTime(streams, tokens + OUTPUT / 2, statistics.median(seconds)))
    return fit(prompts, decodes, BASE)


def cut(request: Request) -> Request:
    """To what the model's context holds. Blocks are gone with the lengths: every prompt is a new one."""
    prompt = max(8, min(CONTEXT_TOKENS - 256, round(request.prompt_tokens * PROMPT_SHARE)))
    return replace(
        request,
        prompt_tokens=prompt,
        output_tokens=max(2, min(192, round(request.output_tokens * OUTPUT_SHARE))),
        blocks=(),
    )


def model(requests: Sequence[Request], profile: EngineProfile) -> list[Times]:
    """One engine alone, everything sent to it at once."""
    engine, arrivals = Engine(1.0, profile, BLOCK_TOKENS), list(requests)
    first_s, done_s = dict[int, float](), dict[int, float]()
    while len(done_s) < len(requests):
        due_s = engine.step_ends_at_s
        if arrivals and (due_s is None or arrivals[0].arrival_s <= due_s):
            request = arrivals.pop(0)
            sequence = Sequence_(request.number, request.prompt_tokens, request.output_tokens, ())
            engine.add(sequence, request.arrival_s)
            continue
        assert due_s is not None, "an engine with requests works"
        first, done = engine.advance(due_s)
        first_s.update((each.owner, due_s) for each in first)  # type: ignore[misc]
        done_s.update((each.owner, due_s) for each in done)  # type: ignore[misc]
    return [Times(first_s[r.number] - r.arrival_s, done_s[r.number] - r.arrival_s) for r in requests]


async def measure(
    server: Server, trace: Path, load: float, count: int
) -> tuple[EngineProfile, list[Request], list[Times]]:
    draw = random.Random(1)
    async with server.client() as client:
        print("waiting for vllm serve ...", flush=True)
        await server.ready(client)
        profile = await fitted(client, draw)
        requests = sample([cut(each) for each in read_trace(trace)], count, load, 1.0, 0, profile)
        real = await asyncio.gather(
            *(ask(client, fresh(draw, r.prompt_tokens), r.output_tokens, r.arrival_s) for r in requests)
        )
    return profile, requests, list(real)


def calibrate(trace: Path, load: float, count: int) -> list[str]:
    """Prints the table; the ratio lines."""
    with Server() as server:
        profile, requests, real = asyncio.run(measure(server, trace, load, count))
    print(f"\nreal vLLM with {MODEL} on a CPU, fitted: {profile}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs: what else runs slows the real engine alone")
    figures = compare(real, model(requests, profile))
    show(f"{trace.name}, cut, load {load}, {count} requests, one engine", figures)
    return ratio_lines("vllm", figures)
