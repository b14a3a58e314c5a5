"""What a model's name tells of its size, and what follows for its speed: guesses, measurements outrank them."""

from __future__ import annotations

import re
from functools import lru_cache

PARAMETERS_DEFAULT = 8e9
"""Weights of a model whose name does not tell."""

_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d{1,2})x)?(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])")


@lru_cache(maxsize=1024)
def parameters_guess(model: str) -> float:
    """Weights from a name such as "qwen2.5-7b", "mixtral-8x7b", "smollm-135m"; else PARAMETERS_DEFAULT."""
    found = _SIZE.search(model.lower())
    if found is None:
        return PARAMETERS_DEFAULT
    experts, number, unit = found.groups()
    return max(1e6, int(experts or 1) * float(number) * (1e9 if unit == "b" else 1e6))


@lru_cache(maxsize=1024)
def attention_per_token(model: str) -> float:
    """Attention's FLOPs for one token of context, as a share of a prompt token's FLOPs in the weights.

    With hidden size d and L layers: 24 L d^2 FLOPs for the weights, 4 L d for each token of context (Kaplan et al.,
    "Scaling Laws for Neural Language Models", 2020, table 1), hence 1 / (6 d). With the usual d = 128 L, d is the cube
    root of weights x 128 / 12: 1 / 26,000 for 8e9 weights.
    """
    hidden_size = (parameters_guess(model) * 128 / 12) ** (1 / 3)
    return float(1.0 / (6.0 * hidden_size))


def length_factor(prompt_tokens: int, cached_tokens: int, attention: float) -> float:
    """Time of a token of this prompt that is not cached against one of a short prompt. `attention`: see above."""
    return 1.0 + 0.5 * (prompt_tokens + cached_tokens) * attention
