"""Runs the batches of this machine: one task for each that has not ended, one that writes answers, one for upkeep.

The windows of lines in flight (core/batches/window.py) are one for each model, shared evenly by its users, and by the
batches of each. Answers of one moment go to disk in one transaction. Not here: a batch's own steps (job.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from covey_gateway.core.batches.results import Result
from covey_gateway.core.batches.state import Batch
from covey_gateway.core.batches.window import Window, share, slots
from covey_gateway.core.errors import Code, GatewayError
from covey_gateway.core.front import FrontDoor
from covey_gateway.core.offer import COMING
from covey_gateway.core.retrying import BufferBudget
from covey_gateway.io.batches.job import Job
from covey_gateway.io.batches.library import BatchLibrary
from covey_mesh.core.facts import PoolView

logger = logging.getLogger(__name__)

UPKEEP_S = 60.0
LOOKS_A_CLEANING = 6
"""What is kept is counted this often between two deletions of what has expired."""

SLOTS_READ_EVERY_S = 0.25
UNSAVED_BYTES_MAX = 64 * 2**20
"""Answers waiting for the disk; above it no further line is started."""


class BatchRunner:
    """See JobOwner. `start` goes on with what an earlier agent left."""

    def __init__(
        self,
        library: BatchLibrary,
        door: FrontDoor,
        view: Callable[[], PoolView],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.library = library
        self.settings = library.settings
        self.door = door
        self.answers = BufferBudget(library.settings.answers_bytes_max)
        self.stopping = False
        self._view = view
        self._monotonic = monotonic
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._windows: dict[str, tuple[Window, float]] = {}
        self._flying: Counter[str] = Counter()
        self._body_bytes = 0
        self._unsaved: list[tuple[Job, Result]] = []
        self._unsaved_bytes = 0
        self._saving: asyncio.Task[None] | None = None
        self._trouble = ""
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.lines_ended: Counter[str] = Counter()
        self.kept = (0, 0)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if not self.library.is_open:
            return
        try:
            await self._go_on()
        except GatewayError as error:
            logger.error("batches of before do not go on: %s", error.message)
        self._spawn(self._upkeep())

    async def _go_on(self) -> None:
        for batch_id, _ in await self.library.call(self.library.batches.open_ids):
            found = await self.library.call(self.library.batches.get, batch_id)
            # A client may have made one meanwhile: that one runs already.
            if found is not None and batch_id not in self._jobs:
                self.add(found)

    def add(self, batch: Batch) -> None:
        """A batch that is on disk."""
        job = self._jobs[batch.id] = Job(self, batch)
        self._spawn(self._run(job))

    def wake(self, batch_id: str) -> None:
        """Its record was changed from outside."""
        job = self._jobs.get(batch_id)
        if job is not None:
            job.wake()

    async def stop(self, grace_s: float) -> None:
        """Start nothing more, give what is in flight that time, write what was answered."""
        self.stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._quiet.wait()
        for job in self._jobs.values():
            job.abort()
        if self._saving is not None and not self._trouble:
            await asyncio.wait({self._saving})
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        except Exception:
            logger.exception("bug: a batch stopped running until the agent is restarted", extra={"batch": job.batch.id})
        finally:
            if not self.stopping:
                self._forget(job)

    def _forget(self, job: Job) -> None:
        job.abort()
        self._jobs.pop(job.batch.id, None)
        if all(other.batch.model != job.batch.model for other in self._jobs.values()):
            self._windows.pop(job.batch.model, None)

    async def _upkeep(self) -> None:
        told = ""
        for look in itertools.count():
            cleaning = not look % LOOKS_A_CLEANING
            try:
                gone = await self.library.delete_expired() if cleaning else 0
                self.kept = await self.library.used()
            except GatewayError as error:
                if error.message != told:
                    logger.warning("files and batches were not looked after: %s", error.message)
                told = error.message
            else:
                told = "" if cleaning else told
                if gone:
                    logger.info("expired files were deleted", extra={"files": gone})
            await asyncio.sleep(UPKEEP_S / LOOKS_A_CLEANING)

    # --- for doors and metrics ----------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Lines being answered now."""
        return self._flying.total()

    @property
    def running(self) -> int:
        """Batches that have not ended."""
        return len(self._jobs)

    def window_size(self) -> int:
        """Lines that may be in flight now, over all models that batches ask."""
        return sum(self.window(model).size for model in {job.batch.model for job in self._jobs.values()} - {""})

    def waits_for(self, batch_id: str) -> str:
        """What a batch waits for; "" where it goes on."""
        job = self._jobs.get(batch_id)
        return "" if job is None else job.waits_for

    # --- JobOwner -----------------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        return self._monotonic()

    def window(self, model: str) -> Window:
        found = self._windows.get(model)
        now_s = self._monotonic()
        if found is not None and now_s - found[1] < SLOTS_READ_EVERY_S:
            return found[0]
        window = Window(self.settings) if found is None else found[0]
        window.follow(slots(self._view(), model, self.settings))
        self._windows[model] = (window, now_s)
        return window

    def room(self, job: Job) -> int:
        if self.stopping or self._trouble or self._unsaved_bytes > UNSAVED_BYTES_MAX:
            return 0
        model = job.batch.model
        size = self.window(model).size
        rivals = [other for other in self._jobs.values() if other.batch.model == model and _takes_part(other, job)]
        users = {other.batch.user for other in rivals}
        own = sum(1 for other in rivals if other.batch.user == job.batch.user)
        left_of_all = min(size - self._flying[model], self.settings.in_flight_max - self.in_flight)
        return max(0, min(left_of_all, share(share(size, len(users)), own) - job.in_flight))

    def line_started(self, model: str, body_bytes: int) -> bool:
        if self._body_bytes and self._body_bytes + body_bytes > self.settings.in_flight_bytes_max:
            return False
        self._body_bytes += body_bytes
        self._flying[model] += 1
        self._quiet.clear()
        return True

    def line_ended(self, model: str, body_bytes: int, answered: bool, busy: bool) -> None:
        self._body_bytes -= body_bytes
        self._flying[model] -= 1
        if not self._flying[model]:
            del self._flying[model]
        if not self._flying:
            self._quiet.set()
        if answered:
            self.window(model).answered()
        elif busy:
            self.window(model).busy(self._monotonic())

    def offered(self, model: str) -> bool:
        loads = [load for m in self._view().members.values() if m.reachable for load in m.load.models]
        return any(load.model == model and load.state in COMING for load in loads)

    def save(self, job: Job, result: Result) -> None:
        self._unsaved.append((job, result))
        self._unsaved_bytes += len(result.line)
        if self._saving is None:
            self._saving = self._spawn(self._save_all())

    def saving(self) -> str:
        return self._trouble

    async def _save_all(self) -> None:
        """All that has come meanwhile, in one transaction; then what came during that."""
        try:
            while self._unsaved:
                taken = list(self._unsaved)
                if not await self._saved([result for _, result in taken]):
                    await asyncio.sleep(self.settings.full_retry_s)
                    continue
                del self._unsaved[: len(taken)]
                for job, result in taken:
                    self._unsaved_bytes -= len(result.line)
                    self.lines_ended["failed" if result.failed else "completed"] += 1
                    job.saved(1)
        finally:
            self._saving = None

    async def _saved(self, results: list[Result]) -> bool:
        """False where the disk refuses: said once, tried again."""
        try:
            await self.library.call(self.library.batches.record, results)
        except GatewayError as error:
            if error.code not in (Code.STORAGE_FULL, Code.STORAGE_FAILED):
                raise
            if error.message != self._trouble:
                logger.warning("answers of batches wait for the disk: %s", error.message)
            self._trouble = error.message
            return False
        self._trouble = ""
        return True


def _takes_part(other: Job, job: Job) -> bool:
    return other is job or other.in_flight > 0 or other.wants_more
