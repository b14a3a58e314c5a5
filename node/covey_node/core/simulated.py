"""A model of a batching engine in virtual time: how long prompts and tokens take, and how it fails.

Steps as in vLLM's scheduler (0.32, first come first served): a step has `step_tokens` tokens, dealt out to requests in
the order in which they began: one to each whose prompt is done, to a prompt what is left of it, though no more than
`long_prompt_step_tokens` beside others. Its duration is the prefill's at `prefill_tokens_per_s` plus the decoding's at
the batch's speed. KV cache is reserved whole (prompt and output) before a request runs; others wait in order of
arrival.

Not here: text and HTTP (simulated_openai.py), timers (covey_node.io.simulated).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass


class FaultKind(enum.Enum):
    """How a simulated engine fails."""

    DIE = "die"
    HANG = "hang"
    STOP_MID_STREAM = "stop mid stream"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. DIE: the engine ends, every answer breaks off. HANG: it accepts and never answers again.
    STOP_MID_STREAM: one answer goes silent, others go on. REFUSE: new requests are told the engine is full.

    `after_tokens`: output tokens of one answer before the first three strike (DIE and HANG: of any answer; 0: before
    the first token).
    """

    kind: FaultKind
    after_tokens: int = 0


@dataclass(frozen=True, slots=True)
class SimulatedSettings:
    """Speeds of the machine that is imitated."""

    prefill_tokens_per_s: float = 5_000.0
    decode_tokens_per_s: float = 50.0
    """Of one stream alone."""
    batch_slowdown: float = 0.01
    """Share by which each further stream lengthens a step."""
    kv_cache_tokens: int = 65_536
    max_context_tokens: int = 4_096
    running_limit: int = 64
    step_tokens: int = 2048
    """vLLM's --max-num-batched-tokens, its default for most machines."""
    long_prompt_step_tokens: int = 0
    """vLLM's --long-prefill-token-threshold; 0, its default: no such bound."""
    queue_limit: int | None = None
    """Running and waiting requests in the engine; None: no bound, as in vLLM."""
    start_s: float = 0.0
    seed: int = 0

    def step_s(self, prefill_tokens: int, decoding: int) -> float:
        """Duration of one step."""
        decode_s = (1 + self.batch_slowdown * (decoding - 1)) / self.decode_tokens_per_s if decoding else 0.0
        return prefill_tokens / self.prefill_tokens_per_s + decode_s


@dataclass(slots=True)
class _Sequence:
    key: Hashable
    prompt_left: int
    output_tokens: int
    kv_tokens: int
    produced: int = 0


@dataclass(frozen=True, slots=True)
class Produced:
    """After a step: so many output tokens of this request exist; `finished` with the last of them."""

    key: Hashable
    tokens: int
    finished: bool


class BatchModel:
    """Continuous batching of requests named by any hashable key."""

    def __init__(self, settings: SimulatedSettings) -> None:
        self.settings = settings
        self._waiting: deque[_Sequence] = deque()
        self._running: dict[Hashable, _Sequence] = {}
        self._kv_used = 0
        self._step_ends_s: float | None = None
        self._step_prefill: list[tuple[_Sequence, int]] = []
        self._step_decode: list[_Sequence] = []
        self._faults: list[Fault] = []
        self.hung = False
        self.died = False

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_tokens_free(self) -> int:
        return self.settings.kv_cache_tokens - self._kv_used

    @property
    def full(self) -> bool:
        """True where a new request would be refused."""
        limit = self.settings.queue_limit
        refusing = any(fault.kind is FaultKind.REFUSE for fault in self._faults)
        return refusing or (limit is not None and self.running + self.waiting >= limit)

    def inject(self, fault: Fault) -> None:
        """From now on, until `heal`."""
        self._faults.append(fault)

    def heal(self) -> None:
        """No fault any more; what died stays dead."""
        self._faults.clear()
        self.hung = False

    def submit(self, key: Hashable, prompt_tokens: int, output_tokens: int, now_s: float) -> None:
        """A request of at least one prompt and one output token; 0 output: an embedding, done with its prefill."""
        kv_tokens = min(prompt_tokens + output_tokens, self.settings.kv_cache_tokens)
        self._waiting.append(_Sequence(key, max(1, prompt_tokens), output_tokens, kv_tokens))
        self._strike_before_first_token()
        if self._step_ends_s is None:
            self._begin_step(now_s)

    def abort(self, key: Hashable, now_s: float) -> None:
        """Frees what the request held; unknown keys are ignored."""
        running = self._running.pop(key, None)
        if running is not None:
            self._kv_used -= running.kv_tokens
        else:
            self._waiting = deque(s for s in self._waiting if s.key != key)
        if self._step_ends_s is None:
            self._begin_step(now_s)

    def due_s(self) -> float | None:
        """When the step under way ends; None while idle, hung or dead."""
        return None if self.hung or self.died else self._step_ends_s

    def advance(self, now_s: float) -> list[Produced]:
        """Everything that steps ended by `now_s` have produced, in order."""
        produced: list[Produced] = []
        while (due_s := self.due_s()) is not None and due_s <= now_s:
            produced += self._end_step()
            self._begin_step(due_s)
        return produced

    def _begin_step(self, now_s: float) -> None:
        self._admit()
        settings, prefill_tokens = self.settings, 0
        budget = settings.step_tokens
        alone = self.running + self.waiting == 1
        share_max = budget if alone else settings.long_prompt_step_tokens or budget
        self._step_prefill = []
        self._step_decode = []
        for sequence in self._running.values():
            if budget == 0:
                break
            if sequence.prompt_left == 0:
                if not self._silent(sequence):
                    self._step_decode.append(sequence)
                    budget -= 1
                continue
            share = min(budget, sequence.prompt_left, share_max)
            budget -= share
            prefill_tokens += share
            self._step_prefill.append((sequence, share))
        busy = prefill_tokens > 0 or bool(self._step_decode)
        self._step_ends_s = now_s + self.settings.step_s(prefill_tokens, len(self._step_decode)) if busy else None

    def _admit(self) -> None:
        while self._waiting and self.running < self.settings.running_limit:
            if self._waiting[0].kv_tokens > self.kv_tokens_free:
                return
            sequence = self._waiting.popleft()
            self._running[sequence.key] = sequence
            self._kv_used += sequence.kv_tokens

    def _end_step(self) -> list[Produced]:
        produced = []
        for sequence, share in self._step_prefill:
            sequence.prompt_left -= share
            if sequence.prompt_left == 0 and sequence.key in self._running:
                produced.append(self._produce(sequence))
        for sequence in self._step_decode:
            if sequence.key in self._running:
                produced.append(self._produce(sequence))
        return produced

    def _produce(self, sequence: _Sequence) -> Produced:
        sequence.produced += 1 if sequence.output_tokens else 0
        finished = sequence.produced >= sequence.output_tokens
        if finished:
            del self._running[sequence.key]
            self._kv_used -= sequence.kv_tokens
        for fault in self._faults:
            if fault.kind in (FaultKind.DIE, FaultKind.HANG) and sequence.produced >= fault.after_tokens:
                self._strike(fault)
        return Produced(sequence.key, sequence.produced, finished)

    def _silent(self, sequence: _Sequence) -> bool:
        stops = [f.after_tokens for f in self._faults if f.kind is FaultKind.STOP_MID_STREAM]
        return any(sequence.produced >= after for after in stops)

    def _strike_before_first_token(self) -> None:
        for fault in self._faults:
            if fault.kind in (FaultKind.DIE, FaultKind.HANG) and fault.after_tokens == 0:
                self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        self.died = self.died or fault.kind is FaultKind.DIE
        self.hung = self.hung or fault.kind is FaultKind.HANG
