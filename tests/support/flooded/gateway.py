"""One gateway, as far as a flood concerns it: what it begins when, its asks, and what it decides alone meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from tests.support.flooded.loop import Costs, Loop
from tests.support.flooded.machine import Request
from tests.support.scheduling import MODEL

from covey_gateway.core.alone_pace import AlonePace
from covey_gateway.core.fair_starts import STARTS_A_TURN, FairStarts
from covey_gateway.core.request_placing import ASK_BUSY_S_MAX, LATE_TICK_S
from covey_gateway.core.settings import RequestSettings
from covey_gateway.core.waiting_line import CLOSED_S, alone_full
from covey_mesh.core.asking import Answer, Ask, Outcome
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core.leaderless import choose_alone

SETTINGS = RequestSettings()
WITHIN_S = SETTINGS.ask_acknowledged_within_s


class Gateway:
    """`ask` sends to the leader, `withdraw` takes an attempt back there, `open_on` opens on a machine. Without `fair`,
    everything that has arrived begins at once, and nothing that is decided alone is paced."""

    def __init__(
        self,
        node_id: NodeId,
        loop: Loop,
        costs: Costs,
        view: Callable[[], PoolView],
        ask: Callable[[Request, Ask], None],
        withdraw: Callable[[Request, int], None],
        open_on: Callable[[Request, NodeId], None],
        fair: bool,
    ) -> None:
        self.node_id = node_id
        self.decided_alone = 0
        self.in_flight: dict[NodeId, int] = {}
        self._loop, self._costs, self._view, self._fair = loop, costs, view, fair
        self._send, self._withdraw, self._open_on = ask, withdraw, open_on
        self._starts = FairStarts[Request]()
        self._pace = AlonePace()
        self._leader_heard_s = self._distrusts_until_s = float("-inf")
        self._random = random.Random(1)

    def arrived(self, request: Request) -> None:
        if not self._starts:
            self._loop.do(0.0, self._start_some)
        self._starts.add(request.user, request)

    def _start_some(self) -> None:
        for request in self._starts.take(STARTS_A_TURN if self._fair else SETTINGS.in_flight_max):
            self._loop.do(self._costs.start_s, lambda r=request: self.place(r))  # type: ignore[misc]
        if self._starts:
            self._loop.do(0.0, self._start_some)

    def place(self, request: Request) -> None:
        """Where may it run? As covey_gateway.core.request_placing."""
        now_s = self._loop.clock.now_s
        if now_s < self._distrusts_until_s:
            self._decide_alone(request)
            return
        self._send(request, self._as_ask(request))
        self._await_word(request, request.attempt, now_s)

    def _as_ask(self, request: Request) -> Ask:
        excluded, request.excluded = request.excluded, {}
        return Ask(
            request.name, request.attempt, MODEL, request.prompt_tokens, request.output_tokens, excluded=excluded,
            user=request.user, waited_s=self._loop.clock.now_s - request.at_s,
        )  # fmt: skip

    def _await_word(self, request: Request, attempt: int, asked_at_s: float) -> None:
        due_s = self._loop.clock.now_s + WITHIN_S

        def look() -> None:
            now_s = self._loop.clock.now_s
            if request.attempt != attempt or request.heard_attempt >= attempt:
                return
            alive = max(asked_at_s, now_s - WITHIN_S) < self._leader_heard_s and now_s - asked_at_s < ASK_BUSY_S_MAX
            if alive or now_s >= due_s + LATE_TICK_S:
                self._await_word(request, attempt, asked_at_s)
                return
            self._distrusts_until_s = now_s + SETTINGS.leader_distrusted_s
            self._withdraw(request, attempt)
            request.attempt += 1
            self._decide_alone(request)

        self._loop.do(0.0, look, WITHIN_S)

    def _decide_alone(self, request: Request) -> None:
        """As RequestRunner.decide_alone; its line is a pause here."""
        now_s, view, ask = self._loop.clock.now_s, self._view(), self._as_ask(request)
        full = alone_full(view, MODEL, self.in_flight)
        if self._fair:
            full |= self._pace.too_fast(ask, now_s)
        chosen, _ = choose_alone(
            replace(ask, excluded={**ask.excluded, **full}), view, self.in_flight, self._random.random
        )
        self.decided_alone += 1
        request.heard_attempt = request.attempt
        if chosen is None:
            self.again(request)
        else:
            self._pace.given(ask, chosen, view, now_s)
            self._open(request, chosen)

    def answered(self, request: Request, answer: Answer) -> None:
        """The leader's word."""
        self._leader_heard_s, self._distrusts_until_s = self._loop.clock.now_s, float("-inf")
        request.heard_attempt = max(request.heard_attempt, answer.attempt)
        if answer.attempt == request.attempt and answer.outcome is Outcome.ASSIGNED and answer.node_id is not None:
            self._open(request, answer.node_id)

    def _open(self, request: Request, node_id: NodeId) -> None:
        self.in_flight[node_id] = self.in_flight.get(node_id, 0) + 1
        self._open_on(request, node_id)

    def again(self, request: Request) -> None:
        """After a refusal."""
        request.attempt += 1
        self._loop.do(0.0, lambda: self.place(request), CLOSED_S)
