"""One model of this machine: its engine, its admission and its speed, joined for each request by an Attempt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, ResponseSink, Upstream, Usage
from covey_mesh.core.facts import EngineState, ModelLoad, Task
from covey_mesh.core.model_size import attention_per_token
from covey_node.core.admission import WAITING_S_MAX, Admission, Bounds
from covey_node.core.engine import Engine, EngineInfo
from covey_node.core.measured import Measured
from covey_node.core.meter import Meter, Metered
from covey_node.core.settings import ModelSpec
from covey_node.core.speed_record import SpeedRecord
from covey_node.core.ticket import Place, Ticket
from covey_node.core.usage import CACHED_TOKENS, PROMPT_TOKENS, last_count
from covey_node.io.attempt import Attempt, refused
from covey_node.io.calibrating import Calibrator
from covey_node.io.engine_watch import REFUSED_FOR_MS, EngineWatch
from covey_node.io.supervisor import Supervisor
from covey_node.io.vllm import VllmEngine

TOKENS_TOLD_TOGETHER = 4
TOLD_TOGETHER_FROM_TOKENS_PER_S = 16.0
"""Of one stream: so that a machine that slows down to a fifth is still heard of in about a second."""

HANDED_BACK_WITHIN_S = 1.0
"""Between handing the last attempts back and ending an engine that has not let go of them."""


class ServedModel:
    """One model: opens attempts while its engine is READY, and reports."""

    def __init__(
        self,
        spec: ModelSpec,
        make_engine: Callable[[], Engine],
        clock: Callable[[], float],
        changed: Callable[[], None],
        unix_clock: Callable[[], float] = time.time,
        calibration_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.spec = spec
        self._clock = clock
        self._unix_clock = unix_clock
        self._changed = changed
        # Inputs of an embedding request are many and short: its length says nothing of any context.
        self._meter = Meter(0.0 if spec.task is Task.EMBED else attention_per_token(spec.name))
        self._measured = Measured(self._meter, spec.task or Task.GENERATE)
        # Of an engine with a prefix cache nobody knows what it computed of a prompt, until it tells.
        self._told = spec.engine != "vllm" or spec.task is Task.EMBED
        self._admission = Admission(Bounds(0, 0, 0, 0), self._meter)
        self._calibration_s = calibration_s
        self._calibrator = Calibrator(self._meter, clock, changed)
        self._bounded_for: EngineInfo | None = None
        self._attempts: dict[Ticket, Attempt] = {}
        self._ready = False
        self.watch = EngineWatch(spec.name, spec.task or Task.GENERATE, clock, self._wedged)
        self.progress = self.watch.progress
        """Whether bytes come from its engine."""
        self.supervisor = Supervisor(spec.name, make_engine, clock, self._engine_changed)

    def process_ids(self) -> list[int]:
        """Of its engine; none for one without processes of its own. May be called from any thread."""
        engine = self.supervisor.engine
        return engine.process_ids() if isinstance(engine, VllmEngine) else []

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """Admission first, then the engine."""
        if not self._ready:
            return self._not_ready(sink)
        if self._calibrator.running:
            self._calibrator.abort()
        now_s, prompt_tokens, streaming = self._clock(), request.prompt_tokens, request.streaming
        ticket = self._admission.admit(
            request.request_id,
            request.attempt,
            prompt_tokens,
            request.max_output_tokens,
            len(request.body),
            now_s,
            streaming,
        )
        engine = self.supervisor.engine
        if ticket is None or engine is None:
            return self._open_otherwise(request, sink, ticket, now_s)
        attempt = self._attempts[ticket] = Attempt(self, request, sink, ticket)
        attempt.run(engine, self._meter.started(prompt_tokens, streaming, now_s, 0, self._told))
        self._changed()
        return attempt

    def _not_ready(self, sink: ResponseSink) -> Upstream:
        state, detail = self.supervisor.state, self.supervisor.detail
        why = f"the engine of {self.spec.name} is {state.value}" + (f": {detail}" if detail else "")
        if state is EngineState.WEDGED:
            return refused(sink, Failure(FailureCode.RESOURCE_EXHAUSTED, why, REFUSED_FOR_MS))
        return refused(sink, Failure(FailureCode.NO_MODEL, why))

    def _open_otherwise(
        self, request: ForwardedRequest, sink: ResponseSink, ticket: Ticket | None, now_s: float
    ) -> Upstream:
        """It must wait, is refused, takes the place of an earlier attempt, or the engine has just ended."""
        superseded: Ticket | None = None
        if ticket is None:
            verdict = self._admission.decide(
                request.request_id,
                request.attempt,
                request.prompt_tokens,
                request.max_output_tokens,
                len(request.body),
                now_s,
                request.streaming,
            )
            ticket, superseded = verdict.ticket, verdict.superseded
        upstream: Upstream
        if ticket is not None:
            upstream = attempt = self._attempts[ticket] = Attempt(self, request, sink, ticket)
            if ticket.place is Place.RUNNING:
                self._run(attempt)
        else:
            assert verdict.failure is not None
            upstream = refused(sink, verdict.failure)
        if superseded is not None:
            self._supersede(self._attempts[superseded])
        self._changed()
        return upstream

    async def stop(self, grace_s: float) -> None:
        """Ends the engine; what waits here is handed back at once, what runs after `grace_s`."""
        why = "this machine is stopping"
        await self._calibrator.stop()
        self.watch.forget()
        for attempt in list(self._attempts.values()):
            if attempt.ticket.place is Place.WAITING:
                attempt.fail(Failure(FailureCode.DRAINING, why))
        handing_back = asyncio.get_running_loop().call_later(grace_s, self.hand_back, why)
        try:
            await self.supervisor.stop(grace_s + HANDED_BACK_WITHIN_S)
        finally:
            handing_back.cancel()

    def hand_back(self, why: str) -> None:
        """Ends every attempt; DRAINING tells the gateways to go on with them elsewhere."""
        for attempt in list(self._attempts.values()):
            attempt.fail(Failure(FailureCode.DRAINING, why))

    def expire(self) -> None:
        """At every beat: hands back what has waited too long, and all of it when the engine is wedged."""
        self._look()
        for ticket in self._admission.expired(self._clock()):
            why = f"no place became free within {WAITING_S_MAX:.0f} s"
            self._attempts[ticket].fail(self._admission.refusal(why))

    def load(self) -> ModelLoad:
        """The report as of now."""
        self._update_bounds()
        info, admission = self.supervisor.info, self._admission
        speeds = self._measured.report(self._clock(), self._unix_clock())
        engine = self.supervisor.engine
        cache = engine.cache if isinstance(engine, VllmEngine) else None
        if cache is not None and cache.known:
            self._meter.engine_computed(cache.prompt_tokens)
        return ModelLoad(
            model=self.spec.name,
            state=self.supervisor.state,
            engine=self.spec.engine,
            task=self.spec.task or Task.GENERATE,
            max_context_tokens=info.max_context_tokens if info else 0,
            running_requests=admission.running,
            waiting_requests=admission.waiting,
            running_limit=admission.running_limit,
            waiting_limit=admission.bounds.waiting,
            queued_tokens=admission.queued_tokens,
            queued_prompt_tokens=admission.prompt_tokens_left(self._clock()),
            kv_cache_tokens_total=admission.bounds.kv_tokens,
            kv_cache_tokens_free=admission.kv_tokens_free,
            prefill_tokens_per_s=self._meter.prefill_tokens_per_s,
            decode_tokens_per_s=self._meter.stream_tokens_per_s(admission.running),
            detail=self.supervisor.detail or self._calibrator.what,
            restarts=self.supervisor.restarts,
            speeds=speeds,
            prefix_cache_tokens=cache.held_tokens if cache else 0,
            prefix_cache_evicted_tokens=cache.evicted_tokens if cache else 0,
            marks=admission.marks,
        )

    # What attempts call.

    def progressed(self, ticket: Ticket, metered: Metered | None, tokens: int) -> int:
        """Output arrived; returns after how many further tokens to tell again. A few at a time where they come fast:
        the speeds are sampled every DECODE_SAMPLE_TOKENS, a multiple."""
        if not tokens or metered is None:
            return 1
        now_s = self._clock()
        self._meter.tokens(metered, tokens, now_s)
        self._admission.progressed(ticket, tokens)
        slowest_s = metered.tokens_since_mark / TOLD_TOGETHER_FROM_TOKENS_PER_S
        return TOKENS_TOLD_TOGETHER if now_s - metered.mark_s < slowest_s else 1

    def answered(self, attempt: Attempt, usage: Usage | None) -> None:
        """A whole answer ended; of one that ended well, its true token counts are learned, where it tells them."""
        metered, ticket = attempt.metered, attempt.ticket
        if usage is None or metered is None:
            self.over(attempt, complete=True)
            return
        prompt_tokens, output_tokens = usage.prompt_tokens, usage.output_tokens
        self._meter.whole_over(metered, prompt_tokens, output_tokens, self._clock(), usage.cached_tokens)
        del self._attempts[ticket]
        for waiting in self._admission.answered(ticket, prompt_tokens, output_tokens):
            self._run(self._attempts[waiting])
        self._changed()

    def streamed(self, metered: Metered | None, tail: bytes) -> None:
        """A stream ended well with its usage: what of the prompt was cached was no work."""
        prompt_tokens, cached_tokens = last_count(tail, PROMPT_TOKENS), last_count(tail, CACHED_TOKENS)
        if metered is not None and prompt_tokens >= 0 and (cached_tokens >= 0 or self._told):
            self._meter.told(metered, prompt_tokens, max(0, cached_tokens))

    def over(self, attempt: Attempt, complete: bool) -> None:
        """The attempt ended; its place goes to those who wait."""
        metered = attempt.metered
        if metered is not None:
            self._meter.ended(metered, self._clock(), complete)
        del self._attempts[attempt.ticket]
        for waiting in self._admission.release(attempt.ticket):
            self._run(self._attempts[waiting])
        self._changed()

    def _run(self, attempt: Attempt) -> None:
        engine = self.supervisor.engine
        if engine is None or self.supervisor.state is not EngineState.READY:
            gone = Failure(FailureCode.ENGINE_FAILED, f"the engine of {self.spec.name} ended before its turn came")
            asyncio.get_running_loop().call_soon(attempt.end, gone)
            return
        request = attempt.request
        metered = self._meter.started(request.prompt_tokens, request.streaming, self._clock(), 0, self._told)
        attempt.run(engine, metered)

    def _look(self) -> None:
        if self.supervisor.state not in (EngineState.READY, EngineState.WEDGED):
            return
        now_s, info = self._clock(), self.supervisor.info
        embeds, context = self.spec.task is Task.EMBED, info.max_context_tokens if info else 0
        attempts = [a for a in self._attempts.values() if a.ticket.place is Place.RUNNING]
        self.watch.look(
            self.supervisor,
            [attempt.open_work(now_s, embeds, context) for attempt in attempts],
            self._meter.prefill_tokens_per_s,
            self._meter.stream_tokens_per_s(len(attempts)),
        )

    def _wedged(self, why: str) -> None:
        """Those that wait first: no place that frees now is theirs."""
        attempts = list(self._attempts.values())
        for attempt in attempts:
            if attempt.ticket.place is Place.WAITING:
                attempt.fail(Failure(FailureCode.RESOURCE_EXHAUSTED, why, REFUSED_FOR_MS))
        for attempt in attempts:
            attempt.fail(Failure(FailureCode.STALLED, why))

    def restore(self, record: SpeedRecord) -> None:
        """What an earlier life of the agent measured here."""
        self._measured.restore(record, self._clock(), self._unix_clock())

    def to_remember(self) -> SpeedRecord | None:
        """What another life of the agent should know; None while that has not changed."""
        return self._measured.to_remember(self._clock(), self._unix_clock())

    # Its speed.

    def _engine_changed(self) -> None:
        supervisor = self.supervisor
        self._ready = supervisor.state is EngineState.READY
        self._update_bounds()
        if supervisor.state not in (EngineState.READY, EngineState.WEDGED):
            self.watch.forget()
        self._measured.engine_is(supervisor.state, supervisor.lifecycle.since_s, self._clock())
        info, engine = supervisor.info, supervisor.engine
        if supervisor.state is EngineState.READY and info is not None and engine is not None:
            wanted = not self._attempts and self._measured.wants_calibration(self._clock())
            self._calibrator.engine_ready(engine, info, self._calibration_s() if wanted else 0.0)
        self._changed()

    def _supersede(self, attempt: Attempt) -> None:
        """Its end is told on the next turn, its place is free at once: `open` must not call a sink."""
        attempt.fail_soon(Failure(FailureCode.STALE_ATTEMPT, "a newer attempt of the same request took over"))

    def _update_bounds(self) -> None:
        info = self.supervisor.info
        if info is not None and info is not self._bounded_for:
            self._bounded_for = info
            self._admission.bounds = Bounds.of_engine(info.running_limit, info.kv_cache_tokens, info.max_context_tokens)
