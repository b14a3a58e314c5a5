"""What a request costs its user in weighted tokens: expected when it is assigned, true when it has ended. Pure."""

from __future__ import annotations

from covey_mesh.core.asking import AttemptReport, GrantedWork
from covey_mesh.core.frozen import frozen
from covey_scheduler.core.machine import TOKENS_MAX, clamp_int
from covey_scheduler.core.policy import Ranking
from covey_scheduler.core.settings import SchedulerSettings


@frozen
class Charge:
    """Weighted tokens."""

    prompt: float = 0.0
    output: float = 0.0

    @property
    def total(self) -> float:
        return self.prompt + self.output


NOTHING = Charge()


def expected_charge(ranking: Ranking, uncached: int, settings: SchedulerSettings) -> Charge:
    """For the ask on a machine that has to compute `uncached` of its prompt's tokens: the rest nearly free, and the
    usual answer."""
    question = ranking.question
    prompt, cached = float(uncached), question.ask.prompt_tokens - uncached
    if cached > 0:
        prompt += settings.cached_token_weight * cached
    return Charge(prompt, settings.output_token_weight * question.output_tokens)


def true_charge(expected: Charge, report: AttemptReport, settings: SchedulerSettings) -> Charge:
    """Nothing for work that was not done: refused, taken back, or failed before the first token."""
    output = clamp_int(report.output_tokens, TOKENS_MAX)
    if report.withdrawn or report.refused or (report.failed and not output):
        return NOTHING
    prompt = expected.prompt
    if report.prompt_tokens > 0:
        whole = clamp_int(report.prompt_tokens, TOKENS_MAX)
        cached = clamp_int(report.cached_prompt_tokens, whole)
        prompt = whole - cached + settings.cached_token_weight * cached
    return Charge(prompt, settings.output_token_weight * output)


def worked_charge(work: GrantedWork, settings: SchedulerSettings) -> float:
    """For clean sums of work that was charged nothing before, in weighted tokens."""
    prompt = work.prompt_tokens - (1.0 - settings.cached_token_weight) * work.cached_prompt_tokens
    return prompt + settings.output_token_weight * work.output_tokens
