"""Which of the prompts given to a machine are not computed yet, and how long they may take: read from its report.

A report says how many prompt tokens wait for their first token, not whose. Engines compute prompts in order of arrival,
so they are those of the newest assignments. Predictions of long prompts err by seconds: without the report's word, a
machine whose prompt takes longer than predicted looks free, and gets more prompts that wait behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

OVERRUN = 0.1
"""Share of its predicted time that a prompt counts as having left while it is not computed, however long it takes."""


class Given(Protocol):
    """One assignment. `prompt_s`: predicted; `whole_prompt_tokens`: as the machine counts it, cached part included (0:
    unknown)."""

    prompt_s: float
    whole_prompt_tokens: int


class Left(NamedTuple):
    """Seconds."""

    at_least_s: float
    at_most_s: float


def left(newest_first: Iterable[Given], queued_prompt_tokens: int) -> Left | None:
    """None if the report says nothing of these prompts. Of the one that is being computed, some part may be done.

    Token counts may differ a little between gateway and machine: a prompt counts if most of it fits.
    """
    behind_s, first_s, tokens, found = 0.0, 0.0, 0.0, False
    for each in newest_first:
        if not each.whole_prompt_tokens or tokens + each.whole_prompt_tokens / 2 >= queued_prompt_tokens:
            break
        tokens += each.whole_prompt_tokens
        behind_s += first_s
        first_s, found = each.prompt_s, True
    return Left(behind_s + OVERRUN * first_s, behind_s + first_s) if found else None
