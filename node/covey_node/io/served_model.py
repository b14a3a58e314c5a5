"""One model of this machine: its engine, its admission and its speed, joined for each request by an Attempt.

The token path passes through Attempt: per chunk one count of event marks, no parsing, no task.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import EngineState, ModelLoad, Task
from covey_mesh.core.model_size import attention_per_token
from covey_mesh.core.silence import CONTEXT_TOKENS_UNKNOWN, FACTOR, TOKENS_A_TOOL_CALL, TOKENS_AN_EVENT, may_hold_back
from covey_node.core.admission import WAITING_S_MAX, Admission, Bounds, Place, Ticket
from covey_node.core.engine import Engine, EngineInfo
from covey_node.core.engine_progress import ANSWERED_AFTER_EVENTS, OpenAttempt
from covey_node.core.measured import Measured
from covey_node.core.meter import Meter, Metered
from covey_node.core.settings import ModelSpec
from covey_node.core.speed_record import SpeedRecord
from covey_node.io.calibrating import Calibrator
from covey_node.io.engine_watch import REFUSED_FOR_MS, EngineWatch
from covey_node.io.supervisor import Supervisor
from covey_node.io.vllm import VllmEngine

EVENT_MARK = b"data: "
"""Begins each event of a stream: one token, nearly always (vLLM joins tokens only when the reader lags)."""

TOKENS_TOLD_TOGETHER = 4
TOLD_TOGETHER_FROM_TOKENS_PER_S = 16.0
"""Of one stream: so that a machine that slows down to a fifth is still heard of in about a second."""

USAGE_TAIL_BYTES = 4096
"""A whole answer's usage object stands near its end."""

HANDED_BACK_WITHIN_S = 1.0
"""Between handing the last attempts back and ending an engine that has not let go of them."""

ASKS_FOR_USAGE = b'"include_usage"'

BESIDE_THE_ENGINE = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})
"""Answered by its HTTP server alone: no sign that the engine lives."""

_CACHED_TOKENS = re.compile(rb'"cached_tokens":\s*(\d{1,9})')
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d{1,9})')
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":\s*(\d{1,9})')


def refused(sink: ResponseSink, failure: Failure) -> Upstream:
    """An attempt that ends at once, on the next turn of the loop."""
    return _Refused(sink, failure)


class _Refused:
    def __init__(self, sink: ResponseSink, failure: Failure) -> None:
        self._handle = asyncio.get_running_loop().call_soon(sink.end, failure)

    def cancel(self) -> None:
        self._handle.cancel()

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Attempt:
    """One admitted request: the Upstream of who opened it, the sink of the engine."""

    def __init__(self, served: ServedModel, request: ForwardedRequest, sink: ResponseSink, ticket: Ticket) -> None:
        self._served = served
        self._progress = served.watch.progress
        self._sink: ResponseSink | None = sink
        self._upstream: Upstream | None = None
        self._metered: Metered | None = None
        self._paused = False
        self._before = self._tail = b""
        self._streaming = request.streaming
        self._untold_tokens = 0
        self._told_every = 1
        self._tells = request.streaming and ASKS_FOR_USAGE in request.body
        self._holds_back = request.streaming and may_hold_back(request.body)
        self._status = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._last_word: asyncio.Handle | None = None
        self.request = request
        self.ticket = ticket
        if request.deadline_ms > 0:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(request.deadline_ms / 1000, self._late)

    def run(self, engine: Engine, metered: Metered) -> None:
        """Its turn has come."""
        self._metered = metered
        self._upstream = engine.open(self.request, self)
        if self._paused:
            self._upstream.pause()

    def open_work(self, now_s: float, embeds: bool, context_tokens: int) -> OpenAttempt:
        """As the engine's silence is judged by. An answer that comes as a whole does not show when its prompt was
        computed; it is taken to be, FACTOR times as late as expected."""
        request, ticket, metered = self.request, self.ticket, self._metered
        if request.streaming:
            answered = ticket.output_tokens >= ANSWERED_AFTER_EVENTS
            silent_tokens = TOKENS_A_TOOL_CALL if self._holds_back else TOKENS_AN_EVENT
        else:
            due_s = ticket.prompt_due_s
            began_s = now_s if metered is None else metered.mark_s
            answered = not embeds and due_s is not None and now_s - began_s > FACTOR * (due_s - began_s)
            silent_tokens = 0 if embeds else request.max_output_tokens or context_tokens or CONTEXT_TOKENS_UNKNOWN
        return OpenAttempt(0 if answered else request.prompt_tokens, silent_tokens, self._paused)

    def fail(self, failure: Failure) -> None:
        """Ended from here (superseded, waited too long, late): the engine's work is aborted."""
        if self._upstream is not None:
            self._upstream.cancel()
        self.end(failure)

    def fail_soon(self, failure: Failure) -> None:
        """As `fail`, but the sink hears of it on the next turn of the loop."""
        sink = self._sink
        if sink is not None:
            self.cancel()
            self._last_word = asyncio.get_running_loop().call_soon(sink.end, failure)

    # What the opener calls.

    def cancel(self) -> None:
        if self._sink is None:
            if self._last_word is not None:
                self._last_word.cancel()
            return
        self._sink = None
        if self._upstream is not None:
            self._upstream.cancel()
        self._over()

    def pause(self) -> None:
        self._paused = True
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        self._paused = False
        if self._upstream is not None:
            self._upstream.resume()

    # What the engine calls.

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self._status = status
        if self._sink is not None:
            self._sink.head(status, content_type, retry_after_s)

    def data(self, chunk: bytes) -> None:
        if self._streaming:
            self._untold_tokens += chunk.count(EVENT_MARK)
            if self._untold_tokens >= self._told_every:
                self._progress.moved = True
                self._tell_progress()
            if self._tells:  # the usage may come in a read before "[DONE]"
                self._before, self._tail = self._tail, chunk
        else:
            self._tail = (self._tail + chunk if len(chunk) < USAGE_TAIL_BYTES else chunk)[-USAGE_TAIL_BYTES:]
        if self._sink is not None:
            self._sink.data(chunk)

    def end(self, failure: Failure | None) -> None:
        if self._sink is None:
            return
        sink, self._sink = self._sink, None
        if failure is None and self._status == 200:
            self._progress.moved = self._progress.moved or self.request.path not in BESIDE_THE_ENGINE
            if not self.request.streaming:
                self._served.answered_whole(self.ticket, self._metered, self._tail)
            elif self._tells:
                self._served.streamed(self._metered, (self._before + self._tail)[-USAGE_TAIL_BYTES:])
        self._over()
        sink.end(failure)

    def _late(self) -> None:
        self.fail(Failure(FailureCode.DEADLINE_EXCEEDED, "the client's deadline passed before the answer was complete"))

    def _tell_progress(self) -> None:
        tokens, self._untold_tokens = self._untold_tokens, 0
        self._told_every = self._served.progressed(self.ticket, self._metered, tokens)

    def _over(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._untold_tokens:
            self._tell_progress()
        self._served.over(self, self._metered)


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
        self._caches = spec.engine == "vllm" and spec.task is not Task.EMBED
        self._admission = Admission(Bounds(0, 0, 0, 0), self._meter)
        self._calibration_s = calibration_s
        self._calibrator = Calibrator(self._meter, clock, changed)
        self._bounded_for: EngineInfo | None = None
        self._attempts: dict[Ticket, Attempt] = {}
        self.watch = EngineWatch(spec.name, spec.task or Task.GENERATE, clock, self._wedged)
        self.supervisor = Supervisor(spec.name, make_engine, clock, self._engine_changed)

    def process_ids(self) -> list[int]:
        """Of its engine; none for one without processes of its own. May be called from any thread."""
        engine = self.supervisor.engine
        return engine.process_ids() if isinstance(engine, VllmEngine) else []

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """Admission first, then the engine."""
        if self.supervisor.state is not EngineState.READY:
            state, detail = self.supervisor.state.value, self.supervisor.detail
            why = f"the engine of {self.spec.name} is {state}" + (f": {detail}" if detail else "")
            if self.supervisor.state is EngineState.WEDGED:
                return refused(sink, Failure(FailureCode.RESOURCE_EXHAUSTED, why, REFUSED_FOR_MS))
            return refused(sink, Failure(FailureCode.NO_MODEL, why))
        self._calibrator.abort()
        self._update_bounds()
        verdict = self._admission.offer(
            request.request_id,
            request.attempt,
            request.prompt_tokens,
            request.max_output_tokens,
            len(request.body),
            self._clock(),
            request.streaming,
        )
        upstream: Upstream
        if verdict.ticket is not None:
            attempt = Attempt(self, request, sink, verdict.ticket)
            self._attempts[verdict.ticket] = attempt
            if verdict.ticket.place is Place.RUNNING:
                self._run(attempt)
            upstream = attempt
        else:
            assert verdict.failure is not None
            upstream = refused(sink, verdict.failure)
        if verdict.superseded is not None:
            self._supersede(self._attempts[verdict.superseded])
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

    def answered_whole(self, ticket: Ticket, metered: Metered | None, tail: bytes) -> None:
        """A whole answer ended well: learn its true token counts, where it tells them."""
        prompt, output = _PROMPT_TOKENS.findall(tail), _COMPLETION_TOKENS.findall(tail)
        if metered is None or not prompt:
            return
        prompt_tokens, output_tokens = int(prompt[-1]), int(output[-1]) if output else 0
        cached = _CACHED_TOKENS.findall(tail)
        self._admission.corrected(ticket, prompt_tokens, output_tokens)
        self._meter.answered_whole(
            metered, prompt_tokens, output_tokens, self._clock(), int(cached[-1]) if cached else 0
        )

    def streamed(self, metered: Metered | None, tail: bytes) -> None:
        """A stream ended well with its usage: what of the prompt was cached was no work."""
        prompt, cached = _PROMPT_TOKENS.findall(tail), _CACHED_TOKENS.findall(tail)
        if metered is not None and prompt and (cached or not self._caches):
            self._meter.told(metered, int(prompt[-1]), int(cached[-1]) if cached else 0)

    def over(self, attempt: Attempt, metered: Metered | None) -> None:
        """The attempt ended; its place goes to those who wait."""
        if metered is not None:
            self._meter.ended(metered, self._clock())
        del self._attempts[attempt.ticket]
        for ticket in self._admission.release(attempt.ticket):
            self._run(self._attempts[ticket])
        self._changed()

    def _run(self, attempt: Attempt) -> None:
        engine = self.supervisor.engine
        if engine is None or self.supervisor.state is not EngineState.READY:
            gone = Failure(FailureCode.ENGINE_FAILED, f"the engine of {self.spec.name} ended before its turn came")
            asyncio.get_running_loop().call_soon(attempt.end, gone)
            return
        request = attempt.request
        now_s = self._clock()
        metered = self._meter.started(request.prompt_tokens, request.streaming, now_s, told=not self._caches)
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
