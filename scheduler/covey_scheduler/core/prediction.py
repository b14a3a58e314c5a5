"""Seconds until one machine would deliver an ask's first and last token: a sum of named terms.

Each term is a pure function of (question, standing, cached tokens) and one row of TERMS: what `covey explain` shows.
The policy `predicted` (policies/predicted.py) adds up the same terms for all machines at once; a test compares them.
Not here: which machines may serve (filters.py) and which of the predictions wins (policy.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from covey_mesh.core.asking import Ask
from covey_mesh.core.model_size import length_factor
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing, failures_s, slot_s


@dataclass(slots=True)
class Question:
    """One ask at one moment. `output_tokens`: expected of it; `turn`: counts decisions, for policies that rotate. Never
    assigned to (see machine.Candidate)."""

    ask: Ask
    output_tokens: int
    now_s: float
    turn: int = 0


Term = Callable[[Question, Standing, int, SchedulerSettings], float]


class Prediction(NamedTuple):
    """`terms_s` are the terms above zero, by name; they sum to `last_token_s`."""

    first_token_s: float
    last_token_s: float
    terms_s: dict[str, float]


def network(question: Question, machine: Standing, cached: int, settings: SchedulerSettings) -> float:
    """One round trip, as seen from who decides."""
    return machine.candidate.machine.round_trip_s


def loading(question: Question, machine: Standing, cached: int, settings: SchedulerSettings) -> float:
    """Until a cold machine has loaded the model; nothing comes before that."""
    return max(0.0, machine.candidate.ready_at_s - question.now_s)


def queue(question: Question, machine: Standing, cached: int, settings: SchedulerSettings) -> float:
    """From then on until the prompts that the machine was given before are computed."""
    return max(0.0, machine.prompts_done_at_s - max(question.now_s, machine.candidate.ready_at_s))


def slot(question: Question, machine: Standing, cached: int, settings: SchedulerSettings) -> float:
    """Wait for a place in the batch."""
    return slot_s(machine.candidate, settings)


def prefill(question: Question, machine: Standing, cached: int, settings: SchedulerSettings) -> float:
    """Prompt tokens not expected in the machine's prefix cache / prefill speed at that length."""
    return prompt_s(question.ask, machine, cached) / _doubt(machine, settings)


def unmeasured(question: Question, machine: Standing, cached: int, settings: SchedulerSettings) -> float:
    """A share of the machine's own work while its speed is only a prior."""
    if machine.candidate.machine.speeds.measured:
        return 0.0
    work_s = prompt_s(question.ask, machine, cached) + question.output_tokens * machine.decode_s_per_token
    return work_s * settings.unmeasured_penalty / (1.0 + settings.unmeasured_penalty)


def failures(question: Question, machine: Standing, cached: int, settings: SchedulerSettings) -> float:
    """A machine that failed a moment ago may fail again."""
    return failures_s(machine.candidate, settings)


def decode(question: Question, machine: Standing, cached: int, settings: SchedulerSettings) -> float:
    """Output tokens expected / speed of one stream in the batch that this ask would join."""
    return question.output_tokens * machine.decode_s_per_token / _doubt(machine, settings)


TERMS: tuple[tuple[str, Term], ...] = (
    ("network", network),
    ("loading", loading),
    ("queue", queue),
    ("slot", slot),
    ("prefill", prefill),
    ("unmeasured", unmeasured),
    ("failures", failures),
)
"""Before the first token; `decode` comes after it."""


def predict(question: Question, machine: Standing, cached: int, settings: SchedulerSettings) -> Prediction:
    """For a machine that passed every filter. Finite, since counts and speeds are bounded (machine.py)."""
    terms: dict[str, float] = {}
    first = 0.0
    for name, term in TERMS:
        seconds = term(question, machine, cached, settings)
        if seconds > 0:
            terms[name] = seconds
            first += seconds
    decode_s = decode(question, machine, cached, settings)
    if decode_s > 0:
        terms["decode"] = decode_s
    return Prediction(first, first + decode_s, terms)


def prompt_s(ask: Ask, machine: Standing, cached: int) -> float:
    """Seconds for what of the prompt is not cached, the longer context of long prompts included."""
    tokens = ask.prompt_tokens
    new = tokens - cached if tokens - cached > 1 else 1
    return new * machine.prefill_s_per_token * length_factor(tokens, cached, machine.attention_per_token)


def _doubt(machine: Standing, settings: SchedulerSettings) -> float:
    return 1.0 if machine.candidate.machine.speeds.measured else 1.0 + settings.unmeasured_penalty


def uncached_tokens(ask: Ask, cached: int) -> int:
    """At least one: an engine always computes the prompt's last token."""
    new = ask.prompt_tokens - cached
    return new if new > 1 else 1
