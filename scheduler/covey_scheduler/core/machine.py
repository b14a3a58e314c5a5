"""A machine that offers a model, with every number made safe: what filters and predictions read.

Reports come from other machines, which may be broken or lie: nothing outside this file reads a NodeLoad's numbers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from covey_mesh.core.facts import Member, ModelLoad, Task
from covey_mesh.core.model_size import attention_per_token, parameters_guess
from covey_mesh.core.names import NodeId
from covey_mesh.core.speeds import ModelSpeeds
from covey_scheduler.core import hardware

TOKENS_MAX = 10_000_000
"""Larger token counts are cut to this: no context is longer."""

QUEUED_TOKENS_MAX = 1_000_000_000
REQUESTS_MAX = 65_536
PREFILL_TOKENS_PER_S_MAX = 500_000.0
DECODE_TOKENS_PER_S_MAX = 5_000.0
"""Faster than any machine: who claims more gets no more for it."""

LOAD_S_MAX = 3600.0

BATCH_SLOWDOWN_MAX = 1.0
"""With each further stream as much time again: no batching at all."""

TOKENS_PER_S_MIN = 0.01
ROUND_TRIP_S_MAX = 10.0
DETAIL_LENGTH_MAX = 120


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens a second of one stream; `measured` is False for a prior."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    measured: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """One member and its load for one model (None: not offered there), cleaned."""

    node_id: NodeId
    generation: tuple[int, int]
    """Changes with every new life of the agent or the engine: a cache of an earlier one is gone."""
    reachable: bool
    draining: bool
    round_trip_s: float
    load: ModelLoad | None
    speeds: Speeds
    attention_per_token: float = 0.0
    """See covey_mesh.core.model_size."""


@dataclass(slots=True)
class Candidate:
    """A machine at this moment, whatever the ask. `reserved_*`: what the decider knows beyond the machine's report
    (assigned and not in it yet, less what has ended since); `prompts_done_at_s`: when the prompts given to the machine
    so far will have been computed, by the decider's clock; `ready_at_s`: when the model should be loaded (loading.py);
    `last_prompt_s`: of the prompt given to it last.

    Never assigned to, though not a frozen dataclass: this, like all that is made or read for each ask, takes a third of
    its time.
    """

    machine: Machine
    reserved_requests: int = 0
    reserved_tokens: int = 0
    prompts_done_at_s: float = 0.0
    recent_failures: int = 0
    largest_context_tokens: int = 0
    indexed_blocks: int = 0
    ready_at_s: float = 0.0
    last_prompt_s: float = 0.0


def clamp(value: float, low: float, high: float) -> float:
    """`value` within [low, high]; what is not a number counts as `low`."""
    return low if math.isnan(value) else min(max(value, low), high)


def clamp_int(value: int, high: int) -> int:
    whole = int(value)
    return 0 if whole < 0 else high if whole > high else whole


def clean_load(load: ModelLoad) -> ModelLoad:
    """Counts within [0, a bound]; speeds within bounds, 0 where they are no positive finite number."""
    return replace(
        load,
        max_context_tokens=clamp_int(load.max_context_tokens, TOKENS_MAX),
        running_requests=clamp_int(load.running_requests, REQUESTS_MAX),
        waiting_requests=clamp_int(load.waiting_requests, REQUESTS_MAX),
        running_limit=clamp_int(load.running_limit, REQUESTS_MAX),
        waiting_limit=clamp_int(load.waiting_limit, REQUESTS_MAX),
        queued_tokens=clamp_int(load.queued_tokens, QUEUED_TOKENS_MAX),
        queued_prompt_tokens=clamp_int(load.queued_prompt_tokens, QUEUED_TOKENS_MAX),
        kv_cache_tokens_total=clamp_int(load.kv_cache_tokens_total, QUEUED_TOKENS_MAX),
        kv_cache_tokens_free=clamp_int(load.kv_cache_tokens_free, QUEUED_TOKENS_MAX),
        prefix_cache_tokens=clamp_int(load.prefix_cache_tokens, QUEUED_TOKENS_MAX),
        prefix_cache_evicted_tokens=max(0, int(load.prefix_cache_evicted_tokens)),
        prefill_tokens_per_s=clean_speed(load.prefill_tokens_per_s, PREFILL_TOKENS_PER_S_MAX),
        decode_tokens_per_s=clean_speed(load.decode_tokens_per_s, DECODE_TOKENS_PER_S_MAX),
        speeds=clean_speeds(load.speeds),
        detail="".join(c if c.isprintable() else " " for c in load.detail[:DETAIL_LENGTH_MAX]),
    )


def clean_speeds(speeds: ModelSpeeds) -> ModelSpeeds:
    """Only what placement reads; the tables are for people."""
    slowdown, load_s = clamp(speeds.batch_slowdown, 0.0, BATCH_SLOWDOWN_MAX), clamp(speeds.load_s, 0.0, LOAD_S_MAX)
    if (slowdown, load_s) == (speeds.batch_slowdown, speeds.load_s):
        return speeds
    return replace(speeds, batch_slowdown=slowdown, load_s=load_s)


def clean_speed(tokens_per_s: float, highest: float) -> float:
    """0 (not measured) for what is no positive finite number; else within [TOKENS_PER_S_MIN, highest]."""
    if not math.isfinite(tokens_per_s) or tokens_per_s <= 0:
        return 0.0
    return min(max(tokens_per_s, TOKENS_PER_S_MIN), highest)


NOT_CALIBRATED = 1.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured speed over prior speed, the median of the machines where the model was measured; 1.0 without any."""

    prefill: float = NOT_CALIBRATED
    decode: float = 1.0


def calibration_of(model: str, members: Iterable[tuple[Member, ModelLoad]]) -> Calibration:
    """Tells the prior what it cannot know (the model's real size, the engine's efficiency) from other machines."""
    parameters = parameters_guess(model)
    prefill, decode = [], []
    for member, load in members:
        own = hardware.hardware_of(member)
        if load.prefill_tokens_per_s > 0:
            prefill.append(load.prefill_tokens_per_s / hardware.prefill_prior_tokens_per_s(own, parameters))
        if load.decode_tokens_per_s > 0:
            decode.append(load.decode_tokens_per_s / hardware.decode_prior_tokens_per_s(own, parameters))
    return Calibration(
        statistics.median(prefill) if prefill else NOT_CALIBRATED, statistics.median(decode) if decode else 1.0
    )


def speeds_of(member: Member, load: ModelLoad, calibration: Calibration) -> Speeds:
    """Measured speeds where there are any, else the calibrated prior. `load` is clean.

    Short prompts alone never tell a prefill speed. What decoding turned out to be against its own prior then stands for
    both (they share what a prior cannot know), and a prompt's token takes no longer than one that is decoded.
    """
    prefill, decode = load.prefill_tokens_per_s, load.decode_tokens_per_s
    if prefill > 0 and (decode > 0 or load.task is Task.EMBED):
        return Speeds(prefill, decode or TOKENS_PER_S_MIN, True)
    own, parameters = hardware.hardware_of(member), parameters_guess(load.model)
    decode_prior = hardware.decode_prior_tokens_per_s(own, parameters)
    untold = decode > 0 and calibration.prefill == NOT_CALIBRATED
    factor = decode / decode_prior if untold else calibration.prefill
    prefill_prior = max(decode, factor * hardware.prefill_prior_tokens_per_s(own, parameters))
    decode_prior *= calibration.decode
    return Speeds(
        prefill or clean_speed(prefill_prior, PREFILL_TOKENS_PER_S_MAX),
        decode or clean_speed(decode_prior, DECODE_TOKENS_PER_S_MAX),
        False,
    )


NO_SPEEDS = Speeds(TOKENS_PER_S_MIN, TOKENS_PER_S_MIN, False)
"""Of a machine that does not offer the model; never used for a prediction."""


def machine_of(member: Member, load: ModelLoad | None, calibration: Calibration) -> Machine:
    """`load` is clean."""
    return Machine(
        node_id=member.node_id,
        generation=(member.load.incarnation, load.restarts if load else 0),
        reachable=member.reachable,
        draining=member.load.draining,
        round_trip_s=clamp(member.round_trip_s, 0.0, ROUND_TRIP_S_MAX),
        load=load,
        speeds=NO_SPEEDS if load is None else speeds_of(member, load, calibration),
        attention_per_token=0.0 if load is None or load.task is Task.EMBED else attention_per_token(load.model),
    )


def machines_of(model: str, members: Mapping[NodeId, Member]) -> tuple[Machine, ...]:
    """Every member as a Machine for `model`, in member order."""
    found = [(member, member.load.model(model)) for member in members.values()]
    cleaned = [(member, None if load is None else clean_load(load)) for member, load in found]
    calibration = calibration_of(model, [(member, load) for member, load in cleaned if load is not None])
    return tuple(machine_of(member, load, calibration) for member, load in cleaned)


def largest_context_tokens(machines: Iterable[Machine]) -> int:
    return max((m.load.max_context_tokens for m in machines if m.load is not None and m.load.ready), default=0)
