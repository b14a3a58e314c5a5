"""Public request traces: Mooncake's JSONL (with block hashes) and Azure's CSV (lengths only), and samples of them."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from bench.routing.engine import EngineProfile

BLOCK_TOKENS = 512
"""Tokens of one hashed block in Mooncake's traces."""

PROFILE = EngineProfile()

GAP_JITTER = 0.2
"""Each gap between arrivals is stretched or shortened by up to this share."""


@dataclass(frozen=True, slots=True)
class Request:
    """`blocks` are hashes of the prompt's blocks of BLOCK_TOKENS, the last one perhaps partial."""

    number: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


def read_trace(path: Path) -> list[Request]:
    """By the file's name: .jsonl or .csv. Raises ValueError for another format."""
    if path.suffix == ".jsonl":
        return _read_mooncake(path)
    if path.suffix == ".csv":
        return _read_azure(path)
    raise ValueError(f"{path.name}: a Mooncake trace ends in .jsonl, an Azure trace in .csv")


def _read_mooncake(path: Path) -> list[Request]:
    requests = []
    with path.open() as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            blocks = tuple(row.get("hash_ids", ()))
            output = max(1, int(row["output_length"]))
            requests.append(Request(number, row["timestamp"] / 1000, max(1, int(row["input_length"])), output, blocks))
    return sorted(requests, key=lambda each: each.arrival_s)


def _read_azure(path: Path) -> list[Request]:
    requests = []
    with path.open(newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            at_s = datetime.fromisoformat(row["TIMESTAMP"][:26].rstrip("Z")).timestamp()
            prompt, output = max(1, int(row["ContextTokens"])), max(1, int(row["GeneratedTokens"]))
            requests.append(Request(number, at_s, prompt, output, ()))
    return sorted(requests, key=lambda each: each.arrival_s)


def sample(
    trace: Sequence[Request],
    count: int,
    load: float,
    speed_sum: float,
    seed: int,
    profile: EngineProfile = PROFILE,
) -> list[Request]:
    """`count` consecutive requests from a random place, gaps jittered, arrivals stretched to offer `load`: the share of
    the machines' time that they would take if every prefix seen before were cached everywhere."""
    draw = random.Random(seed)
    start = draw.randrange(max(1, len(trace) - count + 1))
    window = list(trace[start : start + count])
    at_s, arrivals = 0.0, []
    for before, request in zip([window[0], *window], window, strict=False):
        at_s += (request.arrival_s - before.arrival_s) * draw.uniform(1 - GAP_JITTER, 1 + GAP_JITTER)
        arrivals.append(at_s)
    # Traces count arrivals in steps of seconds; without some spread within a step everybody arrives at once.
    arrivals = sorted(each + draw.uniform(0, at_s / count) for each in arrivals)
    stretch = work_s(window, profile) / (load * speed_sum) / arrivals[-1]
    return [
        replace(request, number=number, arrival_s=arrival * stretch)
        for number, (request, arrival) in enumerate(zip(window, arrivals, strict=True))
    ]


def work_s(requests: Sequence[Request], profile: EngineProfile = PROFILE) -> float:
    """Seconds of one machine of speed 1 for all of them, each prefix computed once."""
    cached = cached_anywhere(requests)
    return sum(
        profile.request_s(each.prompt_tokens, known, each.output_tokens)
        for each, known in zip(requests, cached, strict=True)
    )


def prompts_alone_s(requests: Sequence[Request], speed: float, profile: EngineProfile = PROFILE) -> list[float]:
    """Seconds of each prompt, in its steps, on an idle machine of this speed that holds every prefix seen before: no
    policy gives a first token sooner."""
    cached = cached_anywhere(requests)
    return [
        profile.prompt_alone_s(each.prompt_tokens, known) / speed for each, known in zip(requests, cached, strict=True)
    ]


def cached_anywhere(requests: Sequence[Request]) -> list[int]:
    """Tokens of each prompt that an earlier one of these requests began with."""
    seen, found = set[int](), []
    for request in requests:
        known = 0
        for block in request.blocks:
            if block not in seen:
                break
            known += 1
        seen.update(request.blocks)
        found.append(min(known * BLOCK_TOKENS, request.prompt_tokens - 1))
    return found
