"""A pool in memory that answers the parts of cut requests with the simulated engine's own words, as a test directs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.support.gateway import A, B, C, FakeAttempt, FakeClient, FakeMesh, member
from tests.support.gateway_pool import Pool
from tests.support.simulated_attempt import CONTEXT_TOKENS, SimulatedAttempt
from tests.support.streams import CHAT

from covey_gateway.core.front import ActiveRequest, IncomingRequest
from covey_mesh.core.asking import AttemptReport, Outcome
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.names import NodeId
from covey_node.core import simulated_openai as openai
from covey_scheduler.core.sharding import ShardingSettings

EMBED = "/v1/embeddings"
STEPS_MAX = 20_000
DIED = Failure(FailureCode.LINK_LOST, "the link is gone")


def body_of(path: str, **fields: Any) -> bytes:
    own = {CHAT: {"messages": [{"role": "user", "content": "hello"}]}}.get(path, {})
    return json.dumps({"model": "m", **own, **fields}).encode()


def whole_answer(path: str, body: bytes) -> dict[str, Any]:
    """What one simulated engine answers to all of it, as JSON."""
    call = openai.parse(path, body, "m", path == EMBED, CONTEXT_TOKENS)
    tokens = sum(choice.output_tokens for choice in call.choices)
    found: dict[str, Any] = json.loads(openai.whole(call, "simulated", 0, tokens))
    return found


class PlayedPool:
    """A Pool whose leader and machines act in steps: each places a waiting ask or goes on with one attempt.

    `kill(step)`: whether the machine of the attempt that is next dies now, with all attempts it has.
    """

    def __init__(self, settings: ShardingSettings | None = None, mesh: FakeMesh | None = None) -> None:
        self.pool = Pool(mesh or FakeMesh(member(A, "m"), member(B, "m"), member(C, "m")), sharding=settings)
        self.steps = 0
        self.opened: list[FakeAttempt] = []
        self._asked = 0
        self._playing: list[FakeAttempt] = []
        self._streams: dict[int, SimulatedAttempt] = {}

    def submit(self, path: str, body: bytes, deadline_s: float | None = None) -> tuple[FakeClient, ActiveRequest]:
        client = FakeClient()
        active = self.pool.runner.submit(IncomingRequest(path, body, "ada", 1, deadline_s), client)
        assert client.heads == [], "the sink was called from inside submit"
        return client, active

    @property
    def served_by(self) -> set[NodeId]:
        return {attempt.node_id for attempt in self.opened}

    def play(self, kill: Callable[[int], bool] = lambda step: False) -> None:
        """Until nothing is left to do."""
        for _ in range(STEPS_MAX):
            self.pool.timers.settle()
            if not (self._place() or self._serve(kill)):
                if not self.pool.timers.pending:
                    return
                self.pool.timers.advance(0.1)
        raise AssertionError("the pool never settles")

    def _place(self) -> bool:
        """Each new ask goes to the next machine that it does not exclude."""
        mesh = self.pool.mesh
        withdrawn = {(r.request_id, r.attempt) for r in mesh.reports if isinstance(r, AttemptReport) and r.withdrawn}
        if self._asked >= len(mesh.asks):
            return False
        ask = mesh.asks[self._asked]
        self._asked += 1
        able = [node_id for node_id in mesh.members if node_id not in ask.excluded]
        if (ask.request_id, ask.attempt) in withdrawn:
            return True
        if able:
            mesh.answer(Outcome.ASSIGNED, able[self._asked % len(able)], ask=ask)
        else:
            mesh.answer(Outcome.NO_CANDIDATE, ask=ask, retry_after_ms=100)
        self._collect()
        return True

    def _collect(self) -> None:
        """What the gateway opened by its own choice too."""
        new = self.pool.mesh.attempts[len(self.opened) :]
        self.opened += new
        self._playing += new

    def _serve(self, kill: Callable[[int], bool]) -> bool:
        self._collect()
        self._playing = [attempt for attempt in self._playing if not attempt.cancelled]
        if not self._playing:
            return False
        self.steps += 1
        attempt = self._playing.pop(0)
        if kill(self.steps):
            dead = [attempt, *(other for other in self._playing if other.node_id == attempt.node_id)]
            self._playing = [other for other in self._playing if other.node_id != attempt.node_id]
            for each in dead:
                if not each.cancelled:
                    each.sink.end(DIED)
        elif not self._go_on(attempt):
            self._playing.append(attempt)
        return True

    def _go_on(self, attempt: FakeAttempt) -> bool:
        """One step of an answer; True with its last."""
        request = attempt.request
        if request.path == "/tokenize":
            attempt.answer(b"{}", 404)
            return True
        if not request.streaming:
            self._answer_whole(attempt)
            return True
        try:
            stream = self._streams.setdefault(id(attempt), SimulatedAttempt(attempt))
        except openai.CallError as error:
            attempt.answer(error.body, error.status)
            return True
        if not stream.begun:
            stream.role()
        elif stream.left:
            stream.tokens(1)
        else:
            stream.end()
        return stream.over

    def _answer_whole(self, attempt: FakeAttempt) -> None:
        request = attempt.request
        try:
            call = openai.parse(request.path, request.body, "m", request.path == EMBED, CONTEXT_TOKENS)
        except openai.CallError as error:
            attempt.answer(error.body, error.status)
            return
        tokens = sum(choice.output_tokens for choice in call.choices)
        attempt.answer(openai.whole(call, f"answer-{request.request_id}", 0, tokens))
