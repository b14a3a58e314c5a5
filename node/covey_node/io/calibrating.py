"""Asks a freshly loaded engine the questions of covey_node.core.calibration and feeds the answers to its meter.

Runs while the model already serves: `abort` ends it within the call when a client's request comes, so that nobody waits
for it. Bounded in time; what was seen until then counts.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable

from covey_mesh.core.exchange import Failure, ForwardedRequest, PiecewiseSink, Upstream
from covey_mesh.core.facts import Task
from covey_node.core.calibration import DECODE_S, Step, plan, question
from covey_node.core.engine import Engine, EngineInfo
from covey_node.core.meter import Meter, Metered

log = logging.getLogger(__name__)

STEP_S_MAX = 5.0
"""A step that has not begun to answer by then ends the calibration: the traffic will teach the rest."""

TAIL_BYTES = 4096
_EVENT_WITH_TOKEN = re.compile(rb'data: \{[^\n]*"choices":\s*\[\{')
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d{1,9})')


class Calibration:
    """One run; make another for another life of the engine."""

    def __init__(self, engine: Engine, info: EngineInfo, meter: Meter, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._info = info
        self._meter = meter
        self._clock = clock
        self._streams: set[_Stream] = set()
        self._aborted = False

    async def run(self, time_s: float, progress: Callable[[str], None]) -> bool:
        """True if every step was taken. Returns at the latest a moment after `time_s`, or after `abort`."""
        steps = plan(self._info.task, self._info.max_context_tokens, self._info.running_limit)
        ends_s = self._clock() + time_s
        self._meter.calibrating = True
        try:
            for number, step in enumerate(steps, 1):
                left_s = ends_s - self._clock()
                if left_s <= 0 or self._aborted:
                    return False
                progress(f"measuring its speed, {number} of {len(steps)}")
                if not await self._take(step, left_s):
                    return False
            return True
        finally:
            self.abort()

    def abort(self) -> None:
        """Nothing of it is left in the engine's queue. Safe to call twice."""
        self._aborted = True
        for stream in list(self._streams):
            stream.cancel()
        self._meter.next_batch(self._clock())
        self._meter.calibrating = False

    async def _take(self, step: Step, left_s: float) -> bool:
        """One step; False where it was not answered in time, or badly."""
        model, task = self._info.model, self._info.task
        asked = [question(model, task, step, secrets.randbits(40)) for _ in range(step.streams)]
        streams = [_Stream(self, step, path, body, model, task) for path, body in asked]
        self._streams.update(streams)
        for stream in streams:
            stream.open(self._engine)
        ends_s = self._clock() + left_s
        began = await self._in_time([stream.answering for stream in streams], min(left_s, STEP_S_MAX))
        if began:
            ended_s = DECODE_S if step.decodes else STEP_S_MAX
            await self._in_time([stream.ended for stream in streams], min(ends_s - self._clock(), ended_s))
        for stream in streams:
            stream.cancel()
        self._meter.next_batch(self._clock())
        return began and not self._aborted and all(stream.good for stream in streams)

    async def _in_time(self, waiting: list[asyncio.Future[None]], time_s: float) -> bool:
        """True when all of it came to pass. An abort resolves all futures: nothing waits for it."""
        _, late = await asyncio.wait(waiting, timeout=max(0.0, time_s))
        return not late

    # What streams call.

    @property
    def meter(self) -> Meter:
        return self._meter

    def now_s(self) -> float:
        return self._clock()

    def forget(self, stream: _Stream) -> None:
        self._streams.discard(stream)


class Calibrator:
    """The calibrations of one model, one for each life of its engine that wants one. `what`: said while one is
    `running`."""

    def __init__(self, meter: Meter, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._meter = meter
        self._clock = clock
        self._changed = changed
        self._seen: EngineInfo | None = None
        self._present: Calibration | None = None
        self._task: asyncio.Task[None] | None = None
        self.what = ""
        self.running = False

    def engine_ready(self, engine: Engine, info: EngineInfo, time_s: float) -> None:
        """May be called again for the same life. `time_s` 0: it is not to be measured."""
        if info is self._seen:
            return
        self._seen = info
        if time_s > 0:
            self._present = Calibration(engine, info, self._meter, self._clock)
            self.running = True
            self.what = "measuring its speed"
            self._task = asyncio.get_running_loop().create_task(self._run(self._present, time_s), name="calibration")

    def abort(self) -> None:
        """A client has come."""
        if self._present is not None:
            self._present.abort()

    async def stop(self) -> None:
        """Nothing is left running. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, calibration: Calibration, time_s: float) -> None:
        def say(what: str) -> None:
            self.what = what
            self._changed()

        try:
            complete = await calibration.run(time_s, say)
            log.info("speed measured", extra={"model": self._seen and self._seen.model, "complete": complete})
        finally:
            if self._present is calibration:
                self._present = None
                self.running = False
                say("")


class _Stream(PiecewiseSink):
    """One question: a sink of the engine. Futures are resolved once, whatever happens."""

    def __init__(self, run: Calibration, step: Step, path: str, body: bytes, model: str, task: Task) -> None:
        self._run = run
        self._meter = run.meter if step.counts else Meter()
        self._embeds = task is Task.EMBED
        self._prompt_tokens = step.prompt_tokens
        self._request = ForwardedRequest("calibration", 1, model, path, body, not self._embeds, step.prompt_tokens, 0)
        self._upstream: Upstream | None = None
        self._metered: Metered | None = None
        self._tail = b""
        self.good = True
        loop = asyncio.get_running_loop()
        self.answering: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()

    def open(self, engine: Engine) -> None:
        self._metered = self._meter.started(self._prompt_tokens, not self._embeds, self._run.now_s(), told=False)
        self._upstream = engine.open(self._request, self)

    def cancel(self) -> None:
        """Safe to call twice, and after its end."""
        if self._upstream is not None:
            self._upstream.cancel()
        self._over()

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.good = status == 200

    def data(self, chunk: bytes) -> None:
        metered = self._metered
        if metered is None or not self.good:
            return
        if self._embeds:
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]
            return
        self._meter.tokens(metered, len(_EVENT_WITH_TOKEN.findall(chunk)), self._run.now_s())
        if not metered.told:
            self._learn_length(metered, chunk)
        if metered.answering and not self.answering.done():
            self.answering.set_result(None)

    def end(self, failure: Failure | None) -> None:
        metered, found = self._metered, _PROMPT_TOKENS.findall(self._tail)
        self.good = self.good and failure is None
        if metered is not None and self.good and found:
            self._meter.answered_whole(metered, int(found[-1]), 0, self._run.now_s())
        self._over()

    def _learn_length(self, metered: Metered, chunk: bytes) -> None:
        """Its prompt's true length; nothing of it was cached."""
        found = _PROMPT_TOKENS.search(chunk)
        if found is not None:
            self._meter.told(metered, int(found[1]), 0)

    def _over(self) -> None:
        metered, self._metered = self._metered, None
        if metered is not None:
            self._meter.ended(metered, self._run.now_s())
        self._run.forget(self)
        for future in (self.answering, self.ended):
            if not future.done():
                future.set_result(None)
