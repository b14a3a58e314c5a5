"""All gateway processes of an agent: started, watched, restarted, ended; asks and answers find the right one.

Process 0 is the agent itself, which also listens; those here are 1, 2, ... Each takes its own connections of the common
address (SO_REUSEPORT) and is lost alone. Implements covey_mesh.core.ports.MeshListener. Not here: one process's
channel (port.py), what a process does (covey.gateway_process).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from covey_gateway.core.process_ids import process_of
from covey_gateway.core.restarting import in_a_row, restart_pause_s
from covey_gateway.io.processes.child import Child, start_child
from covey_gateway.io.processes.port import Port, Surroundings
from covey_mesh.core.asking import Answer, Ask, AttemptReport, Decision, GrantedWork
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.limits import DECISIONS_KEPT
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.io.codec_asking import decision_to_wire
from covey_mesh.wire.v1.pool_pb2 import ExplainRequestResponse

VIEW_EVERY_S = 0.05
"""Between two changes of the view that a process is told; a change of leader or a lost link is told at once."""

BEAT_S = 1.0
BEATS_MISSED_MAX = 5
"""Signs of life that may be due; a process that owes more hangs, and is killed."""

START_TIMEOUT_S = 60.0
"""From a process's start until it listens: a machine with all processors busy loading a model is slow."""

END_MARGIN_S = 2.0
"""Beyond the grace of requests in flight, until a process that was told to end is killed."""

_log = logging.getLogger(__name__)


class GatewayProcesses:
    """`command` starts one, `settings` makes what it reads first. `count`: how many beside the agent itself."""

    def __init__(
        self, count: int, command: Sequence[str], settings: Callable[[int], bytes], around: Surroundings
    ) -> None:
        self._numbers = range(1, count + 1)
        self._command = command
        self._settings = settings
        self._around = around
        self._loop: asyncio.AbstractEventLoop
        self._children: dict[int, Child] = {}
        self._assigned: OrderedDict[tuple[str, int], Decision] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._view_timer: asyncio.TimerHandle | None = None
        self._beat_timer: asyncio.TimerHandle | None = None
        self.restarts = 0
        self.hung = 0

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when each listens, or has failed to once: it is tried again meanwhile."""
        self._loop = asyncio.get_running_loop()
        begun = [self._loop.create_future() for _ in self._numbers]
        for number, first in zip(self._numbers, begun, strict=True):
            task = self._loop.create_task(self._keep(number, first), name=f"gateway process {number}")
            task.add_done_callback(self._kept)
            self._tasks.append(task)
        if begun:
            self._beat_timer = self._loop.call_later(BEAT_S, self._beat)
            await asyncio.wait(begun)

    async def stop(self, grace_s: float) -> None:
        """Requests in flight may finish within `grace_s`; then nothing is left. Safe to call twice."""
        self._stopping.set()
        for timer in (self._view_timer, self._beat_timer):
            if timer is not None:
                timer.cancel()
        for child in self._children.values():
            child.port.drain(grace_s)
        if self._children:
            await asyncio.wait(self._tasks, timeout=grace_s + END_MARGIN_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def running(self) -> dict[int, int]:
        """Number -> process id of those that listen now."""
        return {number: child.pid for number, child in self._children.items() if child.port.listening.done()}

    async def explain(self, kind: str, asked: bytes, timeout_s: float) -> bytes | None:
        """The record of a request that one of them took, by its id; None otherwise."""
        child = self._children.get(process_of(asked.decode(errors="replace")))
        found = None if child is None else await child.port.ask(kind, asked, timeout_s)
        return None if found is None else self._with_verdicts(found)

    def _with_verdicts(self, raw: bytes) -> bytes:
        """The verdicts on every machine did not go to the process (relayed.py)."""
        try:
            found = ExplainRequestResponse.FromString(raw)
        except DecodeError:
            return raw
        for decision in found.decisions:
            kept = self._assigned.get((decision.request_id, decision.attempt))
            if kept is not None and not decision.candidates:
                decision.CopyFrom(decision_to_wire(kept))
        return found.SerializeToString()

    # --- one process after the other ---------------------------------------------------------------------------------

    async def _keep(self, number: int, first: asyncio.Future[None]) -> None:
        """Starts process `number` again and again, until `stop`."""
        failures = 0
        while not self._stopping.is_set():
            started_s = self._loop.time()
            try:
                why = await self._run(number, first)
            except OSError as error:
                why = f"it cannot be started: {error.strerror or error}"
            finally:
                _settle(first)
            if self._stopping.is_set():
                return
            failures = in_a_row(failures, self._loop.time() - started_s)
            pause_s = restart_pause_s(failures)
            self.restarts += 1
            _log.warning(
                "a gateway process ended and is started again",
                extra={"gateway_process": number, "reason": why, "pause_s": pause_s},
            )
            await asyncio.sleep(pause_s)

    def _kept(self, task: asyncio.Task[None]) -> None:
        """A bug of ours is told where all are."""
        if not task.cancelled() and task.exception() is not None:
            about = {"message": f"the keeper of {task.get_name()} crashed", "exception": task.exception()}
            self._loop.call_exception_handler(about)

    async def _run(self, number: int, first: asyncio.Future[None]) -> str:
        """One process's life; returns how it ended. Raises OSError."""
        child = await start_child(self._command, self._settings(number), Port(self._around))
        self._children[number] = child
        child.port.tell_pool()
        unheard = self._loop.call_later(START_TIMEOUT_S, child.port.lost, "it did not begin to listen")
        child.port.listening.add_done_callback(lambda _: unheard.cancel())
        child.port.listening.add_done_callback(lambda _: _settle(first))
        try:
            return await child.over()
        finally:
            unheard.cancel()
            child.port.listening.cancel()
            del self._children[number]

    def _beat(self) -> None:
        self._beat_timer = self._loop.call_later(BEAT_S, self._beat)
        for number, child in list(self._children.items()):
            if child.port.listening.done() and child.port.beat() > BEATS_MISSED_MAX:
                self.hung += 1
                _log.error("a gateway process hangs and is killed", extra={"gateway_process": number, "pid": child.pid})
                child.port.lost(f"no sign of life for {BEATS_MISSED_MAX * BEAT_S:.0f} s")
        self._tell()

    # --- what they are told ------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        self._view_timer = None
        for child in self._children.values():
            child.port.tell_pool()

    def member_changed(self, node_id: NodeId) -> None:
        """Soon, with whatever else changes meanwhile."""
        if self._view_timer is None and self._children:
            self._view_timer = self._loop.call_later(VIEW_EVERY_S, self._tell)

    def leadership_changed(self, leader: NodeId | None, ballot: Ballot) -> None:
        """At once: what waits for a leader asks the new one."""
        for child in self._children.values():
            child.port.tell_pool()

    def member_lost(self, node_id: NodeId, loss: LinkLoss) -> None:
        """At once."""
        for child in self._children.values():
            child.port.tell_pool(((node_id, loss),))

    def answer_received(self, leader: NodeId, answer: Answer) -> None:
        """To the process that asked, if one of them did."""
        child = self._children.get(process_of(answer.request_id))
        if child is None:
            return
        child.port.answer(leader, answer)
        if answer.decision is not None and answer.decision.chosen is not None:
            self._assigned[answer.request_id, answer.attempt] = answer.decision
            if len(self._assigned) > DECISIONS_KEPT:
                self._assigned.popitem(last=False)

    def ask_received(self, gateway: NodeId, ask: Ask) -> None:
        """For the scheduler."""

    def attempt_reported(self, gateway: NodeId, report: AttemptReport) -> None:
        """For the scheduler."""

    def granted_work(self, gateway: NodeId, work: GrantedWork) -> None:
        """For the scheduler."""


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
