"""Keeps one model's engine in its desired state: starts it, starts it again after a crash, gives up on a crash loop.

What follows what is the table of covey_node.core.lifecycle; this is the task around it. Requests go to `engine` only
while the state is READY. Not here: admission and reports (node.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from covey_mesh.core.facts import EngineState
from covey_node.core.engine import Engine, EngineInfo, EngineStartError
from covey_node.core.lifecycle import Event, Lifecycle
from covey_node.io.model_card import ModelCardError
from covey_node.io.runtime_files import RuntimeFolderError

log = logging.getLogger(__name__)

DETAIL_CHARACTERS_MAX = 500
HOPELESS = (ModelCardError, RuntimeFolderError)


class Supervisor:
    """One model. `make_engine` makes a fresh engine for each life and may raise what `Engine.start` may.

    `changed` is called after every change of state, information or detail; `went_down` when an engine that was ready
    no longer is.
    """

    def __init__(
        self,
        model: str,
        make_engine: Callable[[], Engine],
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.model = model
        self.info: EngineInfo | None = None
        self.detail = ""
        self.engine: Engine | None = None
        self.lifecycle = Lifecycle(clock())
        self._make_engine = make_engine
        self._clock = clock
        self._changed = changed
        self._progress: Callable[[str], None] = lambda _: None
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._condemned: asyncio.Future[str] | None = None

    @property
    def state(self) -> EngineState:
        return self.lifecycle.state

    @property
    def restarts(self) -> int:
        return self.lifecycle.restarts

    def start(self, progress: Callable[[str], None]) -> None:
        """Begin; the outcome is in `state` and told through `changed`. Once per stop."""
        self._progress = progress
        self._settled.clear()
        self._step(Event.START, "starting")
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name=f"engine of {self.model}")

    async def settled(self) -> None:
        """Until it is READY or FAILED for the first time since `start` (or stopped)."""
        await self._settled.wait()

    async def stop(self, grace_s: float) -> None:
        """Requests in flight have `grace_s`; then nothing is left running. Safe to call twice."""
        if self.state in (EngineState.STOPPED, EngineState.STOPPING):
            return
        self._step(Event.STOP, "stopping")
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.stop(grace_s)
        self.info = None
        self._step(Event.STOPPED, "")
        self._settled.set()

    def silent(self, detail: str) -> None:
        """READY, but nothing comes from it: nothing is sent to it until `answered`."""
        self._step(Event.SILENT, detail)

    def answered(self) -> None:
        """It had gone silent, and has given an answer again."""
        self._step(Event.ANSWERED, "")

    def condemn(self, cause: str) -> None:
        """End this engine and start another, as after a crash. Safe to call twice."""
        if self._condemned is not None and not self._condemned.done():
            self._condemned.set_result(cause)

    async def _supervise(self) -> None:
        try:
            await self._live_and_die()
        except Exception:  # our own bug: told loudly, and nobody waits for this engine for ever
            self._tell("covey failed while supervising this engine; see its log")
            self._settled.set()
            raise

    async def _live_and_die(self) -> None:
        while True:
            cause, hopeless = await self._one_life()
            retry = self.lifecycle.ended(self._clock(), hopeless=hopeless)
            if retry.after_s is None:
                self._tell(cause)
                self._settled.set()
                log.error("engine given up", extra={"model": self.model, "cause": cause})
                return
            self._tell(f"starting again in {retry.after_s:.0f} s: {cause}")
            log.warning("engine ended", extra={"model": self.model, "cause": cause, "retry_s": retry.after_s})
            await asyncio.sleep(retry.after_s)
            self._step(Event.BACKOFF_OVER, "starting again")

    async def _one_life(self) -> tuple[str, bool]:
        """From start to an end that nobody asked for: (cause, whether another start is hopeless)."""
        try:
            engine = self.engine = self._make_engine()
            self.info = await engine.start(self._on_progress)
        except HOPELESS as error:
            self.engine = None
            return str(error), True
        except (EngineStartError, OSError) as error:
            self.engine = None
            return str(error), False
        self._step(Event.ANSWERED, "")
        self._settled.set()
        log.info("engine ready", extra={"model": self.model})
        cause = await self._end_of(engine)
        self.engine = None
        await engine.stop(0.0)
        return cause, False

    async def _end_of(self, engine: Engine) -> str:
        """Its death, or its sentence; returns the cause."""
        loop = asyncio.get_running_loop()
        condemned = self._condemned = loop.create_future()
        died = loop.create_task(engine.wait_died())
        try:
            await asyncio.wait([died, condemned], return_when=asyncio.FIRST_COMPLETED)
            return died.result() if died.done() else condemned.result()
        finally:
            self._condemned = None
            died.cancel()

    def _on_progress(self, text: str) -> None:
        self._tell(text)
        self._progress(f"{self.model}: {text}")

    def _tell(self, detail: str) -> None:
        self.detail = detail[:DETAIL_CHARACTERS_MAX]
        self._changed()

    def _step(self, event: Event, detail: str) -> None:
        self.lifecycle.step(event, self._clock())
        self._tell(detail)
