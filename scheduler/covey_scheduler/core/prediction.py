"""Seconds until one machine would deliver an ask's first and last token: a sum of named terms.

Each term is a pure function of (ask, candidate, settings) and one row of TERMS; to change how machines are scored,
change one of them (tests/unit/test_prediction.py tells). Not here: which machines may serve (filters.py)
and which of the predictions wins (policy.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from covey_mesh.core.asking import Ask
from covey_mesh.core.facts import ModelLoad
from covey_scheduler.core.expectation import expected_output_tokens, uncached_tokens
from covey_scheduler.core.machine import Candidate
from covey_scheduler.core.settings import SchedulerSettings

Term = Callable[[Ask, Candidate, SchedulerSettings], float]


class Prediction(NamedTuple):
    """`terms_s` are the terms above zero, by name; they sum to `last_token_s`."""

    first_token_s: float
    last_token_s: float
    terms_s: dict[str, float]


def network_s(ask: Ask, candidate: Candidate, settings: SchedulerSettings) -> float:
    """One round trip, as seen from who decides."""
    return candidate.machine.round_trip_s


def queue_s(ask: Ask, candidate: Candidate, settings: SchedulerSettings) -> float:
    """Tokens admitted before this ask / prefill speed.

    The count holds output tokens too, so this is an upper bound; it falls on all loaded machines alike.
    """
    queued = _load(candidate).queued_tokens + candidate.reserved_tokens
    return queued / candidate.machine.speeds.prefill_tokens_per_s


def slot_s(ask: Ask, candidate: Candidate, settings: SchedulerSettings) -> float:
    """Wait for a free place in the batch: requests ahead x mean time left of a running one / places.

    With c places whose holders have r seconds left on average, one frees every r / c seconds.
    """
    load = _load(candidate)
    running = load.running_requests + candidate.reserved_requests
    waiting = load.waiting_requests + candidate.requests_ahead
    if not load.running_limit or running + waiting < load.running_limit:
        return 0.0
    admitted = max(1, load.running_requests + load.waiting_requests)
    left_tokens = max(1.0, (load.queued_tokens or settings.expected_output_tokens / 2) / admitted)
    left_s = left_tokens / stream_tokens_per_s(candidate, load.running_limit, settings)
    return (running + waiting - load.running_limit + 1) * left_s / load.running_limit


def prefill_s(ask: Ask, candidate: Candidate, settings: SchedulerSettings) -> float:
    """Prompt tokens not expected in the machine's prefix cache / prefill speed."""
    return uncached_tokens(ask, candidate) / candidate.machine.speeds.prefill_tokens_per_s


def unmeasured_s(ask: Ask, candidate: Candidate, settings: SchedulerSettings) -> float:
    """A share of the machine's own work while its speed is only a prior."""
    if candidate.machine.speeds.measured:
        return 0.0
    return settings.unmeasured_penalty * (prefill_s(ask, candidate, settings) + decode_s(ask, candidate, settings))


def failures_s(ask: Ask, candidate: Candidate, settings: SchedulerSettings) -> float:
    """Doubles with each recent failure, up to a bound."""
    if not candidate.recent_failures:
        return 0.0
    doubled = settings.failure_penalty_s * 2.0 ** min(candidate.recent_failures - 1, 32)
    return min(doubled, settings.failure_penalty_s_max)


def decode_s(ask: Ask, candidate: Candidate, settings: SchedulerSettings) -> float:
    """Output tokens expected / speed of one stream in the batch that this ask would join."""
    load = _load(candidate)
    tokens = expected_output_tokens(ask, load.task, settings)
    batch = load.running_requests + candidate.reserved_requests + 1
    batch = min(batch, load.running_limit) if load.running_limit else batch
    return tokens / stream_tokens_per_s(candidate, batch, settings)


TERMS: tuple[tuple[str, Term], ...] = (
    ("network", network_s),
    ("queue", queue_s),
    ("slot", slot_s),
    ("prefill", prefill_s),
    ("unmeasured", unmeasured_s),
    ("failures", failures_s),
)
"""Before the first token; `decode` comes after it."""


def predict(ask: Ask, candidate: Candidate, settings: SchedulerSettings) -> Prediction:
    """For a machine that passed every filter. Finite, since counts and speeds are bounded (machine.py)."""
    terms: dict[str, float] = {}
    first = 0.0
    for name, term in TERMS:
        seconds = term(ask, candidate, settings)
        if seconds > 0:
            terms[name] = seconds
            first += seconds
    decode = decode_s(ask, candidate, settings)
    if decode > 0:
        terms["decode"] = decode
    return Prediction(first, first + decode, terms)


def stream_tokens_per_s(candidate: Candidate, batch: int, settings: SchedulerSettings) -> float:
    """Speed of one of `batch` streams: the known speed x (1 + slowdown x others then) / (1 + slowdown x others now).

    A machine measures what one client saw in the batch of that moment; a prior is of a stream alone.
    """
    speeds = candidate.machine.speeds
    batch_then = _load(candidate).running_requests if speeds.measured else 1
    then, now = max(0, batch_then - 1), max(0, batch - 1)
    return speeds.decode_tokens_per_s * (1.0 + settings.batch_slowdown * then) / (1.0 + settings.batch_slowdown * now)


def _load(candidate: Candidate) -> ModelLoad:
    assert candidate.machine.load is not None, "filters come first"
    return candidate.machine.load
