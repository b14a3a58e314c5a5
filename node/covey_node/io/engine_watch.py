"""Watches one model's engine for silence and asks it questions of its own; what follows when is engine_progress.py's.

Without a task or a timer: it is looked after at every beat of the node, and hears the bytes of its own questions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from covey_mesh.core.exchange import Failure, ForwardedRequest, PiecewiseSink, Upstream
from covey_mesh.core.facts import EngineState, Task
from covey_node.core.engine import Engine
from covey_node.core.engine_progress import (
    PROBE_EVERY_S,
    PROBE_S_MAX,
    RESTART_AFTER_S,
    EngineProgress,
    OpenAttempt,
    State,
    Step,
)
from covey_node.io.supervisor import Supervisor

log = logging.getLogger(__name__)

REFUSED_FOR_MS = round(1000 * PROBE_EVERY_S)


class EngineWatch:
    """One model. `hand_back` ends every attempt, with the reason given."""

    def __init__(self, model: str, task: Task, clock: Callable[[], float], hand_back: Callable[[str], None]) -> None:
        self.progress = EngineProgress()
        self._model = model
        self._question = question(model, task)
        self._clock = clock
        self._hand_back = hand_back
        self._probe: _Probe | None = None
        self._engine: Engine | None = None

    def look(
        self,
        supervisor: Supervisor,
        open_attempts: Sequence[OpenAttempt],
        prefill_tokens_per_s: float,
        decode_tokens_per_s: float,
    ) -> None:
        """At every beat while the engine is READY or WEDGED."""
        engine = supervisor.engine
        if engine is None:
            return
        if engine is not self._engine:
            self._engine = engine
            self.forget()
            self.progress.fresh()
        step = self.progress.look(self._clock(), open_attempts, prefill_tokens_per_s, decode_tokens_per_s)
        if step is Step.ASK:
            self._ask(supervisor, engine)
        elif step is Step.HAND_BACK:
            self._wedged(supervisor, len(open_attempts))
            self._ask(supervisor, engine)
        elif step is Step.RESTART:
            self._restart(supervisor)
        elif self.progress.state is State.WELL and self._probe is not None and not self.progress.silent_s:
            self.forget()  # others were answered meanwhile

    def forget(self) -> None:
        """No question of ours is left in the engine. Safe to call twice."""
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()

    def _wedged(self, supervisor: Supervisor, attempts: int) -> None:
        silent_s = self.progress.silent_s
        what = f"nothing came from it for {silent_s:.1f} s, which its measured speed does not explain"
        log.warning(
            "engine wedged: its requests go elsewhere, it is asked every %.0f s whether it answers, and started again "
            "after %.0f s; if this comes back, see the engine's own log and the GPU's (dmesg, nvidia-smi)",
            PROBE_EVERY_S,
            RESTART_AFTER_S,
            extra={"model": self._model, "silent_s": round(silent_s, 1), "attempts": attempts},
        )
        supervisor.silent(what)
        self._hand_back(f"{what}; it is asked whether it answers, and started again if it does not")

    def _restart(self, supervisor: Supervisor) -> None:
        self.forget()
        supervisor.condemn(f"it was wedged: no answer for {RESTART_AFTER_S:.0f} s; covey ended it")

    def _ask(self, supervisor: Supervisor, engine: Engine) -> None:
        probe = self._probe
        if probe is not None and not probe.over and self._clock() - probe.opened_s < PROBE_S_MAX:
            return
        self.forget()
        self._probe = _Probe(self._clock(), lambda: self._answered(supervisor))
        self._probe.open(engine, self._model, self._question)

    def _answered(self, supervisor: Supervisor) -> None:
        self.forget()
        if self.progress.answered() and supervisor.state is EngineState.WEDGED:
            log.info("engine answers again", extra={"model": self._model})
            supervisor.answered()


class _Probe(PiecewiseSink):
    """One question of one token: a sink of the engine. Calls `answered` at the first byte of an answer with 200."""

    def __init__(self, opened_s: float, answered: Callable[[], None]) -> None:
        self.opened_s = opened_s
        self.over = False
        self._answered = answered
        self._upstream: Upstream | None = None
        self._status = 0

    def open(self, engine: Engine, model: str, asked: tuple[str, bytes, bool]) -> None:
        path, body, streaming = asked
        self._upstream = engine.open(ForwardedRequest("probe", 1, model, path, body, streaming, 1, 1), self)

    def cancel(self) -> None:
        self.over = True
        if self._upstream is not None:
            self._upstream.cancel()

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self._status = status

    def data(self, chunk: bytes) -> None:
        if self._status == 200 and not self.over:
            self._answered()

    def end(self, failure: Failure | None) -> None:
        self.over = True


def question(model: str, task: Task) -> tuple[str, bytes, bool]:
    """(path, body, streaming) of the shortest question that the engine itself must answer, not its HTTP server."""
    if task is Task.EMBED:
        return "/v1/embeddings", msgspec.json.encode({"model": model, "input": "covey"}), False
    asked = {"model": model, "prompt": "covey", "max_tokens": 1, "stream": True}
    return "/v1/completions", msgspec.json.encode(asked), True
