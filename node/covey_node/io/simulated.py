"""The Engine adapter "simulated": the batching model of covey_node.core.simulated on loop timers, in this process.

For tests, demonstrations and the simulator of pools. It is named "simulated" wherever an engine is named; its text
means nothing. It keeps the rules of covey_mesh.core.exchange and answers in the shapes that vLLM answers in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import Task
from covey_node.core import simulated_openai as openai
from covey_node.core.engine import EngineInfo
from covey_node.core.settings import ModelSpec
from covey_node.core.simulated import BatchModel, Fault, FaultKind, Produced

FULL_RETRY_AFTER_MS = 500
EVENT_STREAM = "text/event-stream; charset=utf-8"


class SimulatedRequest:
    """One attempt in flight (covey_mesh.core.exchange.Upstream)."""

    def __init__(self, engine: SimulatedEngine, sink: ResponseSink) -> None:
        self._engine = engine
        self.sink: ResponseSink | None = sink
        self.call: openai.Call | None = None
        self.answer_id = ""
        self.sent: list[int] = []
        self.produced: list[int] = []
        self.unfinished = 0
        self.head_sent = False
        self.paused = False

    def cancel(self) -> None:
        if self.sink is not None:
            self.sink = None
            self._engine.abort(self)

    def pause(self) -> None:
        """Tokens are still produced, as in a real engine, but kept as a count: paused bytes take no memory."""
        self.paused = True

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            asyncio.get_running_loop().call_soon(self._engine.flush, self)

    def end(self, failure: Failure | None) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.end(failure)


class SimulatedEngine:
    """One start-to-stop life (covey_node.core.engine.Engine)."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._settings = spec.simulated
        self._embeds = spec.task is Task.EMBED
        self._batch = BatchModel(spec.simulated)
        self._requests: set[SimulatedRequest] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._count = 0
        self._died: asyncio.Future[str] | None = None
        self._idle = asyncio.Event()

    @property
    def running(self) -> int:
        """Requests that the engine works on."""
        return sum(request.call is not None for request in self._requests)

    async def start(self, progress: Callable[[str], None]) -> EngineInfo:
        progress("starting a simulated engine")
        await asyncio.sleep(self._settings.start_s)
        self._died = asyncio.get_running_loop().create_future()
        task = self._spec.task or Task.GENERATE
        context = self._spec.max_context_tokens or self._settings.max_context_tokens
        kv_tokens = 0 if self._embeds else self._settings.kv_cache_tokens
        return EngineInfo("simulated", self._spec.name, task, context, kv_tokens, self._settings.running_limit)

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        opened = SimulatedRequest(self, sink)
        self._requests.add(opened)
        self._count += 1
        opened.answer_id = f"simulated-{self._count}"
        asyncio.get_running_loop().call_soon(self._begin, opened, request)
        return opened

    def slow_down(self, factor: float) -> None:
        """As if something else took the machine, from the next step on: everything takes `factor` times as long as the
        settings say (1: as they say)."""
        base = self._settings
        self._batch.settings = replace(
            base,
            prefill_tokens_per_s=base.prefill_tokens_per_s / factor,
            decode_tokens_per_s=base.decode_tokens_per_s / factor,
        )

    def inject(self, fault: Fault) -> None:
        """From now on; see Fault."""
        self._batch.inject(fault)
        if fault.kind is FaultKind.DIE and fault.after_tokens == 0:
            self.die("a fault was injected")

    def heal(self) -> None:
        """No faults any more."""
        self._batch.heal()
        self._schedule()

    def die(self, cause: str) -> None:
        """As a killed process: every answer breaks off."""
        self._batch.died = True
        self._cancel_timer()
        for request in list(self._requests):
            self._finish(request, Failure(FailureCode.ENGINE_FAILED, f"the engine broke off its answer: {cause}"))
        if self._died is not None and not self._died.done():
            self._died.set_result(f"the simulated engine died: {cause}")

    async def stop(self, grace_s: float) -> None:
        if self._requests and grace_s > 0:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), grace_s)
            except TimeoutError:
                pass
        self.die("it was stopped")

    async def wait_died(self) -> str:
        assert self._died is not None, "wait_died before start"
        return await asyncio.shield(self._died)

    async def cached_tokens_free(self) -> int | None:
        return None if self._embeds else self._batch.kv_tokens_free

    def abort(self, request: SimulatedRequest) -> None:
        """The request was cancelled."""
        self._forget(request)
        for choice in range(len(request.produced)):
            self._batch.abort((request, choice), self._now_s())
        self._schedule()

    def flush(self, request: SimulatedRequest) -> None:
        """Send what was produced and not yet sent, unless the reader is paused."""
        if request.sink is None or request.paused or request.call is None:
            return
        call, seed = request.call, self._settings.seed
        finished = request.unfinished == 0
        if call.stream:
            chunk = b"".join(
                openai.token_event(call, request.answer_id, seed, i, i == choice.output_tokens - 1, number)
                for number, choice in enumerate(call.choices)
                for i in range(request.sent[number], request.produced[number])
            )
            request.sent = list(request.produced)
            if finished:
                chunk += openai.tail_events(call, request.answer_id, sum(request.produced))
            self._send(request, call, chunk)
            if finished:
                self._finish(request, None)
        elif finished:
            self._whole(request, 200, openai.whole(call, request.answer_id, seed, sum(request.produced)))

    def _begin(self, request: SimulatedRequest, asked: ForwardedRequest) -> None:
        if request.sink is None:
            return
        if self._batch.died:
            self._finish(request, Failure(FailureCode.ENGINE_FAILED, "the engine does not accept connections"))
            return
        if self._batch.full:
            full = Failure(FailureCode.RESOURCE_EXHAUSTED, "the engine is full", FULL_RETRY_AFTER_MS)
            self._finish(request, full)
            return
        context = self._spec.max_context_tokens or self._settings.max_context_tokens
        try:
            call = openai.parse(asked.path, asked.body, self._spec.name, self._embeds, context, self._settings.seed)
        except openai.CallError as error:
            self._whole(request, error.status, error.body)
            return
        request.call = call
        request.sent, request.produced = [0] * len(call.choices), [0] * len(call.choices)
        request.unfinished = len(call.choices)
        for number, choice in enumerate(call.choices):
            self._batch.submit((request, number), choice.prompt_tokens, choice.output_tokens, self._now_s())
        self._after_batch()

    def _send(self, request: SimulatedRequest, call: openai.Call, chunk: bytes) -> None:
        """Of a stream."""
        if request.sink is not None and not request.head_sent:
            request.head_sent = True
            request.sink.head(200, EVENT_STREAM, 0)
            chunk = openai.head_event(call, request.answer_id) + chunk
        if request.sink is not None and chunk:
            request.sink.data(chunk)

    def _whole(self, request: SimulatedRequest, status: int, body: bytes) -> None:
        self._forget(request)
        sink, request.sink = request.sink, None
        if sink is not None:
            sink.whole(status, "application/json", 0, body, None)

    def _finish(self, request: SimulatedRequest, failure: Failure | None) -> None:
        self._forget(request)
        request.end(failure)

    def _forget(self, request: SimulatedRequest) -> None:
        self._requests.discard(request)
        if not self._requests:
            self._idle.set()

    def _tick(self) -> None:
        self._timer = None
        for produced in self._batch.advance(self._now_s()):
            self._deliver(produced)
        self._after_batch()

    def _deliver(self, produced: Produced) -> None:
        assert isinstance(produced.key, tuple)
        request, choice = produced.key
        request.produced[choice] = produced.tokens
        request.unfinished -= produced.finished
        self.flush(request)

    def _after_batch(self) -> None:
        if self._batch.died:
            self.die("a fault was injected")
        else:
            self._schedule()

    def _schedule(self) -> None:
        due_s = self._batch.due_s()
        self._cancel_timer()
        if due_s is not None:
            self._timer = asyncio.get_running_loop().call_at(due_s, self._tick)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
