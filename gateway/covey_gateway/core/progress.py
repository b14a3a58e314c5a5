"""How long a machine may stay silent before it is taken for wedged: derived from what it was measured to do.

An engine can accept and never answer, or stop in the middle, while its process, its socket and its agent live on; no
link notices. The deadline is FACTOR times what the same machine would need by its own measured speeds, plus a floor
for everything that is not the engine. Machines that measured nothing yet (a model just loaded) are given what the
slowest useful machine would need, so a cold start is not mistaken for a hang; a model that is still loading is never
asked at all.

Not here: the clock, and what follows (request_serving.py, circuit.py).
"""

from __future__ import annotations

from covey_mesh.core import silence
from covey_mesh.core.facts import ModelLoad, Task
from covey_mesh.core.frozen import frozen
from covey_mesh.core.names import NodeId
from covey_mesh.core.silence import (
    CONTEXT_TOKENS_UNKNOWN,
    FACTOR,
    FLOOR_S,
    SLOWEST_DECODE_TOKENS_PER_S,
    SLOWEST_PREFILL_TOKENS_PER_S,
    STEP_PROMPT_TOKENS,
)
from covey_scheduler.core.machine import clean_load

TOKENS_AN_EVENT = 2 * silence.TOKENS_AN_EVENT
"""Twice what the node that has the engine allows: it sees more, and is to speak first."""


@frozen
class Work:
    """One attempt. `answer_tokens_most` 0: no bound but the context's. `silent_tokens`: see TOKENS_AN_EVENT."""

    prompt_tokens: int
    answer_tokens_most: int
    streaming: bool
    silent_tokens: int = TOKENS_AN_EVENT


@frozen
class Pace:
    """Seconds from opening to the first byte, and between bytes after it, at most."""

    first_s: float
    gap_s: float


class CleanLoads:
    """The last report of each machine that was asked about, made safe once. LOADS_MAX at most, all forgotten beyond."""

    LOADS_MAX = 4096

    def __init__(self) -> None:
        self._clean: dict[tuple[NodeId, str], tuple[ModelLoad, ModelLoad]] = {}

    def of(self, node_id: NodeId, load: ModelLoad) -> ModelLoad:
        known = self._clean.get((node_id, load.model))
        if known is not None and known[0] is load:
            return known[1]
        if len(self._clean) >= self.LOADS_MAX:
            self._clean.clear()
        clean = clean_load(load)
        self._clean[node_id, load.model] = (load, clean)
        return clean


def pace_of(load: ModelLoad | None, work: Work) -> Pace:
    """For one attempt on the machine that reports `load` (None: it reports nothing of this model). Asked again at each
    look, so that work which came to the machine meanwhile counts. Always finite: what a machine says of itself that is
    no number counts as not measured."""
    return pace_of_clean(None if load is None else clean_load(load), work)


def pace_of_clean(load: ModelLoad | None, work: Work) -> Pace:
    """`pace_of` for a report that was made safe before."""
    prefill = (load.prefill_tokens_per_s if load else 0.0) or SLOWEST_PREFILL_TOKENS_PER_S
    decode = (load.decode_tokens_per_s if load else 0.0) or SLOWEST_DECODE_TOKENS_PER_S
    if load is not None and load.task is Task.EMBED:
        return _embedding_pace(prefill, load.queued_prompt_tokens, work)
    # No more than it has queued.
    step_s = min(STEP_PROMPT_TOKENS, load.queued_tokens if load else STEP_PROMPT_TOKENS) / prefill
    ahead_s = load.queued_tokens / (decode * max(1, load.running_requests)) if load else 0.0
    expected_s = work.prompt_tokens / prefill + step_s + ahead_s
    if not work.streaming:
        context = (load.max_context_tokens if load else 0) or CONTEXT_TOKENS_UNKNOWN
        expected_s += (work.answer_tokens_most or context) / decode
    gap_s = work.silent_tokens / decode + step_s
    return Pace(FLOOR_S + FACTOR * expected_s, FLOOR_S + FACTOR * gap_s)


def _embedding_pace(prefill_tokens_per_s: float, queued_prompt_tokens: int, work: Work) -> Pace:
    """All its work is prompts, those of others first; its answer comes whole."""
    expected_s = (work.prompt_tokens + queued_prompt_tokens) / prefill_tokens_per_s
    return Pace(FLOOR_S + FACTOR * expected_s, FLOOR_S + FACTOR * STEP_PROMPT_TOKENS / prefill_tokens_per_s)
