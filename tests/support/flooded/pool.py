"""The pool: agents with a machine and a gateway each, one of them leads; a flooding user and a light one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.support.flooded.gateway import Gateway
from tests.support.flooded.loop import LINK_S, Clock, Costs, Loop
from tests.support.flooded.machine import Machine, Request

from covey_mesh.core.asking import Ask, AttemptReport
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import Member, PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core import events
from covey_scheduler.core.scheduler import Scheduler

ARRIVALS_A_TURN = 64
"""Requests that a gateway's loop takes in before it looks at anything else."""

PAUSE_S = (0.05, 0.15)
"""Between two of the light user's requests."""


class FloodedPool:
    """`slowness`: how many times as long everything takes the agents' loops; `leader`: which agent leads.
    `deaf_until_s`: until then the leader looks at no ask."""

    def __init__(
        self,
        slowness: float = 1.0,
        leader: int = 0,
        fair: bool = True,
        speeds: Sequence[float] = (1.0, 0.5, 0.25),
    ) -> None:
        self.clock = Clock()
        self.running = 0
        self.deaf_until_s = 0.0
        self._costs = Costs()
        self._loops = [Loop(self.clock, slowness) for _ in speeds]
        self._leader = leader
        self._requests: dict[str, Request] = {}
        self._version = 0
        self._tick_at_s: float | None = None
        self._flooding = 0
        self.machines = [self._machine(number, speed) for number, speed in enumerate(speeds)]
        self.gateways = [self._gateway(number, fair) for number in range(len(speeds))]
        self._members = {machine.node_id: machine.member() for machine in self.machines}
        self._scheduler = Scheduler(self.machines[leader].node_id)
        self._see()
        self._step(events.BecameLeader(Ballot(1, self.machines[leader].node_id)))
        for machine in self.machines:
            machine.changed()

    def _machine(self, number: int, speed: float) -> Machine:
        loop = self._loops[number]

        def report(member: Member) -> None:
            self._at_leader(number, self._costs.message_s, lambda: self._reported(member))

        return Machine(number, speed, loop, self._costs, self._first, self._over, report)

    def _gateway(self, number: int, fair: bool) -> Gateway:
        own_id = self.machines[number].node_id

        def ask(request: Request, ask: Ask) -> None:
            event = events.AskReceived(own_id, ask)
            self._at_leader(number, self._costs.ask_s, lambda: self._step(event), self.deaf_until_s - self.clock.now_s)

        def withdraw(request: Request, attempt: int) -> None:
            self._tell(request, AttemptReport(request.name, attempt, withdrawn=True))

        return Gateway(own_id, self._loops[number], self._costs, self._view, ask, withdraw, self._open_on, fair)

    # --- clients ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until every request is over."""
        self.clock.run_while(lambda: self.running > 0)

    def flood(self, count: int, gateways: Sequence[int], prompt_tokens: int = 250, output_tokens: int = 100) -> None:
        """One user's requests, all at once; each gateway takes in some of them at each turn of its loop."""
        self._flooding += count
        self.running += count

        def over() -> None:
            self._flooding -= 1

        def turn(gateway: int, numbers: Sequence[int]) -> None:
            for i in numbers[:ARRIVALS_A_TURN]:
                self._send(Request(f"f{i}", "heavy", gateway, prompt_tokens, output_tokens, False, begun_s, over))
            if numbers[ARRIVALS_A_TURN:]:
                self._loops[gateway].do(0.0, lambda: turn(gateway, numbers[ARRIVALS_A_TURN:]))

        begun_s = self.clock.now_s
        for place, gateway in enumerate(gateways):
            turn(gateway, range(place, count, len(gateways)))

    def light(
        self,
        count: int = 10_000,
        seed: int = 1,
        gateway: int = -1,
        prompt_tokens: int = 1000,
        output_tokens: int = 16,
        pause_s: tuple[float, float] = PAUSE_S,
    ) -> list[Request]:
        """Another user's, one after the other: `count` of them, or as long as there is a flood."""
        rng, sent, beside = random.Random(seed), list[Request](), self._flooding > 0

        def begin() -> None:
            number = gateway % len(self.machines)
            name = f"l{len(self._requests)}"
            sent.append(Request(name, "light", number, prompt_tokens, output_tokens, True, self.clock.now_s, over))
            self._send(sent[-1])

        def over() -> None:
            if len(sent) < count and (self._flooding or not beside):
                self.running += 1
                self.clock.at(self.clock.now_s + rng.uniform(*pause_s), begin)

        self.running += 1
        begin()
        return sent

    def _send(self, request: Request) -> None:
        self._requests[request.name] = request
        gateway = self.gateways[request.gateway]
        self._loops[request.gateway].do(self._costs.arrival_s, lambda: gateway.arrived(request))

    # --- between the agents -----------------------------------------------------------------------------------

    def _at_leader(self, sender: int, cost_s: float, act: Callable[[], None], after_s: float = 0.0) -> None:
        self._loops[self._leader].do(cost_s, act, max(after_s, 0.0 if sender == self._leader else LINK_S))

    def _tell(self, request: Request, report: AttemptReport) -> None:
        gateway_id = self.gateways[request.gateway].node_id
        event = events.Reported(gateway_id, report)
        self._at_leader(request.gateway, self._costs.message_s, lambda: self._step(event))

    def _open_on(self, request: Request, node_id: NodeId) -> None:
        number = next(n for n, machine in enumerate(self.machines) if machine.node_id == node_id)
        attempt = request.attempt

        def opened() -> None:
            if attempt == request.attempt and not self.machines[number].offer(request):
                gateway = self.gateways[request.gateway]
                gateway.in_flight[node_id] -= 1
                request.excluded[node_id] = "resource_exhausted: full"
                self._tell(request, AttemptReport(request.name, attempt, node_id, failed=True, refused=True))
                gateway.again(request)

        self._loops[number].do(self._costs.message_s, opened, 0.0 if number == request.gateway else LINK_S)

    def _first(self, request: Request) -> None:
        def had() -> None:
            request.first_at_s = self.clock.now_s

        self._loops[request.gateway].do(self._costs.message_s, had, LINK_S)

    def _over(self, request: Request, node_id: NodeId) -> None:
        report = AttemptReport(
            request.name, request.attempt, node_id, output_tokens=request.output_tokens,
            prompt_tokens=request.prompt_tokens,
        )  # fmt: skip

        def told() -> None:
            self.running -= 1
            self.gateways[request.gateway].in_flight[node_id] -= 1
            self._tell(request, report)
            request.then()

        self._loops[request.gateway].do(self._costs.end_s, told, LINK_S)

    # --- the leader -------------------------------------------------------------------------------------------

    def _view(self) -> PoolView:
        leader = self.machines[self._leader].node_id
        return PoolView(leader, self._version, leader, Ballot(1, leader), self._members)

    def _reported(self, member: Member) -> None:
        self._members = self._members | {member.node_id: member}
        self._see()

    def _see(self) -> None:
        self._version += 1
        self._step(events.ViewChanged(self._view()))

    def _step(self, event: events.Event) -> None:
        for reply in self._scheduler.step(self.clock.now_s, event):
            request, answer = self._requests[reply.answer.request_id], reply.answer
            way_s = 0.0 if request.gateway == self._leader else LINK_S
            gateway = self.gateways[request.gateway]
            self._loops[request.gateway].do(
                self._costs.ask_s,
                lambda g=gateway, r=request, a=answer: g.answered(r, a),  # type: ignore[misc]
                way_s,
            )
        wake_at_s = self._scheduler.wake_at_s
        if wake_at_s is not None and (self._tick_at_s is None or wake_at_s < self._tick_at_s):
            at_s = self._tick_at_s = max(wake_at_s, self.clock.now_s)
            self._loops[self._leader].do(self._costs.message_s, lambda: self._tick(at_s), at_s - self.clock.now_s)

    def _tick(self, planned_s: float) -> None:
        """Unless another has been planned for an earlier time."""
        if planned_s == self._tick_at_s:
            self._tick_at_s = None
            self._step(events.Tick())
