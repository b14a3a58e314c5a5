"""How much work an ask is expected to be, in tokens."""

from __future__ import annotations

from covey_mesh.core.asking import Ask
from covey_mesh.core.facts import Task
from covey_scheduler.core.machine import Candidate
from covey_scheduler.core.settings import SchedulerSettings


def expected_output_tokens(ask: Ask, task: Task, settings: SchedulerSettings) -> int:
    """max_tokens where it is small, else the expectation; 0 for embeddings."""
    if task is Task.EMBED:
        return 0
    return min(ask.max_output_tokens or settings.expected_output_tokens, settings.expected_output_tokens)


def uncached_tokens(ask: Ask, candidate: Candidate) -> int:
    """At least one: an engine always computes the prompt's last token."""
    return max(1, ask.prompt_tokens - candidate.cached_tokens)
