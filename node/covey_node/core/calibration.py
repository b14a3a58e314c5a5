"""What a model is asked right after it was loaded, to learn its speed before the first client: a short plan.

Most telling first, since the time is bounded and the first client's request ends it. Prompts are words drawn by a seed,
so that no prefix cache knows them. Not here: asking (covey_node.io.calibrating).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from covey_mesh.core.facts import Task

DECODE_S = 0.5
"""Streams of one batch size are watched for so long."""

OUTPUT_TOKENS_MAX = 256
PROMPT_TOKENS = (256, 32, 1024)
BATCHES = (8, 32)
SHORT_PROMPT_TOKENS = 8
CONTEXT_SHARE = 4
"""A prompt takes at most this part of the context: words may be several tokens each."""

WORDS = "river stone light paper green seven cloud table music north bread glass train apple ocean chair".split()


@dataclass(frozen=True, slots=True)
class Step:
    """`streams` prompts of about `prompt_tokens` at once; `decodes`: then watch them write for DECODE_S. `counts`
    False: an engine's first prompt takes longer than any later one."""

    streams: int
    prompt_tokens: int
    decodes: bool
    counts: bool = True


def plan(task: Task, context_tokens: int, running_limit: int) -> list[Step]:
    """Steps in order."""
    longest = max(1, (context_tokens or 4 * PROMPT_TOKENS[0]) // CONTEXT_SHARE)
    lengths = list(dict.fromkeys(min(length, longest) for length in PROMPT_TOKENS))
    warm_up = Step(1, min(lengths), False, counts=False)
    if task is Task.EMBED:
        return [warm_up] + [Step(1, length, False) for length in lengths for _ in range(2)]
    batches = list(dict.fromkeys(min(batch, running_limit or batch) for batch in BATCHES))
    together = [Step(batch, min(SHORT_PROMPT_TOKENS, longest), True) for batch in batches if batch > 1]
    return [warm_up, Step(1, lengths[0], True), *together[:1], *(Step(1, n, False) for n in lengths[1:]), *together[1:]]


def prompt(tokens: int, seed: int) -> str:
    """About `tokens` tokens of words; another seed differs from the first word on."""
    digest = hashlib.shake_128(f"{seed}:{tokens}".encode()).digest(tokens)
    return " ".join([f"{seed % 1_000_000}", *(WORDS[byte % len(WORDS)] for byte in digest[1:])])


def question(model: str, task: Task, step: Step, seed: int) -> tuple[str, bytes]:
    """(path, body) of one prompt of a step."""
    text = prompt(step.prompt_tokens, seed)
    if task is Task.EMBED:
        return "/v1/embeddings", json.dumps({"model": model, "input": text}).encode()
    body = {
        "model": model,
        "prompt": text,
        "max_tokens": OUTPUT_TOKENS_MAX if step.decodes else 1,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "temperature": 0,
        "ignore_eos": True,
    }
    return "/v1/completions", json.dumps(body).encode()
