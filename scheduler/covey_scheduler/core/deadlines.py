"""Which deadlines cannot be kept, and when it would be worth coming back: pure functions over a ranking.

A prediction may be wrong, so an ask is hopeless only if even an optimistic one is too late everywhere: a trusted share
of the seconds predicted, smaller where a speed is only a prior, and an answer half as long as expected.
"""

from __future__ import annotations

from typing import NamedTuple

from covey_scheduler.core.policy import Ranking
from covey_scheduler.core.prediction import predict
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

WAITS = ("loading", "queue", "slot", "failures")
"""Terms of a prediction that pass by themselves; the others are the ask's own work."""

RETRY_AFTER_MS_MIN = 1000
RETRY_AFTER_MS_MAX = 3_600_000


class Hopeless(NamedTuple):
    """`soonest_s`: the optimistic prediction of the best machine. `retry_after_ms` 0: it would not fit an idle one
    either, so that coming back with the same deadline is of no use."""

    soonest_s: float
    retry_after_ms: int


class _Outlook(NamedTuple):
    """One machine: seconds of waiting and of own work, as trusted and as predicted."""

    wait_s: float
    work_s: float
    trust: float

    @property
    def soonest_s(self) -> float:
        return self.trust * (self.wait_s + self.work_s)


def hopeless(ranking: Ranking, left_s: float, line_s: float = 0.0, given_s: float = 0.0) -> Hopeless | None:
    """None while some machine might deliver the whole answer within `left_s`. `line_s`: wait in the leader's queue.
    `given_s`: what the client allowed at first and will allow again; 0: `left_s`."""
    outlooks = [_outlook(ranking, index, line_s) for index in range(len(ranking.machines))]
    if not outlooks:
        return None
    soonest_s = min(each.soonest_s for each in outlooks)
    if soonest_s <= left_s:
        return None
    again_s = max(given_s, left_s)
    waits = [each.wait_s - max(0.0, again_s - each.work_s) for each in outlooks if each.trust * each.work_s <= again_s]
    if not waits:
        return Hopeless(soonest_s, 0)
    retry_ms = min(max(round(1000 * min(waits)), RETRY_AFTER_MS_MIN), RETRY_AFTER_MS_MAX)
    return Hopeless(soonest_s, retry_ms)


def line_s(ranking: Ranking, position: int) -> float:
    """Seconds until `position` asks like this one have been started: places free at the rate at which answers end,
    no faster than prompts are computed."""
    rate = sum(_starts_per_s(ranking, index) for index in range(len(ranking.machines)))
    return position / rate if position and rate > 0 else 0.0


def _starts_per_s(ranking: Ranking, index: int) -> float:
    machine, question = ranking.machines[index], ranking.question
    prompt_s = max(1, question.ask.prompt_tokens - ranking.cached[index]) * machine.prefill_s_per_token
    answer_s = question.output_tokens * machine.decode_s_per_token
    places = _places(machine)
    return min(places / (prompt_s + answer_s), 1.0 / prompt_s)


def _places(machine: Standing) -> int:
    return machine.load.running_limit or max(1, machine.running)


def _outlook(ranking: Ranking, index: int, line_s: float) -> _Outlook:
    settings: SchedulerSettings = ranking.settings
    machine = ranking.machines[index]
    terms = predict(ranking.question, machine, ranking.cached[index], settings).terms_s
    waits = sum(terms.get(name, 0.0) for name in WAITS)
    decode_s = terms.get("decode", 0.0)
    work_s = sum(terms.values()) - waits - decode_s + settings.deadline_answer_share * decode_s
    measured = machine.candidate.machine.speeds.measured
    trust = settings.deadline_trust if measured else settings.deadline_trust_prior
    return _Outlook(waits + line_s, work_s, trust)
