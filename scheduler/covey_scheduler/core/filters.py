"""Which machines may serve an ask at all: one small function a reason, listed in order in FILTERS.

A filter returns "" where the machine passes, else a sentence for people. To add one: write the function, add a row.
`busy` is no filter: a busy machine is a candidate that the ask would wait for (late binding). Asks come here clean
(clean_ask.py), machines too (machine.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from covey_mesh.core.asking import Ask
from covey_mesh.core.facts import EngineState, ModelLoad
from covey_scheduler.core.machine import DETAIL_LENGTH_MAX, Candidate
from covey_scheduler.core.prediction import Question, prompt_s
from covey_scheduler.core.room import Here, Room
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

ESTIMATE_SLACK = 2.0
"""A gateway's token count is an estimate. Up to this factor over the largest context the ask still goes to a machine
that has it: the engine counts exactly, and its own error reaches the client."""

UNREACHABLE = "cannot be reached now"
"""The reason of a machine that the decider has no link to; a gateway that has one may know better."""

NOT_OFFERED = "does not offer the model"

KEPT_FREE = "busy: kept free of long prompts, another user is about to come back"

_COMING = (EngineState.STARTING, EngineState.BACKING_OFF, EngineState.WEDGED)


def model_offered(ask: Ask, candidate: Candidate) -> str:
    return "" if candidate.machine.load is not None else NOT_OFFERED


def context_fits(ask: Ask, candidate: Candidate) -> str:
    """Shorter contexts are passed over while a longer one exists in the pool."""
    context = _load(candidate).max_context_tokens
    need = ask.context_tokens
    if not context or need <= context:
        return ""
    if context >= candidate.largest_context_tokens and need <= context * ESTIMATE_SLACK:
        return ""
    return f"prompt of about {need} tokens is longer than its context of {context}"


def kv_cache_can_hold(ask: Ask, candidate: Candidate) -> str:
    """The whole cache, not what is free now: who could never hold the prompt is no candidate."""
    total = _load(candidate).kv_cache_tokens_total
    need = ask.context_tokens
    if not total or need <= total * ESTIMATE_SLACK:
        return ""
    return f"prompt of about {need} tokens can never fit its KV cache of {total}"


def not_excluded(ask: Ask, candidate: Candidate) -> str:
    """What the gateway says of it: refused this request, or cannot be reached from there."""
    reason = ask.excluded.get(candidate.machine.node_id)
    if reason is None:
        return ""
    return f"excluded by the gateway: {reason[:DETAIL_LENGTH_MAX] or 'no reason given'}"


def not_draining(ask: Ask, candidate: Candidate) -> str:
    return "draining: takes no new requests" if candidate.machine.draining else ""


def engine_running(ask: Ask, candidate: Candidate) -> str:
    load = _load(candidate)
    if load.state is EngineState.READY or load.state in _COMING:
        return ""
    return _state(load)


def reachable(ask: Ask, candidate: Candidate) -> str:
    return "" if candidate.machine.reachable else UNREACHABLE


def engine_ready(ask: Ask, candidate: Candidate) -> str:
    """One that loads and is expected soon is a busy machine, not an unfit one."""
    load = _load(candidate)
    return "" if load.state is EngineState.READY or candidate.ready_at_s else _state(load)


@dataclass(frozen=True, slots=True)
class Filter:
    """`recovers`: worth a moment's wait. `retry_after_ms`: what a client is told if nothing passed; 0: do not retry."""

    name: str
    rejects: Callable[[Ask, Candidate], str]
    recovers: bool = False
    retry_after_ms: int = 0


FILTERS: tuple[Filter, ...] = (
    # What never passes first, what may pass in a moment last: the reason shown is the one that matters.
    Filter("model_offered", model_offered),
    Filter("context_fits", context_fits),
    Filter("kv_cache_can_hold", kv_cache_can_hold),
    Filter("engine_running", engine_running, retry_after_ms=5000),
    Filter("not_draining", not_draining, retry_after_ms=2000),
    Filter("not_excluded", not_excluded, retry_after_ms=250),
    Filter("reachable", reachable, recovers=True, retry_after_ms=1000),
    Filter("engine_ready", engine_ready, recovers=True, retry_after_ms=2000),
)


@dataclass(frozen=True, slots=True)
class Rejection:
    """The first filter that a machine failed, and why."""

    candidate: Candidate
    failed: Filter
    reason: str


def rejection_of(ask: Ask, candidate: Candidate) -> Rejection | None:
    """None if the machine passes every filter."""
    for each in FILTERS:
        reason = each.rejects(ask, candidate)
        if reason:
            return Rejection(candidate, each, reason)
    return None


def retry_after_ms(rejections: Iterable[Rejection]) -> int:
    """The soonest that any rejected machine might serve; 0 if none ever will."""
    return min((r.failed.retry_after_ms for r in rejections if r.failed.retry_after_ms), default=0)


def busy(
    question: Question, machine: Standing, settings: SchedulerSettings, room: Room | None = None, cached: int = 0
) -> str:
    """Why the machine would only queue the ask; "" if it can start at once: the rule of the node's own admission, and
    no more prompt work before it, by measured speed, than `start_ahead_s`. `room`: what it may take, None: all;
    `cached`: tokens of its prompt in the machine's cache."""
    known, running = machine.candidate.machine, machine.running
    load = known.load
    assert load is not None, "filters come first"
    if load.state is not EngineState.READY:
        left_s = machine.candidate.ready_at_s - question.now_s
        return f"loading: ready in about {max(0.0, left_s):.0f} s, as its earlier loads were"
    if load.running_limit and running >= load.running_limit:
        return f"busy: {running} of {load.running_limit} running"
    if load.waiting_requests:
        return f"busy: {load.waiting_requests} waiting"
    here = None if room is None else room.here(known.node_id, load.running_limit)
    ahead_s, ahead_s_max = machine.prompts_done_at_s - question.now_s, settings.start_ahead_s
    if here is not None:
        kept = _kept(load.running_limit, running, here)
        if kept:
            return kept
        if here.longest_s < math.inf and prompt_s(question.ask, machine, cached) > here.longest_s:
            return KEPT_FREE
        ahead_s_max = here.ahead_s
        if here.by_step:
            ahead_s += last_step_s(machine)
    # A prior may be wrong by any factor: a guess is no reason to hold an ask back.
    if ahead_s > ahead_s_max and known.speeds.measured:
        return f"busy: {ahead_s:.2f} s of prompts before it"
    total = load.kv_cache_tokens_total
    if not running or not total:
        # An idle machine is never busy, whatever it says of its cache: else a wrong count would starve it.
        return ""
    free, need = total - machine.kv_tokens_held, question.ask.prompt_tokens + question.output_tokens
    if here is not None:
        free -= int(total * here.kept)
    if free >= need or free >= total:
        return ""
    return f"busy: {max(free, 0)} KV-cache tokens free, {min(need, total)} needed"


def last_step_s(machine: Standing) -> float:
    """What the batch adds to the time of the last prompt: the engine computes it in one step with a token of each
    stream. No more than the prompt's own: several short ones may share a step as long as they do not double it."""
    return min(machine.decode_s_per_token, machine.candidate.last_prompt_s) if machine.running else 0.0


def _kept(limit: int, running: int, here: Here) -> str:
    """The places that this ask must leave to others."""
    if not limit:
        return ""
    places = here.places(limit)
    if running >= places:
        return f"busy: {running} of {limit} running, {limit - places} kept for other users"
    return "busy: as much batch work as it takes beside other work" if here.batch_full else ""


def _load(candidate: Candidate) -> ModelLoad:
    assert candidate.machine.load is not None, "model_offered comes first"
    return candidate.machine.load


def _state(load: ModelLoad) -> str:
    return f"engine is {load.state.value}" + (f": {load.detail}" if load.detail else "")
