"""One machine: covey_node's admission and meter around the model of an engine, and its load reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.flooded.loop import Costs, Loop
from tests.support.scheduling import MODEL, node

from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, Task
from covey_mesh.core.names import NodeId
from covey_node.core.admission import Admission, Bounds, Place, Ticket
from covey_node.core.measured import Measured
from covey_node.core.meter import Meter, Metered
from covey_node.core.simulated import BatchModel, Produced, SimulatedSettings

PREFILL_TOKENS_PER_S, DECODE_TOKENS_PER_S = 4000.0, 60.0
"""Of a machine of speed 1, as in bench/fairness.py."""

REPORT_EVERY_S = 0.1
"""A machine on which something changes reports so often at most."""


@dataclass(slots=True)
class Request:
    """One request. `first_at_s`: when its client had the first token; `heard_attempt`: of which the leader has said
    something."""

    name: str
    user: str
    gateway: int
    prompt_tokens: int
    output_tokens: int
    streaming: bool
    at_s: float
    then: Callable[[], None]
    attempt: int = 1
    heard_attempt: int = 0
    first_at_s: float = 0.0
    excluded: dict[NodeId, str] = field(default_factory=dict)

    @property
    def first_token_s(self) -> float:
        return self.first_at_s - self.at_s


class Machine:
    """`first` and `over` are told of each request's first and last token, `report` of the load. `given`: requests that
    the engine was given, by user."""

    def __init__(
        self,
        number: int,
        speed: float,
        loop: Loop,
        costs: Costs,
        first: Callable[[Request], None],
        over: Callable[[Request, NodeId], None],
        report: Callable[[Member], None],
    ) -> None:
        self.node_id = node(number + 1)
        self.waiting_most = 0
        self.given = Counter[str]()
        self._loop, self._costs = loop, costs
        self._first, self._over, self._report = first, over, report
        self._sequence = 0
        self._meter = Meter(0.0)
        self._measured = Measured(self._meter, Task.GENERATE)
        prefill, decode = speed * PREFILL_TOKENS_PER_S, speed * DECODE_TOKENS_PER_S
        self._batch = BatchModel(SimulatedSettings(prefill_tokens_per_s=prefill, decode_tokens_per_s=decode))
        limits = self._batch.settings
        bounds = Bounds.of_engine(limits.running_limit, limits.kv_cache_tokens, limits.max_context_tokens)
        self._admission = Admission(bounds, self._meter)
        self._open: dict[Ticket, tuple[Request, Metered | None]] = {}
        self._step_due_s: float | None = None
        self._reported_s = float("-inf")
        self._report_planned = False
        self._calibrate()

    def _calibrate(self) -> None:
        """As an agent does when its engine is ready."""
        for tokens in (256, 512, 1024):
            metered = self._meter.started(tokens, True, 0.0)
            first_s = self._batch.settings.step_s(tokens, 0)
            self._meter.tokens(metered, 1, first_s)
            self._meter.tokens(metered, 64, first_s + 64 * self._batch.settings.step_s(0, 1))
            self._meter.ended(metered, first_s + 64 * self._batch.settings.step_s(0, 1))

    def offer(self, request: Request) -> bool:
        """False: refused."""
        ticket = self._admission.offer(
            request.name, request.attempt, request.prompt_tokens, request.output_tokens, 0, self._loop.clock.now_s,
            request.streaming,
        ).ticket  # fmt: skip
        if ticket is None:
            return False
        self._open[ticket] = (request, None)
        self.waiting_most = max(self.waiting_most, self._admission.waiting)
        if ticket.place is Place.RUNNING:
            self._run(ticket)
        self.changed()
        return True

    def _run(self, ticket: Ticket) -> None:
        request, _ = self._open[ticket]
        now_s = self._loop.clock.now_s
        self._open[ticket] = (request, self._meter.started(request.prompt_tokens, request.streaming, now_s))
        self._advance()
        self.given[request.user] += 1
        self._batch.submit(ticket, request.prompt_tokens, request.output_tokens, now_s)
        self._watch()

    def _watch(self) -> None:
        due_s = self._batch.due_s()
        if due_s is not None and due_s != self._step_due_s:
            self._step_due_s = due_s
            self._loop.clock.at(due_s, self._advance)

    def _advance(self) -> None:
        for produced in self._batch.advance(self._loop.clock.now_s):
            self._produced(produced)
        self._watch()

    def _produced(self, produced: Produced) -> None:
        ticket = produced.key
        assert isinstance(ticket, Ticket)
        request, metered = self._open[ticket]
        assert metered is not None
        now_s = self._loop.clock.now_s
        if request.streaming:
            self._meter.tokens(metered, 1, now_s)
            self._admission.progressed(ticket, 1)
        if produced.tokens == 1:
            self._first(request)
        if not produced.finished:
            return
        if not request.streaming:
            self._admission.corrected(ticket, request.prompt_tokens, request.output_tokens)
            self._meter.answered_whole(metered, request.prompt_tokens, request.output_tokens, now_s, 0)
        self._meter.ended(metered, now_s)
        del self._open[ticket]
        for started in self._admission.release(ticket):
            self._run(started)
        self.changed()
        self._over(request, self.node_id)

    def changed(self) -> None:
        """A report follows soon."""
        if not self._report_planned:
            self._report_planned = True
            wait_s = max(0.0, self._reported_s + REPORT_EVERY_S - self._loop.clock.now_s)
            self._loop.do(self._costs.message_s, self._report_now, wait_s)

    def _report_now(self) -> None:
        self._report_planned, self._reported_s = False, self._loop.clock.now_s
        self._report(self.member())

    def member(self) -> Member:
        """The report as of now."""
        self._sequence += 1
        now_s, admission = self._loop.clock.now_s, self._admission
        load = ModelLoad(
            model=MODEL,
            state=EngineState.READY,
            engine="simulated",
            task=Task.GENERATE,
            max_context_tokens=admission.bounds.context_tokens,
            running_requests=admission.running,
            waiting_requests=admission.waiting,
            running_limit=admission.running_limit,
            waiting_limit=admission.bounds.waiting,
            queued_tokens=admission.queued_tokens,
            queued_prompt_tokens=admission.prompt_tokens_left(now_s),
            kv_cache_tokens_total=admission.bounds.kv_tokens,
            kv_cache_tokens_free=admission.kv_tokens_free,
            prefill_tokens_per_s=self._meter.prefill_tokens_per_s,
            decode_tokens_per_s=self._meter.stream_tokens_per_s(admission.running),
            speeds=self._measured.report(now_s, now_s),
            marks=admission.marks,
        )
        facts = NodeFacts(self.node_id, "host", "0", 1, 1)
        return Member(facts, NodeLoad(self.node_id, 1, self._sequence, (), (load,)), True)
