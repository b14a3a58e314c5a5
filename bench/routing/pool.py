"""A pool that serves a sample of a trace, in virtual time: gateways, links and machines are simulated; the leader is
covey_scheduler's own Scheduler, with its queue, its account and the policy under test.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.routing.engine import EngineProfile
from bench.routing.machine import MODEL, Attempt, Machine
from bench.routing.oracle import grant_sight
from bench.routing.trace import BLOCK_TOKENS, Request
from covey_mesh.core.asking import Ask, AttemptReport, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import Member, PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core import events
from covey_scheduler.core.scheduler import Scheduler
from covey_scheduler.core.settings import SchedulerSettings

LEADER = NodeId(f"{0xFFFF:032x}")
LINK_S = 0.001
"""One way between two machines."""

RETRY_S = 0.25
"""Wait of a gateway after a refusal."""


@dataclass(frozen=True, slots=True)
class Fault:
    """At `at_s` a machine dies (losing everything) or joins; a machine that has a join first is absent until then."""

    at_s: float
    machine: int
    joins: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    speeds: tuple[float, ...]
    report_s: float = 0.25
    faults: tuple[Fault, ...] = ()
    clairvoyant: bool = False
    profile: EngineProfile = field(default_factory=EngineProfile)


@dataclass(slots=True)
class Served:
    """What became of one request. `left_tokens` of output are still to come."""

    request: Request
    attempt: int = 1
    first_at_s: float | None = None
    done_at_s: float | None = None
    sent_tokens: int = 0
    excluded: dict[NodeId, str] = field(default_factory=dict)

    @property
    def first_token_s(self) -> float:
        assert self.first_at_s is not None
        return self.first_at_s - self.request.arrival_s

    @property
    def completion_s(self) -> float:
        assert self.done_at_s is not None
        return self.done_at_s - self.request.arrival_s


class Pool:
    """Runs once."""

    def __init__(self, requests: Sequence[Request], scenario: Scenario, settings: SchedulerSettings) -> None:
        self.now_s = 0.0
        self.scenario = scenario
        self.served = [Served(request) for request in requests]
        self.machines = [Machine(n, speed, scenario.profile) for n, speed in enumerate(scenario.speeds)]
        self.by_id = {machine.node_id: machine for machine in self.machines}
        self.members: dict[NodeId, Member] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._left = len(requests)
        self._view_version = 0
        self._step_due: dict[NodeId, float] = {}
        self._ticking_at_s: float | None = None
        self.scheduler = Scheduler(LEADER, settings)
        if scenario.clairvoyant:
            grant_sight(self.scheduler, self)

    def run(self) -> list[Served]:
        """All requests, in order of arrival, each complete."""
        self._see()
        self.scheduler.step(0.0, events.BecameLeader(Ballot(1, LEADER)))
        joining = {fault.machine for fault in self.scenario.faults if fault.joins}
        dying = {fault.machine for fault in self.scenario.faults if not fault.joins}
        for number, machine in enumerate(self.machines):
            machine.alive = number not in joining or number in dying
            if machine.alive:
                self.members[machine.node_id] = machine.member(0.0)
            self._at(self.scenario.report_s * (number + 1) / len(self.machines), lambda m=machine: self._report(m))
        self._see()
        for fault in self.scenario.faults:
            self._at(fault.at_s, lambda f=fault: self._fault(f))
        for served in self.served:
            self._at(served.request.arrival_s + LINK_S, lambda s=served: self._ask(s))
        while self._left:
            self.now_s, _, act = heapq.heappop(self._events)
            act()
        return self.served

    def fresh(self) -> None:
        """Everybody reports at this moment."""
        self.members = {m.node_id: m.member(self.now_s) for m in self.machines if m.alive}
        self._see()

    # --- gateways ---------------------------------------------------------------------------------------------

    def _ask(self, served: Served) -> None:
        request = served.request
        ask = Ask(
            f"{request.number}", served.attempt, MODEL, request.prompt_tokens + served.sent_tokens,
            request.output_tokens - served.sent_tokens if self.scenario.clairvoyant else 0,
            request.blocks[: request.prompt_tokens // BLOCK_TOKENS], dict(served.excluded),
            waited_s=self.now_s - request.arrival_s,
        )  # fmt: skip
        served.excluded.clear()
        self._step(events.AskReceived(LEADER, ask))

    def _again(self, served: Served, node_id: NodeId | None, why: str, wait_s: float) -> None:
        if node_id is not None:
            served.excluded[node_id] = why
            report = AttemptReport(f"{served.request.number}", served.attempt, node_id, failed=True)
            self._step(events.Reported(LEADER, report))
        served.attempt += 1
        self._at(self.now_s + wait_s, lambda: self._ask(served))

    def _send(self, served: Served, attempt: int, node_id: NodeId) -> None:
        machine, request = self.by_id[node_id], served.request
        if not machine.alive:
            self._again(served, node_id, "link lost", LINK_S)
            return
        prompt, output = request.prompt_tokens + served.sent_tokens, request.output_tokens - served.sent_tokens
        if machine.offer((request.number, attempt), prompt, output, request.blocks, self.now_s):
            self._watch(machine)
        else:
            self._again(served, node_id, "refused", RETRY_S)

    # --- machines ---------------------------------------------------------------------------------------------

    def _watch(self, machine: Machine) -> None:
        """Wake up when the engine's present step is over."""
        due_s = machine.engine.step_ends_at_s
        if due_s is not None and self._step_due.get(machine.node_id) != due_s:
            self._step_due[machine.node_id] = due_s
            self._at(due_s, lambda: self._advance(machine, due_s))

    def _advance(self, machine: Machine, due_s: float) -> None:
        if self._step_due.get(machine.node_id) != due_s or not machine.alive:
            return
        del self._step_due[machine.node_id]
        first, done = machine.advance(self.now_s)
        for attempt in first:
            served = self.served[attempt.key[0]]
            served.first_at_s = served.first_at_s if served.first_at_s is not None else self.now_s + LINK_S
        for attempt in done:
            self._done(attempt)
        self._watch(machine)

    def _done(self, attempt: Attempt) -> None:
        served = self.served[attempt.key[0]]
        served.done_at_s = self.now_s + LINK_S
        self._left -= 1
        tokens = attempt.sequence.output_tokens
        report = AttemptReport(
            f"{attempt.key[0]}", attempt.key[1], attempt.machine.node_id, output_tokens=tokens,
            prompt_tokens=attempt.sequence.prompt_tokens, cached_prompt_tokens=attempt.sequence.cached,
        )  # fmt: skip
        self._at(self.now_s + 2 * LINK_S, lambda: self._step(events.Reported(LEADER, report)))

    def _report(self, machine: Machine) -> None:
        if machine.alive:
            member = machine.member(self.now_s)
            self._at(self.now_s + LINK_S, lambda: self._reported(machine, member))
        self._at(self.now_s + self.scenario.report_s, lambda: self._report(machine))

    def _reported(self, machine: Machine, member: Member) -> None:
        if machine.alive:
            self.members = self.members | {machine.node_id: member}
            self._see()

    def _fault(self, fault: Fault) -> None:
        machine = self.machines[fault.machine]
        if fault.joins:
            machine.start()
            machine.alive = True
            self.members = self.members | {machine.node_id: machine.member(self.now_s)}
            self._see()
            return
        machine.alive = False
        lost = list(machine.attempts.values())
        self.members = {node_id: m for node_id, m in self.members.items() if node_id != machine.node_id}
        self._see()
        for attempt in lost:
            served = self.served[attempt.key[0]]
            served.sent_tokens += min(machine.engine.produced(attempt.sequence), attempt.sequence.output_tokens - 1)
            self._again(served, machine.node_id, "link lost", LINK_S)

    # --- the leader -------------------------------------------------------------------------------------------

    def _see(self) -> None:
        self._view_version += 1
        view = PoolView(LEADER, self._view_version, LEADER, Ballot(1, LEADER), self.members)
        self._step(events.ViewChanged(view))

    def _step(self, event: events.Event) -> None:
        if self.scenario.clairvoyant and not isinstance(event, events.ViewChanged):
            self.fresh()
        for reply in self.scheduler.step(self.now_s, event):
            answer = reply.answer
            served = self.served[int(answer.request_id)]
            if answer.attempt != served.attempt:
                continue
            if answer.outcome is Outcome.ASSIGNED:
                assert answer.node_id is not None
                self._at(
                    self.now_s + 2 * LINK_S,
                    lambda s=served, a=answer.attempt, n=answer.node_id: self._send(s, a, n),
                )
            elif answer.outcome is Outcome.NO_CANDIDATE:
                self._again(served, None, "", max(RETRY_S, answer.retry_after_ms / 1000))
        self._set_tick()

    def _set_tick(self) -> None:
        due_s = self.scheduler.wake_at_s
        if due_s is None or (self._ticking_at_s is not None and self.now_s < self._ticking_at_s <= due_s):
            return
        self._ticking_at_s = max(due_s, self.now_s)
        self._at(self._ticking_at_s, self._tick)

    def _tick(self) -> None:
        if self._ticking_at_s is not None and self._ticking_at_s <= self.now_s:
            self._ticking_at_s = None
            self._step(events.Tick())

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_s, self._count, act))
