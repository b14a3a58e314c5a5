"""Whether an engine is wedged: its process lives, it accepts requests, and no byte comes from it for anybody.

Only the node sees that nothing comes for *anybody*. A gateway judges one attempt by what its machine has queued, and
on a wedged engine the queue only grows. Here the time that counts is that since the last byte to any attempt. It may be
FLOOR_S plus FACTOR times what the engine needs until some attempt must get one: the largest prompt not yet answered,
one step of prompts beside it, and the tokens that the most talkative attempt may be silent for.

    WELL --(silent for half of the limit)--> a question of our own is asked; its answer counts like any byte
    WELL --(silent for the limit)--> WEDGED: every attempt ends, nothing is admitted, a question every PROBE_EVERY_S
    WEDGED --(a byte)--> WELL      WEDGED --(RESTART_AFTER_S)--> the engine is ended and started again

Time is counted from look to look and LOOK_S_MAX at most for each, so that an agent that itself stood still (frozen,
suspended) does not take its own silence for the engine's.

Not here: clocks, asking and ending (covey_node.io.engine_watch).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from covey_mesh.core.frozen import frozen
from covey_mesh.core.silence import (
    FACTOR,
    FLOOR_S,
    SLOWEST_DECODE_TOKENS_PER_S,
    SLOWEST_PREFILL_TOKENS_PER_S,
    STEP_PROMPT_TOKENS,
)

ANSWERED_AFTER_EVENTS = 4
"""The first events of some answers come before the prompt was computed ("response.created")."""

COLD_S = 30.0
"""More time for an engine's first work after it became ready: kernels are compiled, CUDA graphs captured."""

WARM_LOOKS = 2
"""Looks at which an engine had given bytes, after which it is warm: by then it computed prompts and tokens."""

LOOK_S_MAX = 1.0
PROBE_EVERY_S = 2.0
PROBE_S_MAX = 10.0
"""A question stays open so long: a slow answer is one, too. Beyond, its connection may be what is broken."""

RESTART_AFTER_S = 60.0
"""Of being wedged: an engine may still be compiling something (COLD_S), and as long again."""


class State(enum.Enum):
    WELL = "well"
    WEDGED = "wedged"


class Step(enum.Enum):
    """What to do now."""

    NOTHING = "nothing"
    ASK = "ask"
    HAND_BACK = "hand back"
    RESTART = "restart"


@frozen
class OpenAttempt:
    """One attempt that the engine works on. `prompt_tokens`: 0 once it is answered; `silent_tokens`: of output, that
    may come without a byte; `paused`: nobody reads it now, its silence is the client's."""

    prompt_tokens: int
    silent_tokens: int
    paused: bool = False


def limit_s(open_attempts: Sequence[OpenAttempt], prefill_tokens_per_s: float, decode_tokens_per_s: float) -> float:
    """Seconds without a byte for any of these, at most; there is at least one. Speeds of 0: not measured."""
    prefill = prefill_tokens_per_s or SLOWEST_PREFILL_TOKENS_PER_S
    decode = decode_tokens_per_s or SLOWEST_DECODE_TOKENS_PER_S
    prompts = [attempt.prompt_tokens for attempt in open_attempts]
    prompts_s = (max(prompts) + min(STEP_PROMPT_TOKENS, sum(prompts))) / prefill
    silent_tokens = min(attempt.silent_tokens for attempt in open_attempts if not attempt.paused)
    return FLOOR_S + FACTOR * (prompts_s + silent_tokens / decode)


class EngineProgress:
    """One engine's. `moved` is set to True by whoever hands on its bytes: the token path does no more than that."""

    def __init__(self) -> None:
        self.fresh()

    def fresh(self) -> None:
        """An engine has just become ready after its start."""
        self.moved = False
        self.state = State.WELL
        self.silent_s = 0.0
        self._asked = False
        self._wedged_s = 0.0
        self._asked_s = 0.0
        self._busy = False
        self._warm_looks = 0
        self._looked_s: float | None = None

    def look(
        self,
        now_s: float,
        open_attempts: Sequence[OpenAttempt],
        prefill_tokens_per_s: float,
        decode_tokens_per_s: float,
    ) -> Step:
        """At least every LOOK_S_MAX while anything is open. HAND_BACK has made it WEDGED."""
        elapsed_s = 0.0 if self._looked_s is None else min(LOOK_S_MAX, max(0.0, now_s - self._looked_s))
        self._looked_s = now_s
        if self.state is State.WEDGED:
            return self._wait(elapsed_s)
        was_busy, self._busy = self._busy, any(not attempt.paused for attempt in open_attempts)
        moved, self.moved = self.moved, False
        self._warm_looks += moved
        if moved or not was_busy or not self._busy:
            self.silent_s, self._asked = 0.0, False
            return Step.NOTHING
        self.silent_s += elapsed_s
        return self._judge(limit_s(open_attempts, prefill_tokens_per_s, decode_tokens_per_s))

    def answered(self) -> bool:
        """A question of our own was answered. True if the engine was wedged until now."""
        self.moved = True
        was, self.state = self.state, State.WELL
        self.silent_s, self._asked = 0.0, False
        return was is State.WEDGED

    @property
    def warm(self) -> bool:
        return self._warm_looks >= WARM_LOOKS

    def _judge(self, limit: float) -> Step:
        limit += 0.0 if self.warm else COLD_S
        if self.silent_s >= limit:
            self.state = State.WEDGED
            self._wedged_s, self._asked_s = 0.0, 0.0
            return Step.HAND_BACK
        if self.silent_s >= limit / 2 and not self._asked:
            self._asked = True
            return Step.ASK
        return Step.NOTHING

    def _wait(self, elapsed_s: float) -> Step:
        self._wedged_s += elapsed_s
        self._asked_s += elapsed_s
        if self._wedged_s >= RESTART_AFTER_S:
            return Step.RESTART
        if self._asked_s >= PROBE_EVERY_S:
            self._asked_s = 0.0
            return Step.ASK
        return Step.NOTHING
