"""An ask, and what is told of granted work, made safe: a gateway may be broken too."""

from __future__ import annotations

import math
from dataclasses import replace

from covey_mesh.core.asking import Ask, GrantedWork
from covey_scheduler.core.machine import TOKENS_MAX, clamp, clamp_int
from covey_scheduler.core.prefix import BLOCKS_MAX

PRIORITY_LOWEST = 2
"""Classes: 0 interactive, 1 normal, 2 batch."""

WAITED_S_MAX = 3600.0
DEADLINE_S_MAX = 86_400.0
DEADLINE_S_MIN = 0.001
"""A deadline that has passed is not "no deadline"."""

USER_LENGTH_MAX = 128
USER_AHEAD_TOKENS_MAX = 2**53


def clean_ask(ask: Ask) -> Ask:
    """Every number finite and within its bound; an odd deadline counts as none. A clean ask is given back as it is."""
    if (
        0 <= ask.prompt_tokens <= TOKENS_MAX
        and 0 <= ask.longest_prompt_tokens <= TOKENS_MAX
        and 0 <= ask.max_output_tokens <= TOKENS_MAX
        and len(ask.prefix_hashes) <= BLOCKS_MAX
        and len(ask.user) <= USER_LENGTH_MAX
        and 0 <= ask.priority <= PRIORITY_LOWEST
        and (not ask.deadline_s or DEADLINE_S_MIN <= ask.deadline_s <= DEADLINE_S_MAX)
        and (not ask.waited_s or 0.0 < ask.waited_s <= WAITED_S_MAX)
        and (not ask.user_ahead_tokens or 0 < ask.user_ahead_tokens <= USER_AHEAD_TOKENS_MAX)
    ):
        return ask
    return replace(
        ask,
        prompt_tokens=clamp_int(ask.prompt_tokens, TOKENS_MAX),
        longest_prompt_tokens=clamp_int(ask.longest_prompt_tokens, TOKENS_MAX),
        max_output_tokens=clamp_int(ask.max_output_tokens, TOKENS_MAX),
        prefix_hashes=ask.prefix_hashes[:BLOCKS_MAX],
        user=ask.user[:USER_LENGTH_MAX],
        priority=clamp_int(ask.priority, PRIORITY_LOWEST),
        deadline_s=clean_deadline_s(ask.deadline_s),
        waited_s=clamp(ask.waited_s, 0.0, WAITED_S_MAX),
        user_ahead_tokens=clamp_int(ask.user_ahead_tokens, USER_AHEAD_TOKENS_MAX),
    )


def clean_work(work: GrantedWork, believed: int) -> GrantedWork:
    """`believed`, at least 1, of its requests, each with the mean of what was told of all. No more tokens than one
    request may be charged for: what is summed up for a tenth of a second is less."""
    told = max(believed, work.requests)
    prompt = clamp_int(work.prompt_tokens, TOKENS_MAX) * believed // told
    return GrantedWork(
        model=work.model,
        node_id=work.node_id,
        user=work.user[:USER_LENGTH_MAX],
        priority=clamp_int(work.priority, PRIORITY_LOWEST),
        requests=believed,
        prompt_tokens=prompt,
        output_tokens=clamp_int(work.output_tokens, TOKENS_MAX) * believed // told,
        failed=clamp_int(work.failed, believed),
        cached_prompt_tokens=min(clamp_int(work.cached_prompt_tokens, TOKENS_MAX) * believed // told, prompt),
    )


def clean_deadline_s(deadline_s: float) -> float:
    """0 for none; else within [DEADLINE_S_MIN, DEADLINE_S_MAX]."""
    if not math.isfinite(deadline_s) or deadline_s == 0:
        return 0.0
    return clamp(deadline_s, DEADLINE_S_MIN, DEADLINE_S_MAX)
