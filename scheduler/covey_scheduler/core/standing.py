"""A candidate with the numbers that policies read worked out: made when something about the machine changes, not for
each ask. Not here: anything that depends on the ask (prediction.py, policies/).
"""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.facts import ModelLoad, Task
from covey_scheduler.core.machine import Candidate, Machine
from covey_scheduler.core.settings import SchedulerSettings


@dataclass(slots=True)
class Standing:
    """`prefill_s_per_token` is of a short prompt; seconds a token include the doubt about a speed that is only a prior.
    `kv_tokens_held` is prompt and output; `cache_blocks`: of the prefix index, as many as its KV cache can hold (0:
    unknown); `crowding`: what a second of a prompt costs, the delay of the streams that run included. Never assigned to
    (see Candidate)."""

    candidate: Candidate
    running: int
    waiting: int
    prompts_done_at_s: float
    before_s: float
    prefill_s_per_token: float
    attention_per_token: float
    decode_s_per_token: float
    kv_tokens_held: int
    indexed_blocks: int
    cache_blocks: int
    task: Task
    crowding: float

    @property
    def in_flight(self) -> int:
        return self.running + self.waiting

    @property
    def load(self) -> ModelLoad:
        load = self.candidate.machine.load
        assert load is not None, "filters come first"
        return load

    def prompt_tokens_ahead(self, now_s: float) -> float:
        """Prompt tokens given to the machine and not computed yet."""
        return max(0.0, self.prompts_done_at_s - now_s) / self.prefill_s_per_token


def standing_of(candidate: Candidate, settings: SchedulerSettings) -> Standing:
    """For a machine that offers the model. Made twice for each ask: rare terms are asked for only where they count."""
    machine, done_at_s, ready_at_s = candidate.machine, candidate.prompts_done_at_s, candidate.ready_at_s
    load, speeds = machine.load, machine.speeds
    assert load is not None, "filters come first"
    doubt = 1.0 if speeds.measured else 1.0 + settings.unmeasured_penalty
    running, waiting = load.running_requests + candidate.reserved_requests, load.waiting_requests
    limit = load.running_limit
    if running < 0:
        running = 0
    before_s = machine.round_trip_s
    if limit and running + waiting >= limit:
        before_s += slot_s(candidate, settings)
    if candidate.recent_failures:
        before_s += failures_s(candidate, settings)
    batch = running + 1 if not limit or running < limit else limit
    total = load.kv_cache_tokens_total
    held = total - load.kv_cache_tokens_free + candidate.reserved_tokens
    return Standing(
        candidate,
        running,
        waiting,
        done_at_s if done_at_s > ready_at_s else ready_at_s,
        before_s,
        doubt / speeds.prefill_tokens_per_s,
        machine.attention_per_token,
        doubt / stream_tokens_per_s(candidate, batch, settings),
        held if held > 0 else 0,
        candidate.indexed_blocks,
        max(1, total // settings.tokens_per_block) if total else 0,
        load.task,
        1.0 + settings.answer_weight * running,
    )


def slot_s(candidate: Candidate, settings: SchedulerSettings) -> float:
    """Wait for a free place in the batch: requests ahead x mean time left of a running one / places.

    With c places whose holders have r seconds left on average, one frees every r / c seconds.
    """
    load = candidate.machine.load
    assert load is not None, "filters come first"
    running = max(0, load.running_requests + candidate.reserved_requests)
    if not load.running_limit or running + load.waiting_requests < load.running_limit:
        return 0.0
    admitted = max(1, load.running_requests + load.waiting_requests)
    left_tokens = max(1.0, (load.queued_tokens or settings.expected_output_tokens / 2) / admitted)
    left_s = left_tokens / stream_tokens_per_s(candidate, load.running_limit, settings)
    return (running + load.waiting_requests - load.running_limit + 1) * left_s / load.running_limit


def failures_s(candidate: Candidate, settings: SchedulerSettings) -> float:
    """Doubles with each recent failure, up to a bound."""
    if not candidate.recent_failures:
        return 0.0
    doubled = settings.failure_penalty_s * 2.0 ** min(candidate.recent_failures - 1, 32)
    return min(doubled, settings.failure_penalty_s_max)


def stream_tokens_per_s(candidate: Candidate, batch: int, settings: SchedulerSettings) -> float:
    """Speed of one of `batch` streams: the known speed x (1 + slowdown x others then) / (1 + slowdown x others now).

    A machine reports what one client sees in the batch of that moment, and the slowdown where it has seen several batch
    sizes (else the setting); a prior is of a stream alone.
    """
    speeds, load = candidate.machine.speeds, candidate.machine.load
    assert load is not None, "filters come first"
    slowdown = load.speeds.batch_slowdown or settings.batch_slowdown
    batch_then = load.running_requests if speeds.measured else 1
    then = 1.0 + slowdown * (batch_then - 1) if batch_then > 1 else 1.0
    now = 1.0 + slowdown * (batch - 1) if batch > 1 else 1.0
    return speeds.decode_tokens_per_s * then / now


def prompts_left_s(machine: Machine, requests: int) -> float:
    """Seconds of prompts still to compute for `requests` of those that the machine reports: their share of them."""
    load = machine.load
    assert load is not None, "filters come first"
    admitted = load.running_requests + load.waiting_requests
    if requests <= 0 or admitted <= 0:
        return 0.0
    tokens = load.queued_prompt_tokens * min(1.0, requests / admitted)
    return tokens / machine.speeds.prefill_tokens_per_s
