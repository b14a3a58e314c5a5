"""Stand-ins around the gateway: a clock with timers, an in-memory mesh, a client's sink. No sockets, no sleeping."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from covey_gateway.core.front import AnswerHead, ClientSink
from covey_gateway.core.observer import RequestSummary, SilentObserver
from covey_mesh.core.asking import Answer, Ask, AttemptReport, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.exchange import Failure, ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss, MeshListener, QueryHandler

SELF, A, B, C = (NodeId(letter * 32) for letter in "fabc")
STEPS_MAX = 100_000


class FakeHandle:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeTimers:
    """A virtual clock: time moves only in `advance`, callbacks run in order of time, then of registration."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s
        self._due: list[tuple[float, int, FakeHandle]] = []
        self._count = 0

    def clock(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], object]) -> FakeHandle:
        return self.call_later(0.0, callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> FakeHandle:
        handle = FakeHandle(callback)
        self._count += 1
        heapq.heappush(self._due, (self.now_s + delay, self._count, handle))
        return handle

    def settle(self) -> None:
        """Run all that is due now."""
        self.advance(0.0)

    def turn(self) -> None:
        """Run the first that is due now."""
        at_s, _, handle = heapq.heappop(self._due)
        assert at_s <= self.now_s
        if handle.callback is not None:
            handle.callback()

    def advance(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        for _ in range(STEPS_MAX):
            if not self._due or self._due[0][0] > until_s:
                break
            at_s, _, handle = heapq.heappop(self._due)
            self.now_s = max(self.now_s, at_s)
            if handle.callback is not None:
                handle.callback()
        else:
            raise AssertionError("timers never settle")
        self.now_s = until_s

    @property
    def pending(self) -> int:
        return sum(1 for _, _, handle in self._due if handle.callback is not None)


@dataclass
class FakeAttempt:
    """What the runner opened; the test plays the machine through `sink`."""

    node_id: NodeId
    request: ForwardedRequest
    sink: ResponseSink
    cancelled: bool = False
    paused: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def stream(self, *events: str) -> None:
        self.sink.head(200, "text/event-stream")
        for event in events:
            self.sink.data(f"data: {event}\n\n".encode())

    def answer(self, body: bytes, status: int = 200) -> None:
        self.sink.head(status, "application/json")
        self.sink.data(body)
        self.sink.end(None)


def member(node_id: NodeId, *models: str, state: EngineState = EngineState.READY, context: int = 2048) -> Member:
    loads = tuple(ModelLoad(model, state, "simulated", Task.GENERATE, context) for model in models)
    facts = NodeFacts(node_id, f"host-{node_id[0]}", "0", 1, 1)
    return Member(facts, NodeLoad(node_id, 1, 1, (), loads), reachable=True)


class FakeMesh:
    """Keeps what was sent and opened; the test answers for the others."""

    def __init__(self, *members: Member, leader: NodeId | None = A) -> None:
        self.leader = leader
        self.members = {m.node_id: m for m in members or (member(A, "m"), member(B, "m"), member(C, "m"))}
        self.listeners: list[MeshListener] = []
        self.sent: list[tuple[NodeId, Ask | Answer | AttemptReport]] = []
        self.attempts: list[FakeAttempt] = []
        self.unreachable: set[NodeId] = set()

    @property
    def self_id(self) -> NodeId:
        return SELF

    def view(self) -> PoolView:
        return PoolView(SELF, 1, self.leader, Ballot(1, self.leader or NodeId("")), self.members)

    def subscribe(self, listener: MeshListener) -> None:
        self.listeners.append(listener)

    def publish(self, load: NodeLoad) -> None:
        raise NotImplementedError

    def send(self, node_id: NodeId, message: Ask | Answer | AttemptReport) -> bool:
        if node_id in self.unreachable:
            return False
        self.sent.append((node_id, message))
        return True

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        attempt = FakeAttempt(node_id, request, sink)
        self.attempts.append(attempt)
        return attempt

    async def query(self, node_id: NodeId, kind: str, payload: bytes, timeout_s: float) -> bytes | None:
        raise NotImplementedError

    def answer_queries(self, kind: str, handler: QueryHandler) -> None:
        raise NotImplementedError

    # --- played by the test --------------------------------------------------------------------------------------

    @property
    def asks(self) -> list[Ask]:
        return [message for _, message in self.sent if isinstance(message, Ask)]

    @property
    def reports(self) -> list[AttemptReport]:
        return [message for _, message in self.sent if isinstance(message, AttemptReport)]

    def answer(
        self,
        outcome: Outcome,
        node_id: NodeId | None = None,
        ask: Ask | None = None,
        retry_after_ms: int = 0,
        by: NodeId | None = None,
    ) -> None:
        """The leader's word on the last ask."""
        ask = ask or self.asks[-1]
        answer = Answer(ask.request_id, ask.attempt, outcome, node_id, None, retry_after_ms)
        for listener in self.listeners:
            listener.answer_received(by or self.leader or A, answer)

    def assign(self, node_id: NodeId) -> FakeAttempt:
        self.answer(Outcome.ASSIGNED, node_id)
        return self.newest()

    def newest(self) -> FakeAttempt:
        """The attempt opened last; a question about tokens before it is answered as the simulated engine does."""
        if self.attempts[-1].request.path == "/tokenize":
            self.attempts[-1].answer(b"{}", 404)
        return self.attempts[-1]

    def lead(self, leader: NodeId | None) -> None:
        self.leader = leader
        for listener in self.listeners:
            listener.leadership_changed(leader, Ballot(2, leader or NodeId("")))

    def changed(self, node_id: NodeId) -> None:
        for listener in self.listeners:
            listener.member_changed(node_id)

    def lose(self, node_id: NodeId) -> None:
        for listener in self.listeners:
            listener.member_lost(node_id, LinkLoss.RESET)


@dataclass
class FakeClient(ClientSink):
    """A client's sink; checks the order of calls as it goes."""

    heads: list[AnswerHead] = field(default_factory=list)
    body: bytes = b""
    ended: int = 0
    failure: Failure | None = None

    def head(self, head: AnswerHead) -> None:
        assert not self.heads, "a second head"
        self.heads.append(head)

    def data(self, chunk: bytes) -> None:
        assert self.heads, "data before the head"
        assert not self.ended, "data after the end"
        assert chunk, "an empty chunk"
        self.body += chunk

    def end(self, failure: Failure | None) -> None:
        assert self.heads, "the end before the head"
        assert not self.ended, "a second end"
        self.ended += 1
        self.failure = failure

    @property
    def status(self) -> int:
        return self.heads[0].status if self.heads else 0


class CountingObserver(SilentObserver):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.summaries: list[RequestSummary] = []
        self.events: list[str] = []

    def request_started(self, path: str, model: str) -> None:
        self.started.append((path, model))

    def first_byte(self, model: str, node_id: NodeId, seconds: float) -> None:
        self.events.append(f"first_byte {model} {node_id[0]} {seconds:.3f}")

    def finished(self, summary: RequestSummary) -> None:
        self.summaries.append(summary)

    def straight(
        self, path: str, model: str, node_id: NodeId, seconds: float, prompt_tokens: int, output_tokens: int
    ) -> None:
        """As the two calls that it stands for."""
        self.first_byte(model, node_id, seconds)
        summary = RequestSummary(
            path=path, model=model, node_id=node_id, status=200, streaming=False, seconds=seconds, first_byte_s=seconds,
            chunks=0, prompt_tokens=prompt_tokens, output_tokens=output_tokens, attempts=1, broken=False,
        )  # fmt: skip
        self.finished(summary)

    def retried(self, reason: str) -> None:
        self.events.append(f"retried {reason}")

    def ask_timed_out(self) -> None:
        self.events.append("ask_timed_out")

    def decided_alone(self) -> None:
        self.events.append("decided_alone")

    def refused(self, reason: str) -> None:
        self.events.append(f"refused {reason}")

    def stream_broke(self, outcome: str, pause_s: float | None = None) -> None:
        self.events.append(f"stream_broke {outcome}" + ("" if pause_s is None else f" {pause_s:.3f}"))

    def stalled(self, model: str, node_id: NodeId, opened: bool) -> None:
        self.events.append(f"stalled {model} {node_id[0]}" + (" opened" if opened else ""))
