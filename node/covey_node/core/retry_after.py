"""When a refused request should come back: one pure function."""

from __future__ import annotations

from collections.abc import Sequence

RETRY_AFTER_MS_MIN = 50
RETRY_AFTER_MS_MAX = 30_000
RETRY_AFTER_MS_UNMEASURED = 1_000
"""Nothing was measured yet: the order of magnitude of a short answer."""


def retry_after_ms(
    running_output_tokens_left: Sequence[int],
    waiting: int,
    waiting_prompt_tokens: int,
    prefill_tokens_per_s: float,
    decode_tokens_per_s: float,
) -> int:
    """Milliseconds until a place frees for one more request behind `waiting` others.

    With r requests running for a mean of t seconds more, one ends every t/r seconds; those ahead in line take one
    place each, and their prompts must be prefilled. `decode_tokens_per_s` is of one stream. Clamped.
    """
    if not running_output_tokens_left or decode_tokens_per_s <= 0:
        return RETRY_AFTER_MS_UNMEASURED
    running = len(running_output_tokens_left)
    mean_left_s = sum(running_output_tokens_left) / running / decode_tokens_per_s
    prefill_s = waiting_prompt_tokens / prefill_tokens_per_s if prefill_tokens_per_s > 0 else 0.0
    wait_s = (waiting + 1) * mean_left_s / running + prefill_s
    return min(RETRY_AFTER_MS_MAX, max(RETRY_AFTER_MS_MIN, round(wait_s * 1000)))
