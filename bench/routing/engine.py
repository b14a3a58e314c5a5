"""The model of one engine: continuous batching with chunked prefill, as in vLLM, in steps.

A step computes one token for every stream that decodes and, within the step's token budget, prompts in order of
arrival. Its time is the sum of reading the weights, the streams, their contexts and the prompt tokens. Steps without
prompts are taken many at a time until a stream ends or a prompt arrives. Not here: admission, reports (machine.py).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass
from math import ceil

TYPICAL_BATCH = 16
"""Streams that share a step where only a request's own part of the work is asked for."""


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Seconds at speed 1: an 8-billion-parameter model in 16 bits on one fast office GPU."""

    step_s: float = 0.016
    """Reading 16 GB of weights at 1 TB/s."""
    prompt_step_s: float = 0.0
    """Added to a step that computes prompt tokens; engines found otherwise by bench/calibration have some."""
    prompt_token_s: float = 1 / 8000
    """2 x 8e9 FLOPs a token at 130e12 FLOP/s."""
    attention_s: float = 4e-9
    """One prompt token looking at one earlier token: 4 x 32 layers x 4,096 FLOPs, at the same rate."""
    stream_s: float = 2e-4
    """Sampling and bookkeeping of one stream."""
    context_token_s: float = 1.3e-7
    """Reading 128 KB of KV cache for one token of one stream's context."""
    chunk_tokens: int = 2048
    """Token budget of a step (max_num_batched_tokens)."""
    streams_max: int = 256
    """max_num_seqs."""
    kv_tokens: int = 400_000
    context_tokens: int = 160_000

    def request_s(self, prompt: int, cached: int, output: int) -> float:
        """One request's own share of an engine's time."""
        new = prompt - cached
        prefill = self._prompt_tokens_s(new, cached) + self.prompt_step_s * new / self.chunk_tokens
        return prefill + output * (self.step_s / TYPICAL_BATCH + self.stream_s + self.context_token_s * prompt)

    def prompt_alone_s(self, prompt: int, cached: int) -> float:
        """One prompt on an engine that does nothing else: its tokens, and the weights read for each chunk of them."""
        new = prompt - cached
        return self._prompt_tokens_s(new, cached) + ceil(new / self.chunk_tokens) * (self.step_s + self.prompt_step_s)

    def _prompt_tokens_s(self, new: int, cached: int) -> float:
        return new * (self.prompt_token_s + self.attention_s * (cached + new / 2))


@dataclass(eq=False, slots=True)
class Sequence_:
    """One request in the engine. `done_at_step` is set when it decodes."""

    owner: object
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    computed: int = 0
    cached: int = -1
    started_step: int = -1
    done_at_step: int = -1


class Engine:
    """Driven from outside: `step_ends_at_s` says when to call `advance`; `first` and `done` then hold what happened."""

    def __init__(self, speed: float, profile: EngineProfile, block_tokens: int) -> None:
        self.speed = speed
        self.profile = profile
        self.block_tokens = block_tokens
        self.cache: OrderedDict[int, None] = OrderedDict()
        self.prompts: deque[Sequence_] = deque()
        self.decoding: list[tuple[int, int, Sequence_]] = []
        self.context_tokens = 0
        self.step = 0
        self.step_ends_at_s: float | None = None
        self._order = 0
        self._steps = 0
        self._step_s = 0.0
        self._chunks: list[tuple[Sequence_, int]] = []

    def add(self, sequence: Sequence_, now_s: float) -> None:
        self.prompts.append(sequence)
        if self.step_ends_at_s is None:
            self._plan(now_s)
        elif self._steps > 1 and not self._chunks:
            # Many decode steps were planned at once: stop at the end of the one that runs.
            begun_s = self.step_ends_at_s - self._steps * self._step_s
            self._steps = min(self._steps, int((now_s - begun_s) / self._step_s) + 1)
            self.step_ends_at_s = begun_s + self._steps * self._step_s

    def advance(self, now_s: float) -> tuple[list[Sequence_], list[Sequence_]]:
        """The planned steps are over: sequences that got their first token, and those that are complete."""
        self.step += self._steps
        self.context_tokens += self._steps * len(self.decoding)
        first, done = [], []
        while self.decoding and self.decoding[0][0] <= self.step:
            _, _, sequence = heapq.heappop(self.decoding)
            self.context_tokens -= sequence.prompt_tokens + sequence.output_tokens
            done.append(sequence)
        for sequence, tokens in self._chunks:
            sequence.computed += tokens
            if sequence.computed >= sequence.prompt_tokens:
                self.prompts.remove(sequence)
                self._remember(sequence)
                first.append(sequence)
                self._decode(sequence, done)
        self._plan(now_s)
        return first, done

    def cached_tokens(self, blocks: tuple[int, ...], prompt_tokens: int) -> int:
        """What of a prompt the cache holds now."""
        known = 0
        for block in blocks:
            if block not in self.cache:
                break
            known += 1
        return max(0, min(known * self.block_tokens, prompt_tokens - 1))

    def produced(self, sequence: Sequence_) -> int:
        """Output tokens so far."""
        return 0 if sequence.started_step < 0 else 1 + self.step - sequence.started_step

    def prompt_tokens_left(self) -> int:
        """Prompt tokens not computed yet, with the true contents of the cache."""
        left = 0
        for each in self.prompts:
            known = each.computed if each.cached >= 0 else self.cached_tokens(each.blocks, each.prompt_tokens)
            left += each.prompt_tokens - known
        return left

    def _decode(self, sequence: Sequence_, done: list[Sequence_]) -> None:
        sequence.started_step = self.step
        if sequence.output_tokens <= 1:
            done.append(sequence)
            return
        sequence.done_at_step = self.step + sequence.output_tokens - 1
        self._order += 1
        heapq.heappush(self.decoding, (sequence.done_at_step, self._order, sequence))
        self.context_tokens += sequence.prompt_tokens + 1

    def _plan(self, now_s: float) -> None:
        profile, streams = self.profile, len(self.decoding)
        self._chunks = []
        seconds = profile.step_s + profile.stream_s * streams + profile.context_token_s * self.context_tokens
        budget = profile.chunk_tokens - streams
        for sequence in self.prompts:
            if budget <= 0:
                break
            if sequence.cached < 0:
                sequence.cached = self.cached_tokens(sequence.blocks, sequence.prompt_tokens)
                sequence.computed = sequence.cached
            tokens = min(budget, sequence.prompt_tokens - sequence.computed)
            self._chunks.append((sequence, tokens))
            seconds += tokens * (profile.prompt_token_s + profile.attention_s * (sequence.computed + tokens / 2))
            budget -= tokens
        if not self._chunks and not self.decoding:
            self.step_ends_at_s = None
            return
        if self._chunks:
            seconds += profile.prompt_step_s
        self._steps = 1 if self._chunks else self.decoding[0][0] - self.step
        # The contexts grow by one token a stream and step: half of that on average.
        seconds += profile.context_token_s * streams * (self._steps - 1) / 2
        self._step_s = seconds / self.speed
        self.step_ends_at_s = now_s + self._steps * self._step_s

    def _remember(self, sequence: Sequence_) -> None:
        for block in reversed(sequence.blocks):
            self.cache[block] = None
            self.cache.move_to_end(block)
        capacity = self.profile.kv_tokens // self.block_tokens
        while len(self.cache) > capacity:
            self.cache.popitem(last=False)
