"""One batch while it runs: its step, its lines in flight, and when each is asked again.

What comes next is decided in core/batches/state.py and results.py; this carries it out: reads bodies from disk, hands
them to the front door as ordinary requests of the class "batch" and of the batch's user, and judges what comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from collections import deque
from typing import Protocol

from covey_gateway.core.batches.lines import InputChecker, InputLine, LineError, body_of
from covey_gateway.core.batches.results import Again, Answered, Result, judge
from covey_gateway.core.batches.settings import BatchSettings
from covey_gateway.core.batches.state import Batch, Status, Step, accepted, next_step, rejected, wound_up
from covey_gateway.core.batches.window import Window
from covey_gateway.core.errors import Code, GatewayError
from covey_gateway.core.front import FrontDoor, IncomingRequest
from covey_gateway.core.retrying import BufferBudget
from covey_gateway.io.batches.library import BatchLibrary
from covey_gateway.io.batches.sink import LineSink

logger = logging.getLogger(__name__)

PRIORITY_BATCH = 2
LINES_READ_AT_ONCE = 512
LOOK_S = 0.25
"""How often a batch that waits looks at the pool and at its time."""


class JobOwner(Protocol):
    """The runner, as a job sees it."""

    library: BatchLibrary
    settings: BatchSettings
    door: FrontDoor
    answers: BufferBudget
    stopping: bool

    def now_s(self) -> float:
        """Of a clock that is never set."""

    def window(self, model: str) -> Window: ...

    def room(self, job: Job) -> int:
        """Lines that this job may start now."""

    def line_started(self, model: str, body_bytes: int) -> bool:
        """False where the bodies in flight leave no room for this one; the first one always has."""

    def line_ended(self, model: str, body_bytes: int, answered: bool, busy: bool) -> None:
        """A line is no longer in flight."""

    def offered(self, model: str) -> bool:
        """Some machine of the pool has the model, ready or coming."""

    def save(self, job: Job, result: Result) -> None:
        """To disk soon; `job.saved` follows."""

    def saving(self) -> str:
        """Why answers do not get to disk at present; "" where they do."""


class Job:
    """`run` returns when the batch has ended, or when the runner stops."""

    def __init__(self, owner: JobOwner, batch: Batch) -> None:
        self.batch = batch
        self.waits_for = ""
        self._owner = owner
        self._settings = owner.settings
        self._clock = owner.library.clock
        self._wake = asyncio.Event()
        self._flying: dict[int, tuple[LineSink, int]] = {}
        self._unsaved = 0
        self._pending: deque[InputLine] = deque()
        self._again: list[tuple[float, int, InputLine]] = []
        self._failures: dict[int, int] = {}
        self._read_up_to = -1

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    @property
    def wants_more(self) -> bool:
        """Lines are waiting to be asked."""
        return bool(self._pending) or (bool(self._again) and self._again[0][0] <= self._owner.now_s())

    def wake(self) -> None:
        """Something changed: look again."""
        self._wake.set()

    async def run(self) -> None:
        """Step by step; each is found again in the record after a crash."""
        while not self._owner.stopping:
            try:
                await self._refresh()
                step = next_step(self.batch, self._clock(), self.in_flight + self._unsaved)
                if step is Step.NOTHING:
                    return
                await self._carry_out(step)
            except GatewayError as error:
                await self._wait_for_disk(error)

    async def _wait_for_disk(self, error: GatewayError) -> None:
        """Nothing is lost: the record says where to go on."""
        if error.code not in (Code.STORAGE_FULL, Code.STORAGE_FAILED):
            raise error
        if self.waits_for != error.message:
            logger.warning("a batch waits for the disk: %s", error.message, extra={"batch": self.batch.id})
        self.waits_for = error.message
        await asyncio.sleep(self._settings.full_retry_s)

    async def _refresh(self) -> None:
        library = self._owner.library
        found = await library.call(library.batches.get, self.batch.id)
        assert found is not None, "a running batch vanished"
        self.batch = found

    async def _carry_out(self, step: Step) -> None:
        library, batch = self._owner.library, self.batch
        if step is Step.VALIDATE:
            await self._validate()
        elif step is Step.RUN:
            await self._run_lines()
        elif step is Step.STOP_RUNNING:
            self._stop_lines()
            await self._pause()
        elif step is Step.WIND_UP:
            now_s = self._clock()
            await library.call(library.batches.change, batch.id, lambda now: _unless_cancelled(now, now_s))
        elif step is Step.SETTLE:
            await library.call(library.batches.settle, batch.id, batch.unfinished_code)
        else:
            await self._close()

    async def _close(self) -> None:
        library = self._owner.library
        made = (library.new_id("file-"), library.new_id("file-"))
        kept_s = int(self._settings.kept_s)
        self.batch = await library.call(library.batches.close, self.batch.id, int(self._clock()), *made, kept_s)
        about = {"batch": self.batch.id, "status": self.batch.status.value, "failed_lines": self.batch.failed}
        logger.info("a batch has ended", extra=about)

    # --- validating ---------------------------------------------------------------------------------------------------

    async def _validate(self) -> None:
        library, batch = self._owner.library, self.batch
        file = await library.call(library.files.get, batch.input_file_id)
        if file is None:
            await self._judge_input([LineError("file_not_found", "The input file is gone.")], 0, "")
            return
        checker = InputChecker(batch.endpoint, self._settings)
        await library.call(library.batches.clear_lines, batch.id)
        async for piece in library.content(file):
            await library.call(self._check_piece, checker, piece)
            if checker.stopped or self._owner.stopping:
                break
        if self._owner.stopping:
            return
        await library.call(self._check_piece, checker, None)
        errors = list(checker.errors)
        if not errors and not await self._model_appears(checker.model):
            text = f"No machine of this pool has the model `{checker.model[:200]}`."
            errors = [LineError("model_not_found", text, None, "body.model")]
        if not self._owner.stopping:
            await self._judge_input(errors, checker.total, checker.model)

    def _check_piece(self, checker: InputChecker, piece: bytes | None) -> None:
        """On the database's thread: reading JSON takes time, too."""
        lines = checker.end() if piece is None else checker.feed(piece)
        if lines and not checker.errors:
            self._owner.library.batches.add_lines(self.batch.id, lines)

    async def _model_appears(self, model: str) -> bool:
        deadline_s = self._owner.now_s() + self._settings.model_wait_s
        while not self._owner.offered(model):
            if self._owner.now_s() >= deadline_s or self._owner.stopping:
                return False
            self.waits_for = f"a machine with the model {model[:200]}"
            await self._pause()
        self.waits_for = ""
        return True

    async def _judge_input(self, errors: list[LineError], total: int, model: str) -> None:
        now_s = self._clock()

        def change(batch: Batch) -> Batch:
            if batch.status is not Status.VALIDATING:
                # Cancelled meanwhile.
                return batch
            return rejected(batch, now_s, errors) if errors else accepted(batch, now_s, total, model)

        library = self._owner.library
        after = await library.call(library.batches.change, self.batch.id, change)
        about = {"batch": after.id, "lines": total, "mistakes": len(errors)}
        logger.info("a batch was validated", extra=about)

    # --- running ------------------------------------------------------------------------------------------------------

    async def _run_lines(self) -> None:
        """Start what there is room for; wait where there is none."""
        await self._read_more()
        started = False
        while self.wants_more and self._owner.room(self) > 0:
            if not await self._start_some():
                break
            started = True
        self.waits_for = self._reason()
        if not started or not self.wants_more:
            await self._pause(self._again[0][0] - self._owner.now_s() if self._again else LOOK_S)

    def _reason(self) -> str:
        trouble = self._owner.saving()
        if trouble:
            return trouble
        waiting = self._pending or self._again
        return "a machine that offers the model" if waiting and not self._owner.window(self.batch.model).size else ""

    async def _read_more(self) -> None:
        if self._pending:
            return
        library = self._owner.library
        found = await library.call(library.batches.unanswered, self.batch.id, self._read_up_to, LINES_READ_AT_ONCE)
        for line in found:
            self._read_up_to = line.number
            self._pending.append(line)

    def _next_line(self) -> InputLine | None:
        if self._again and self._again[0][0] <= self._owner.now_s():
            return heapq.heappop(self._again)[2]
        return self._pending.popleft() if self._pending else None

    async def _start_some(self) -> bool:
        """As many lines as there is room for. False where their bodies found none."""
        chosen: list[InputLine] = []
        for _ in range(self._owner.room(self)):
            line = self._next_line()
            if line is None:
                break
            if not self._owner.line_started(self.batch.model, line.length):
                self._pending.appendleft(line)
                break
            chosen.append(line)
        if not chosen:
            return False
        library, file_id = self._owner.library, self.batch.input_file_id
        bodies: list[bytes] = []
        try:
            bodies = await library.call(_read_bodies, library, file_id, chosen)
        finally:
            if not bodies or self._owner.stopping:
                self._put_back(chosen)
        if self._owner.stopping:
            return False
        for line, body in zip(chosen, bodies, strict=True):
            self._start(line, body)
        return True

    def _put_back(self, chosen: list[InputLine]) -> None:
        """They were not asked after all."""
        for line in reversed(chosen):
            self._owner.line_ended(self.batch.model, line.length, False, False)
            self._pending.appendleft(line)

    def _start(self, line: InputLine, body: bytes) -> None:
        owner = self._owner
        sink = LineSink(owner.answers, self._settings.answer_bytes_max, lambda answered: self._answered(line, answered))
        self._flying[line.number] = (sink, line.length)
        request = IncomingRequest(self.batch.endpoint, body, self.batch.user, PRIORITY_BATCH)
        sink.active = owner.door.submit(request, sink)

    def _answered(self, line: InputLine, answered: Answered) -> None:
        del self._flying[line.number]
        failures = self._failures.get(line.number, 0)
        verdict = judge(self.batch.id, line.number, line.custom_id, answered, failures, self._settings)
        again = isinstance(verdict, Again)
        self._owner.line_ended(self.batch.model, line.length, not again, isinstance(verdict, Again) and verdict.busy)
        if isinstance(verdict, Again):
            if not verdict.busy:
                self._failures[line.number] = failures + 1
            heapq.heappush(self._again, (self._owner.now_s() + verdict.after_s, line.number, line))
        else:
            self._failures.pop(line.number, None)
            self._unsaved += 1
            self._owner.save(self, verdict)
        self.wake()

    def saved(self, count: int) -> None:
        """Answers of this batch are on disk."""
        self._unsaved -= count
        self.wake()

    def _stop_lines(self) -> None:
        """Abort what is in flight; its lines stay without an answer."""
        for sink, body_bytes in list(self._flying.values()):
            sink.cancel()
            self._owner.line_ended(self.batch.model, body_bytes, False, False)
        self._flying.clear()
        self._pending.clear()
        self._again.clear()

    def abort(self) -> None:
        """The agent stops: what is in flight is asked again by the next one."""
        self._stop_lines()
        self.wake()

    async def _pause(self, seconds: float = LOOK_S) -> None:
        """Until something happens, or it is time to look."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S if seconds <= 0 else min(seconds, LOOK_S)):
                await self._wake.wait()
        self._wake.clear()


def _unless_cancelled(batch: Batch, now_s: float) -> Batch:
    return wound_up(batch, now_s) if batch.status is Status.IN_PROGRESS else batch


def _read_bodies(library: BatchLibrary, file_id: str, lines: list[InputLine]) -> list[bytes]:
    return [body_of(library.files.span(file_id, line.offset, line.length)) for line in lines]
