"""The engine model against the mocker of NVIDIA Dynamo, replayed offline by `ai-dynamo-runtime` behind its routers.

First single prompts and batches, to fit the model's times to the mocker's; then a sample of a trace over equal machines
by both: same requests, same router. Installed from PyPI into an environment of its own, on first use.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.calibration.comparing import Times, compare, ratio_lines, show
from bench.calibration.fitting import DecodeTime, PromptTime, fit
from bench.routing.engine import EngineProfile
from bench.routing.pool import Pool, Scenario
from bench.routing.trace import BLOCK_TOKENS, Request, read_trace, sample
from covey_scheduler.core.settings import SchedulerSettings

PACKAGE = "ai-dynamo-runtime==1.6.1"
FOLDER = Path(".cache/bench/ai-dynamo")
MACHINES = 4
APART_MS = 1_000_000
"""Between two requests that must not meet."""

PROMPTS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 100_000)
BATCHES = ((1, 256), (4, 256), (16, 256), (64, 256), (1, 16384), (4, 16384), (16, 4096))
"""(streams at once, prompt tokens of each)."""
OUTPUT = 257

BASE = EngineProfile(kv_tokens=400_000, chunk_tokens=2048, streams_max=256)
ENGINE = {
    "backend": "vllm",
    "block_size": 64,
    "num_gpu_blocks": BASE.kv_tokens // 64,
    "max_num_batched_tokens": BASE.chunk_tokens,
    "max_num_seqs": BASE.streams_max,
}
ROUTERS = {"round_robin": "round-robin", "kv_router": "dynamo"}
"""Dynamo's name -> ours."""


def install() -> Path:
    """The Python of the mocker's environment. Raises subprocess.CalledProcessError where it cannot be installed."""
    python = FOLDER / "bin/python"
    done = FOLDER / PACKAGE
    if not done.exists():
        print(f"installing {PACKAGE} into {FOLDER} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", PACKAGE], check=True)
        done.touch()
    return python


def replay(jobs: Sequence[dict[str, Any]]) -> list[list[dict[str, float]]]:
    """In order of arrival; see dynamo_replay.py."""
    script = Path(__file__).with_name("dynamo_replay.py")
    ended = subprocess.run(
        [str(install()), str(script)], input=json.dumps(jobs), capture_output=True, text=True, check=True
    )
    found: list[list[dict[str, float]]] = json.loads(ended.stdout)
    for job, results in zip(jobs, found, strict=True):
        asked = sorted(row["input_length"] for row in job["rows"])
        assert asked == sorted(each["prompt_tokens"] for each in results), "every request counts"
    return found


def alone(at_ms: float, prompt_tokens: int, first_block: int) -> dict[str, Any]:
    """A request whose prompt nobody has seen."""
    blocks = list(range(first_block, first_block + math.ceil(prompt_tokens / BLOCK_TOKENS)))
    return {"timestamp": at_ms, "input_length": prompt_tokens, "output_length": OUTPUT, "hash_ids": blocks}


def fitted() -> EngineProfile:
    """What single prompts and batches tell of the mocker."""
    prompts = [alone(APART_MS * n, tokens, 1000 * n) for n, tokens in enumerate(PROMPTS)]
    waves = [
        [alone(APART_MS * n, tokens, 1000 * (100 * n + each + 1)) for each in range(streams)]
        for n, (streams, tokens) in enumerate(BATCHES)
    ]
    rows = [prompts, [row for wave in waves for row in wave]]
    jobs = [{"rows": each, "workers": 1, "router": "round_robin", "engine": ENGINE} for each in rows]
    singles, batched = replay(jobs)
    decodes = []
    for streams, tokens in BATCHES:
        wave, batched = batched[:streams], batched[streams:]
        # The last of a wave to begin decodes beside all the others.
        last = max(wave, key=lambda each: each["first_token_s"])
        token_s = (last["completion_s"] - last["first_token_s"]) / (OUTPUT - 1)
        decodes.append(DecodeTime(streams, tokens + OUTPUT / 2, token_s))
    times = [PromptTime(tokens, each["first_token_s"]) for tokens, each in zip(PROMPTS, singles, strict=True)]
    return fit(times, decodes, BASE)


def model(requests: Sequence[Request], profile: EngineProfile, policy: str) -> list[Times]:
    settings = SchedulerSettings(
        policy=policy, tokens_per_block=BLOCK_TOKENS, queue_length_max=10**6, queues_length_max=10**6
    )
    served = Pool(requests, Scenario((1.0,) * MACHINES, profile=profile), settings).run()
    return [Times(each.first_token_s, each.completion_s) for each in served]


def calibrate(trace: Path, load: float, count: int, seeds: int) -> list[str]:
    """Prints the tables; the ratio lines."""
    profile = fitted()
    print(f"\nDynamo's mocker, fitted: {profile}")
    whole, lines = read_trace(trace), list[str]()
    samples = [sample(whole, count, load, MACHINES, seed, profile) for seed in range(seeds)]
    # Both see the same instants: the mocker counts milliseconds.
    samples = [[replace(r, arrival_s=round(r.arrival_s * 1000) / 1000) for r in each] for each in samples]
    for theirs, ours in ROUTERS.items():
        jobs = [
            {"rows": [row_of(r) for r in each], "workers": MACHINES, "router": theirs, "engine": ENGINE}
            for each in samples
        ]
        real = [Times(each["first_token_s"], each["completion_s"]) for found in replay(jobs) for each in found]
        figures = compare(real, [each for requests in samples for each in model(requests, profile, ours)])
        show(f"{trace.name}, load {load}, {MACHINES} equal machines, {theirs}, {seeds} samples of {count}", figures)
        lines += ratio_lines(f"dynamo_{theirs}", figures)
    return lines


def row_of(request: Request) -> dict[str, Any]:
    return {
        "timestamp": round(request.arrival_s * 1000),
        "input_length": request.prompt_tokens,
        "output_length": request.output_tokens,
        "hash_ids": list(request.blocks),
    }
